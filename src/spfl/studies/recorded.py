"""Run folders as a study: a comparison, a single run, or whatever runs lie in a folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from spfl.config.schema import NO_EFFECT
from spfl.errors import RunFolderError
from spfl.files import is_file
from spfl.runs.experiment import flatten
from spfl.runs.jsons import Json
from spfl.runs.metrics import metric_in
from spfl.runs.results import Group, Run, read_groups
from spfl.studies.runner import measure
from spfl.studies.study import Study, read_study
from spfl.studies.tables import TABLE

ALWAYS = ("scheme.name", "seed")


def read_any_study(folder: Path) -> Study:
    """The study in the folder of a sweep, a comparison or a run. Raises RunFolderError for any other folder."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder")
    groups = [] if is_file(folder / TABLE) else read_groups(folder)
    return study_of_groups(groups) if groups else read_study(folder)


def study_of_groups(groups: Sequence[Group]) -> Study:
    """A study whose points are runs. Runs without an evaluation are left out; RunFolderError when none has one."""
    runs = [run for group in groups for run in group.runs if run.summary[f"{run.metric}_last"] is not None]
    if not runs:
        raise RunFolderError(f"{groups[0].runs[0].folder} has no evaluation yet")
    if len(metrics := {metric_in(run.summary) for run in runs}) > 1:
        raise RunFolderError(f"runs with different scores make no study: {', '.join(sorted(metrics))}")
    swept = swept_keys(runs)
    settings = [{key: flatten(run.config).get(key) for key in swept} for run in runs]
    return Study([_row(str(i), run, settings[i]) for i, run in enumerate(runs)], swept)


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """Scheme and seed, and every other key in which runs differ."""
    flat = [flatten(run.config) for run in runs]
    differing = [key for key in flat[0] if key not in NO_EFFECT and len({str(one.get(key)) for one in flat}) > 1]
    return list(dict.fromkeys([*ALWAYS, *differing]))


def _row(key: str, run: Run, settings: Json) -> Json:
    config = run.config
    about = {"key": key, "scheme": config.scheme.name, "seed": config.seed}
    about |= {"validation": config.data.validation_fraction > 0, "uplink_s_per_round": _uplink_s(run)}
    settings = {key: str(value) if isinstance(value, list | tuple) else value for key, value in settings.items()}
    return about | measure(run.rounds) | settings


def _uplink_s(run: Run) -> float:
    """Seconds of uplink a round, as `Radio.tau_s`; NaN as long as the size of the network is not known."""
    channel, weights = run.config.channel, run.weights
    if channel.tau_s is not None or weights is None:
        return channel.tau_s or math.nan
    symbols = channel.symbols_per_parameter * run.config.cohort * sum(tensor.size for tensor in weights.values())
    return symbols / channel.bandwidth_hz
