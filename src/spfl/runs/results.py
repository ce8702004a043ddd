"""Runs read back from their folders, grouped by configuration, and what they add up to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load

from spfl.arrays import Floats
from spfl.config.files import dotted
from spfl.config.schema import NO_EFFECT, Config
from spfl.errors import RunFolderError, plain_errors
from spfl.figures.curves import Importance, ScoreCurve, SpentCurve
from spfl.figures.scores import ScoreKind, common, shown
from spfl.files import check_folder, is_file, read_file
from spfl.runs.experiment import ENVIRONMENT, SUMMARY, WEIGHTS, flatten, read_config, read_json
from spfl.runs.folders import below
from spfl.runs.health import course_of, findings
from spfl.runs.jsons import Json
from spfl.runs.metrics import ALLOCATION, DEVICES, LOWER, PARTS, metric_of, read_metrics, score_of, summarise
from spfl.runs.parquet import read_table, values
from spfl.runs.past import METRICS

if TYPE_CHECKING:
    import plotly.graph_objects as go


Value = Callable[[Json], float | None]
SHOWN = ("scheme", "seed", "rounds", "accuracy_last", "accuracy_final", "mean_q_s", "payload_bits", "joules", "digest")


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder as far as it has come. Tables are read when they are asked for; what is missing is None.

    Args:
        folder: Where the run is.
        config: Its resolved configuration.
        rounds: The metrics of each round, as in `metrics.jsonl`.
    """

    folder: Path
    config: Config
    rounds: Sequence[Json]

    @classmethod
    def load(cls, folder: Path | str) -> Run:
        """The run in a folder, finished or not.

        Args:
            folder: A run folder.

        Returns:
            The run as far as it has come.

        Raises:
            RunFolderError: There is no run in the folder, or its files cannot be read.
            ConfigError: Its configuration is not one of this version.
        """
        path = Path(folder)
        return cls(path, read_config(path), list(read_metrics(path)))

    def __repr__(self) -> str:
        score = self.summary[f"{self.metric}_final"]
        reached = "no evaluation yet" if score is None else f"test {self.metric} {shown(self.metric, score)}"
        return f"Run({self.config.scheme.name}, seed {self.config.seed}: {reached} after {len(self.rounds)} rounds)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the totals of the run."""
        told = {"scheme": self.config.scheme.name, "seed": self.config.seed, **self.summary}
        keys = [key for name in SHOWN if told.get(key := name.replace("accuracy", self.metric)) is not None]
        words = [f"{told[key]:.4g}" if isinstance(told[key], float) else str(told[key]) for key in keys]
        return html_table(["", "run"], zip(keys, words, strict=True))

    @cached_property
    def metrics(self) -> pa.Table:
        """A row a round; nested values under dotted names. `.to_pandas()` makes a DataFrame of any of these tables."""
        return pa.Table.from_pylist([dotted(values) for values in self.rounds])

    @cached_property
    def weights(self) -> dict[str, NDArray[Any]] | None:
        """Final weights by tensor name; None for a run that is not finished."""
        path = self.folder / WEIGHTS
        return load(read_file(path)) if is_file(path) else None

    def plot(self) -> go.Figure:
        """Test score against rounds, payload or time: an interactive plotly figure."""
        return plot([Group(self.config.scheme.name, [self])])

    @property
    def metric(self) -> str:
        """What the score is: accuracy, f1, r2 or the caller's own."""
        return metric_of(self.rounds[0]) if len(self.rounds) else "accuracy"

    @property
    def finished(self) -> bool:
        return is_file(self.folder / SUMMARY)

    @cached_property
    def summary(self) -> Json:
        """Accuracies, totals and the digest of the rounds there are: see `metrics.summarise`."""
        return summarise(self.rounds)

    @cached_property
    def health(self) -> dict[str, str]:
        """What is wrong with a run that ended without an error, by rule: a line with what to change."""
        classes = self.environment.get("dataset", {}).get("classes")
        table = None if self.allocation is None else numbers(self.allocation, "device", "sign")
        return findings(course_of(self.rounds, classes, table))

    @cached_property
    def environment(self) -> Json:
        """Versions, machine, commit, data; empty for a folder that has lost it."""
        return read_json(self.folder / ENVIRONMENT) if is_file(self.folder / ENVIRONMENT) else {}

    @cached_property
    def devices(self) -> pa.Table | None:
        """A row a device; None for a run of a version that wrote no devices.parquet."""
        path = self.folder / DEVICES
        return read_table(path) if is_file(path) else None

    @cached_property
    def allocation(self) -> pa.Table | None:
        """A row a round and device of the cohort; None before the first checkpoint."""
        paths = [path] if is_file(path := self.folder / ALLOCATION) else sorted(self.folder.glob(PARTS))
        return pa.concat_tables([read_table(path) for path in paths]) if paths else None

    def by_device(self, *names: str) -> dict[str, Floats]:
        """Means over the rounds in which a device took part, (device,); NaN for one that never did."""
        rows = numbers(self.allocation, "device", *names)
        count = np.bincount(rows["device"], minlength=self.config.data.devices).astype(np.float64)
        count[count == 0] = np.nan
        sums = {name: np.bincount(rows["device"], rows[name], self.config.data.devices) for name in names}
        return {name: total / count for name, total in sums.items()}


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only."""

    label: str
    runs: Sequence[Run]

    @property
    def scheme(self) -> str:
        return self.runs[0].config.scheme.name

    @property
    def one_packet(self) -> bool:
        """Whether signs and moduli always share their fate."""
        return all(r["signs_received"] == r["moduli_received"] for run in self.runs for r in run.rounds)

    def series(self, value: Value) -> tuple[NDArray[np.int64], Floats]:
        """Rounds (x,) that all runs have, and a value of their metrics (seed, x), where there is one."""
        every = [[(r["round"], v) for r in run.rounds if (v := value(r)) is not None] for run in self.runs]
        length = min(map(len, every))
        rounds = np.array([round_ for round_, _ in every[0][:length]], np.int64)
        return rounds, np.array([[v for _, v in one[:length]] for one in every], np.float64).reshape(len(every), length)

    def mean(self, value: Value) -> float | None:
        """Of a value of the summaries, over seeds."""
        found = [v for run in self.runs if (v := value(run.summary)) is not None]
        return statistics.fmean(found) if found else None

    @property
    def metric(self) -> str:
        """What the score of these runs is."""
        return self.runs[0].metric

    @property
    def sign(self) -> int:
        """What makes more of the score better."""
        return ScoreKind(self.metric, bool(self.runs[0].summary.get(LOWER))).sign

    def score(self, when: str) -> float | None:
        """The score over seeds: last (mean of the last quarter of the evaluations), final or best."""
        return self.mean(lambda summary: summary[f"{self.metric}_{when}"])

    def spread(self, name: str) -> float | None:
        """Standard deviation (n - 1) over seeds of a value of the summaries; None for fewer than two."""
        found = [run.summary[name] for run in self.runs if run.summary[name] is not None]
        return statistics.stdev(found) if len(found) > 1 else None


def read_groups(folder: Path) -> list[Group]:
    """The runs in a run folder, or in the folders of a comparison or of a sweep that kept its runs.

    Raises RunFolderError when there is none that has finished a round.
    """
    every = group_runs(run_folders(folder))
    groups = [Group(label, runs) for label, members in every.items() if (runs := _read_runs(members))]
    return sorted(groups, key=lambda group: group.sign * (group.score("last") or 0.0), reverse=True)


def run_folders(folder: Path) -> list[Path]:
    """The run folders in a folder: itself, those of a comparison, or of a sweep that kept its runs."""
    if is_file(folder / METRICS):
        return [folder]
    inner = sorted(p.parent for p in folder.glob(f"*/{METRICS}"))
    inner = inner or sorted(p.parent for p in below(folder, "runs").glob(f"*/{METRICS}"))
    return [check_folder(path) for path in inner]


def _read_runs(folders: Sequence[Path]) -> list[Run]:
    runs = [Run.load(path) for path in folders]
    return sorted((run for run in runs if run.rounds), key=lambda run: run.config.seed)


@plain_errors()
def plot(groups: Sequence[Group]) -> go.Figure:
    """Test score of groups against rounds, payload, time or energy."""
    from spfl.figures.interactive import score_figure

    return score_figure([progress(group) for group in groups])[0]


def progress(group: Group) -> SpentCurve:
    """How the score of a group grew, against rounds and against what had been spent (mean over seeds)."""
    rounds, score = group.series(score_of)
    known = [name for name in ("payload_bits", "round_s", "joules") if name in group.runs[0].rounds[0]]
    spent: dict[str, Floats] = {name: _until([run.rounds for run in group.runs], name, rounds) for name in known}
    return SpentCurve(group.label, rounds, score, spent, group.metric)


def _until(courses: Iterable[Iterable[Json]], name: str, rounds: NDArray[np.int64]) -> Floats:
    """What had been spent at the end of each of the rounds, mean over runs, (evaluation,); from all their rounds."""
    totals = [np.cumsum([values.get(name) or 0.0 for values in course]) for course in courses]
    return np.asarray(np.mean([total[rounds - 1] for total in totals], axis=0), np.float64)


def html_table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table for a notebook, its texts escaped."""
    head = "".join(f"<th>{escape(str(word))}</th>" for word in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(word))}</td>' for word in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def numbers(table: pa.Table | None, *names: str) -> dict[str, NDArray[Any]]:
    """Columns of a table as arrays; empty ones where there is no table."""
    return {name: np.array([], np.int64) if table is None else values(table[name]) for name in names}


