"""The package from Python: train, compare, and bring your own parts. `import spfl` offers these names at once."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from spfl.compensation import Compensation
from spfl.config.files import assign, load_config
from spfl.config.names import COMPARED
from spfl.config.schema import Config, build_config
from spfl.custom import Custom, DrawFades, Gains, Partitioner, name_of
from spfl.data.dataset import Dataset
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, python_errors
from spfl.fleet.workers import Failure, map_processes
from spfl.learning.local import LocalRule
from spfl.learning.server import ServerRule
from spfl.plugins import own_scheme
from spfl.runs.comparison import COLUMNS, cells, tabulate
from spfl.runs.experiment import Existing, run_experiment
from spfl.runs.jsons import Json
from spfl.runs.results import Group, Run, html_table, plot
from spfl.scheme import Scheme
from spfl.tasks import Measure
from spfl.world.radio import carried

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OneOf = TypeVar("OneOf")
ConfigSource = Config | str | Path | Mapping[str, Any] | None


@python_errors()
def run(
    config: ConfigSource = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    scheme: str | Scheme | None = None,
    compensation: Compensation | None = None,
    dataset: Dataset | None = None,
    module: nn.Module | None = None,
    partition: Partitioner | None = None,
    gains: Gains | None = None,
    fades: DrawFades | None = None,
    local: LocalRule | None = None,
    server: ServerRule | None = None,
    loss: Measure | None = None,
    metric: Measure | None = None,
    out: Path | str | None = None,
    existing: Existing = "refuse",
    data_dir: Path | str | None = None,
    progress: Callable[[Json], None] = lambda _: None,
) -> Run:
    """Train one network over one lossy uplink, from start to end, and return what happened.

    A run with parts of your own can be resumed by the same call only, because its folder holds their names and not
    their code.

    Args:
        config: A `Config`, the path of a TOML file, or nested tables as in one; the defaults when None.
        overrides: Dotted keys and their values, as with `--set`: `{"training.rounds": 20}`.
        seed: Seed of every random stream, in place of the configuration's.
        scheme: The name of a scheme, or a `Scheme` of yours.
        compensation: What stands for a lost modulus, in place of the scheme's: a name or a `CompensationRule`.
        dataset: Images and labels in place of the configured ones.
        module: A network from inputs (n, ...) to outputs (n, classes) (docs/networks.md).
        partition: From (labels (n,), devices, rng) to one array of sample indices for each device.
        gains: From (round, rng) to mean power gains, linear, (device,).
        fades: From (round, cohort size, rng) to power fades of the sign and of the modulus packet, (cohort,) each.
        local: What a device computes in a round, in place of its gradient (docs/algorithms.md).
        server: The server's step, in place of the configured optimiser (docs/algorithms.md).
        loss: From (outputs, labels) of a batch to the mean loss, a tensor, in place of that of the task.
        metric: From (outputs, labels) of a batch to the mean score, told under its own name. Larger is better,
            unless its attribute `higher_is_better` is False.
        out: Folder for the results, as `spfl run --out` writes it. Without it they last as long as the returned Run.
        existing: What to do with a folder that is not empty: `refuse`, `overwrite` or `resume`.
        data_dir: Folder of datasets, before SPFL_DATA_DIR.
        progress: Called with the metrics of each round.

    Returns:
        The run: metrics, weights, allocation, figures.

    Raises:
        ConfigError: The configuration or a part breaks its rule.
        DataError: The data cannot be found, read or partitioned.
        RunFolderError: The folder cannot be used.
    """
    chosen = as_config(config, overrides)
    own, chosen = _own_scheme(chosen, scheme, compensation)
    parts = Custom(module, partition, gains, fades, own, local, server, loss, metric)
    chosen = _named(chosen, seed, dataset, module)
    data = dataset or load_dataset(chosen.data, data_dir)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="spfl-"))
    try:
        run_experiment(chosen, data, folder, existing=existing, custom=parts, progress=progress)
        done = Run.load(folder)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(done, shutil.rmtree, folder, ignore_errors=True)
    return done


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs of several schemes on the same batches, initial weights, gains and fades.

    Args:
        groups: The runs of each scheme, one a seed.
    """

    groups: Sequence[Group]

    @property
    def table(self) -> list[Json]:
        """A row a scheme: means and standard deviation over seeds, as `spfl compare --json` prints them."""
        told = [[run.summary | {"scheme": g.label, "seed": run.config.seed} for run in g.runs] for g in self.groups]
        return tabulate([summary for summaries in told for summary in summaries])

    def __repr__(self) -> str:
        return "\n".join(f"{row[0]}: {row[1]} ± {row[2]} % (n = {row[3]})" for row in map(cells, self.table))

    def to_pandas(self) -> pd.DataFrame:
        """All rounds of all runs in one long DataFrame: a row a run and round, with its scheme and seed."""
        from spfl.studies.long import rounds_table

        return rounds_table(self.groups).to_pandas()

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, map(cells, self.table))

    def plot(self) -> go.Figure:
        """Test accuracy of all schemes against rounds, payload or time: an interactive plotly figure."""
        return plot(self.groups)