def differing(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Keys of the configuration in which groups differ, with the value of each."""
    flat = [flatten(group.runs[0].config) for group in groups]
    keys = [key for key in flat[0] if key not in ("seed", *NO_EFFECT) and len({str(f[key]) for f in flat}) > 1]
    return [(key, [str(f[key]) for f in flat]) for key in keys]


def check_report(folder: Path, groups: Sequence[Group], has_table: bool) -> None:
    """Raises RunFolderError for a folder of which nothing can be reported."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder")
    if not groups and not has_table:
        raise RunFolderError(f"{folder} holds no run that has finished a round, and no results of a sweep")


def read_curves(folders: Iterable[Path], along: str = "round") -> list[ScoreCurve]:
    """Curves of run folders, those of one configuration together, in the order in which they are met.

    `along` is what they are drawn against: round, or what is spent: payload_bits, round_s or joules.
    A label is the scheme, and each setting in which the configurations differ. Unfinished runs shorten the curve.
    Raises RunFolderError for a folder that is no run or has no evaluation yet.
    """
    curves = {label: (_curve(label, members), members) for label, members in group_runs(folders).items()}
    if along == "round":
        return [curve for curve, _ in curves.values()]
    return [
        replace(curve, spent=_until(map(read_metrics, members), along, curve.rounds))
        for curve, members in curves.values()
    ]


def group_runs(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Run folders that differ in the seed only, by a label that tells the groups apart, in the order they are met.

    Raises RunFolderError for a folder that is no run.
    """
    groups: dict[tuple[Any, ...], list[Path]] = {}
    for folder in folders:
        settings = flatten(read_config(folder))
        key = tuple((name, value) for name, value in settings.items() if name not in ("seed", *NO_EFFECT))
        groups.setdefault(key, []).append(folder)
    return dict(zip(_labels([dict(key) for key in groups]), groups.values(), strict=True))


def _labels(settings: Sequence[dict[str, Any]]) -> list[str]:
    differ = [key for key in settings[0] if len({str(s[key]) for s in settings}) > 1] if settings else []
    notes = [[f"{key} = {s[key]}" for key in differ if key != "scheme.name"] for s in settings]
    return [
        s["scheme.name"] + (f" ({', '.join(note)})" if note else "") for s, note in zip(settings, notes, strict=True)
    ]


def _curve(label: str, folders: Sequence[Path]) -> ScoreCurve:
    series = [
        [(m["round"], score, metric_of(m)) for m in read_metrics(folder) if (score := score_of(m)) is not None]
        for folder in folders
    ]
    length = min(map(len, series))
    if not length:
        empty = folders[[len(s) for s in series].index(0)]
        raise RunFolderError(f"{empty} has no evaluation yet")
    table = np.array([[row[:2] for row in s[:length]] for s in series])
    return ScoreCurve(label, table[0, :, 0].astype(np.int64), table[:, :, 1], common(s[0][2] for s in series))


def read_importance(folders: Iterable[Path], groups: int = 5) -> list[Importance]:
    """What devices got and how often they were received, by importance, of finished runs; seeds together.

    Raises RunFolderError for a folder that is no run, or that has no finished allocation.parquet with weights.
    """
    return [_importance(label, members, groups) for label, members in group_runs(folders).items()]


def _importance(label: str, folders: Sequence[Path], groups: int) -> Importance:
    columns = ["round", "weight", "gradient_norm", "beta", "sign", "modulus"]
    means = []
    for folder in folders:
        try:
            table = read_table(folder / ALLOCATION, columns)
        except (OSError, RunFolderError) as error:
            raise RunFolderError(f"{folder / ALLOCATION} has no allocations by importance: {error}") from None
        rows = {name: table[name].to_numpy() for name in columns}
        rounds, size = np.unique(rows["round"]).size, table.num_rows // np.unique(rows["round"]).size
        order = np.argsort((rows["weight"] * rows["gradient_norm"]).reshape(rounds, size), axis=1, kind="stable")
        sorted_ = {name: np.take_along_axis(v.reshape(rounds, size), order, axis=1) for name, v in rows.items()}
        parts = np.array_split(np.arange(size), min(groups, size))
        share, signs, moduli = sorted_["beta"] * size, sorted_["sign"], sorted_["modulus"] & sorted_["sign"]
        means.append([[float(values[:, part].mean()) for part in parts] for values in (share, signs, moduli)])
    return Importance(label, *np.mean(means, axis=0))