@python_errors()
def compare(
    config: ConfigSource = None,
    schemes: Iterable[str | Scheme] = COMPARED,
    seeds: Iterable[int] = (0,),
    *,
    out: Path | str | None = None,
    workers: int = 1,
    **parts: Any,
) -> Comparison:
    """Train with every scheme and seed on the same batches, initial weights, gains and fades.

    Args:
        config: As in `run`.
        schemes: Names of schemes, or schemes of yours.
        seeds: One run of each scheme for each of them.
        out: Folder for the runs, OUT/SCHEME-SEED.
        workers: Runs at a time, each in a process of its own with one thread unless the configuration says how many.
            Results do not depend on it; `progress` is then called in those processes.
        parts: The other keywords of `run`.

    Returns:
        The runs in groups, one a scheme, with a table and a figure.

    Raises:
        SpflError: As `run` does; WorkerError when a run in a process fails.
    """
    chosen, numbers = _several("schemes", schemes), _several("seeds", seeds)
    for name in ("scheme", "seed"):
        if name in parts:
            raise ConfigError(f"{name} must be a list in a comparison, {name}s=[{parts[name]!r}], got {parts[name]!r}")
    signature(run).bind_partial(**parts)  # another keyword is a TypeError here, not in a process
    if workers < 1:
        raise ConfigError(f"workers must be >= 1, got {workers}")
    base = as_config(config, parts.pop("overrides", None))
    if parts.get("dataset") is None:
        parts["dataset"] = load_dataset(base.data, parts.get("data_dir"))
    if workers > 1:
        return _compare_in_processes(base, chosen, numbers, out, workers, parts)
    groups = []
    for scheme in chosen:
        runs = [run(base, scheme=scheme, seed=seed, out=_place(out, scheme, seed), **parts) for seed in numbers]
        groups.append(Group(_label(scheme), runs))
    return Comparison(groups)


def _several(name: str, given: Iterable[OneOf]) -> list[OneOf]:
    """The items of a list that is not empty. Raises ConfigError for one item by itself, such as seeds=5."""
    if isinstance(given, str | Scheme) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} must be a list such as [{given!r}], got {given!r}")
    items = list(given)
    if not items:
        raise ConfigError(f"{name} must not be empty")
    return items


def _label(scheme: str | Scheme) -> str:
    return scheme if isinstance(scheme, str) else scheme.name


def _place(out: Path | str | None, scheme: str | Scheme, seed: int) -> Path | None:
    return None if out is None else Path(out) / f"{_label(scheme)}-{seed}"


def _compare_in_processes(
    base: Config,
    schemes: Sequence[str | Scheme],
    seeds: Sequence[int],
    out: Path | str | None,
    workers: int,
    parts: Mapping[str, Any],
) -> Comparison:
    """As `compare`, several runs at a time. Folders without `out` last as long as the Comparison."""
    root = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="spfl-"))
    if base.workers == 0:
        base = base.model_copy(update={"workers": 1})
    jobs = [(scheme, seed) for scheme in schemes for seed in seeds]
    work = partial(_run_job, base, root, dict(parts))
    try:
        for (scheme, seed), answer in map_processes(work, jobs, workers):
            if isinstance(answer, Failure):
                raise answer.error(f"{_label(scheme)}, seed {seed}")
        done = [Group(_label(s), [Run.load(root / f"{_label(s)}-{seed}") for seed in seeds]) for s in schemes]
    except BaseException:
        if out is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    comparison = Comparison(done)
    if out is None:
        weakref.finalize(comparison, shutil.rmtree, root, ignore_errors=True)
    return comparison


def _run_job(base: Config, root: Path, parts: Mapping[str, Any], job: tuple[str | Scheme, int]) -> None:
    scheme, seed = job
    run(base, scheme=scheme, seed=seed, out=_place(root, scheme, seed), **parts)


def as_config(source: ConfigSource, overrides: Mapping[str, Any] | None = None) -> Config:
    """A configuration from what `run` takes. Raises ConfigError."""
    if source is None or isinstance(source, str | Path):
        source = load_config(Path(source) if source is not None else None)
    if isinstance(source, Config) and not overrides:
        return source
    values = (
        source.model_dump(exclude_unset=True)
        if isinstance(source, Config)
        else {k: _copy(v) for k, v in source.items()}
    )
    for key, value in (overrides or {}).items():
        assign(values, key, value)
    return build_config(values)


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _own_scheme(
    config: Config, scheme: str | Scheme | None, compensation: Compensation | None
) -> tuple[Scheme | None, Config]:
    """The caller's scheme, if it is not one that the configuration can name; and the configuration that names it."""
    if isinstance(scheme, str):
        config, scheme = _with_scheme(config, name=scheme), None
    if compensation is not None:
        scheme = replace(carried(config, scheme or own_scheme(config)), compensation=compensation)
        scheme = replace(scheme, name=f"{scheme.name}+{name_of(compensation)}")
        config = _with_scheme(config, compensation=None)
    return scheme, config if scheme is None else _with_scheme(config, name=scheme.name)


def _with_scheme(config: Config, **keys: Any) -> Config:
    return config.model_copy(update={"scheme": config.scheme.model_copy(update=keys)})


def _named(config: Config, seed: int | None, dataset: Dataset | None, module: nn.Module | None) -> Config:
    """The configuration, with the seed, and with the names of the caller's dataset and network."""
    update: dict[str, Any] = {} if seed is None else {"seed": seed}
    if dataset is not None:
        update["data"] = config.data.model_copy(update={"name": dataset.name})
    if module is not None:
        update["model"] = config.model.model_copy(update={"name": name_of(module)})
    return config.model_copy(update=update)
