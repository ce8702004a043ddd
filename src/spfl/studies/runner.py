"""A study: the points of grids over configuration keys, run in parallel processes, stopped and resumed at will.

Its folder holds
    sweep.toml         a copy of the file
    plan.toml          the points as they are run, a sweep file that needs no other
    environment.json   versions, machine, commit, and a fingerprint of the data
    results.jsonl      one line a finished point, each brought to the disk before the next
    results.parquet, summary.md   the points as a table, and mean and spread over seeds (see `sweep_tables`)
    runs/KEY           the run folders, if they are kept
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from spfl import training
from spfl.config.data import DataConfig
from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, RunFolderError
from spfl.files import is_file, open_in_place, read_file
from spfl.fleet.workers import Failure, map_processes
from spfl.machine import cores
from spfl.runs.environment import describe_environment, fingerprint
from spfl.runs.experiment import ENVIRONMENT, read_json, run_experiment
from spfl.runs.folders import LOCK, appender, below, locked, write_atomically, writing
from spfl.runs.health import course_of, findings
from spfl.runs.jsons import Json, dump_json
from spfl.runs.metrics import LOWER, metric_in, metrics, read_metrics, score_of, summarise
from spfl.runs.results import Run, numbers
from spfl.studies.plan import PLAN, plan_text
from spfl.studies.points import Point
from spfl.studies.tables import write_tables
from spfl.world.torch_device import check_supported, find_device
from spfl.world.world import World

SWEEP, RESULTS, RUNS = "sweep.toml", "results.jsonl", "runs"
DONE, FAILED = "done", "failed"


# --- one point ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _read(data: DataConfig, data_dir: Path | None) -> Dataset:
    return load_dataset(data, data_dir)


def _dataset(data: DataConfig, data_dir: Path | None) -> Dataset:
    """Loaded once a process; forked processes find what the parent has loaded."""
    return _read(data.reading(), data_dir)


def run_point(point: Point, data_dir: Path | None = None, runs: Path | None = None) -> Json:
    """Train one point on one thread and return its measurements; with a run folder in RUNS/KEY if `runs` is given."""
    dataset, began = _dataset(point.config.data, data_dir), time.perf_counter()
    rounds, table = _rounds(point, dataset, runs)
    wall_s = time.perf_counter() - began
    health = findings(course_of(rounds, dataset.classes, table))
    return measure(rounds) | {
        "health": health,
        "uplink_s_per_round": World.build(point.config, dataset).radio.tau_s,
        "wall_s": wall_s,
    }


def _rounds(point: Point, dataset: Dataset, runs: Path | None) -> tuple[list[Json], Mapping[str, Any] | None]:
    """The metrics of a point, and the columns `device` and `sign` of its allocation table."""
    if runs is not None:
        folder = below(runs, point.key)
        run_experiment(point.config, dataset, folder, existing="resume")
        return list(read_metrics(folder)), numbers(Run.load(folder).allocation, "device", "sign")
    rounds: list[Json] = []
    table: dict[str, list[Any]] = {"device": [], "sign": []}
    for record in training.run(point.config, dataset):
        rounds.append(metrics(record))
        table["device"] += record.cohort
        table["sign"] += record.outcome.sign.tolist()
    return rounds, table


def measure(rounds: Sequence[Json]) -> Json:
    """What a study keeps of a run: scores, the curve, and means over rounds of what was sent and received.

    Scores stand under their own name, as in summary.json: `accuracy_last`, `r2_last`. `lower_is_better` is there, and
    true, where it holds. `curve_*` have one value an evaluation: its round, its score, the payload bits, joules and
    seconds until then.
    `seconds_per_round` is by phase. `side_bits` (a round) is there if the rounds have it.
    """
    summary, count = summarise(rounds), len(rounds)
    payload, joules, seconds_s, curve = 0, 0.0, 0.0, []
    for values in rounds:
        payload += values["payload_bits"]
        joules, seconds_s = joules + values.get("joules", 0.0), seconds_s + values.get("round_s", 0.0)
        if (score := score_of(values)) is not None:
            curve.append((values["round"], score, payload, joules, seconds_s))
    metric = metric_in(summary)
    kept = ("rounds", f"{metric}_last", f"{metric}_final", f"{metric}_best", LOWER, "mean_q_s")
    row: Json = {name: summary[name] for name in kept if name in summary}
    row["mean_r_m"] = sum(values["mean_r_m"] or 0.0 for values in rounds) / count
    for key in (
        "signs_received",
        "moduli_received",
        "payload_bits",
        "received_bits",
        "side_bits",
        "rejected",
        "joules",
        "round_s",
    ):
        if key in rounds[0]:
            row[f"{key}_per_round"] = sum(values[key] or 0 for values in rounds) / count
    seconds = {phase: s / count for phase, s in summary["seconds"].items() if phase != "total"}
    names = ("curve_round", f"curve_{metric}", "curve_payload_bits", "curve_joules", "curve_seconds")
    columns = map(list, zip(*curve, strict=True))
    row |= dict(zip(names, columns, strict=True))
    return row | {"digest": summary["digest"], "seconds_per_round": seconds}


# --- all points ---------------------------------------------------------------------------------------------


def sweep(
    points: Sequence[Point],
    folder: Path,
    *,
    source: Path | None = None,
    data_dir: Path | None = None,
    processes: int = 0,
    resume: bool = False,
    keep_runs: bool = False,
    progress: Callable[[Point, Json, bool], None] = lambda *_: None,
) -> list[Json]:
    """Run the points and return a row for each, in their order; rows of failed points have an `error`.

    `processes` = 0 is one a core, or one in all when a point runs on a GPU, whose memory it fills.
    With `resume`, points that results.jsonl holds are not run again, failed ones are.
    `progress` is called with each point, its row, and whether it was run now. `source`, the sweep file, is copied into
    the folder. Raises ConfigError, DataError or RunFolderError before the first point, RunFolderError also when another
    process writes in the folder, or the disk is full. KeyboardInterrupt leaves the tables of what is finished, and is
    raised again.
    """
    if processes < 0:
        raise ConfigError(f"processes must be >= 0, got {processes}")
    check_folder(folder, resume)
    _check_worlds(points, data_dir)
    with locked(folder):
        check_folder(folder, resume)
        with writing(folder):
            begin(folder, {p.config.data.reading() for p in points}, data_dir, source)
            write_atomically(folder / PLAN, plan_text((point.settings, point.config) for point in points).encode())
        work = partial(run_point, data_dir=data_dir, runs=below(folder, RUNS) if keep_runs else None)
        return _sweep(points, folder, work, processes, progress)


def _sweep(
    points: Sequence[Point],
    folder: Path,
    work: Callable[[Point], Json],
    processes: int,
    progress: Callable[[Point, Json, bool], None],
) -> list[Json]:
    """`work` makes the row of a point, in a process."""
    rows = {row["key"]: row for row in read_results(folder) if row["status"] == DONE}
    for point in points:
        if point.key in rows:
            progress(point, rows[point.key], False)
    commit = read_json(folder / ENVIRONMENT)["commit"]
    todo = [point for point in points if point.key not in rows]
    processes = processes or (1 if any(on_gpu(point.config) for point in todo) else cores())
    if processes > 1:
        todo.sort(key=_longest_first)
    try:
        with appender(folder / RESULTS) as append, closing(map_processes(work, todo, processes)) as answers:
            for point, answer in answers:
                row = rows[point.key] = _row(point, answer) | {"commit": commit}
                append(dump_json(row).encode() + b"\n")
                progress(point, row, True)
    finally:
        found = [rows[point.key] for point in points if point.key in rows]
        with writing(folder):
            write_tables(folder, found)
    return found


def _longest_first(point: Point) -> float:
    """Less for a point with more samples to compute: so no long one is left over when all others have ended."""
    config = point.config
    return -float(config.training.rounds * config.cohort * config.training.samples(config.training.batch_size))


def on_gpu(config: Config) -> bool:
    """Whether whole rounds run in the memory of another device than the CPU."""
    return config.torch_device is not None and find_device(config.torch_device).type != "cpu"


def _row(point: Point, answer: Json | Failure) -> Json:
    config = point.config
    about = {
        "key": point.key,
        "scheme": config.scheme.name,
        "seed": config.seed,
        "settings": point.settings,
        "validation": config.data.validation_fraction > 0,
    }
    if isinstance(answer, Failure):
        return about | {"status": FAILED, "error": answer.message, "details": answer.details}
    return about | {"status": DONE, "error": None} | answer


def _check_worlds(points: Iterable[Point], data_dir: Path | None) -> None:
    """Build each kind of world once: what configurations alone do not tell, such as a network too deep for the images.

    Dealing out the data is checked with the first seed of a kind only.
    """
    seen, scores = set(), dict[str, str]()
    for point in points:
        config = point.config
        if config.torch_device is not None:
            check_supported(config)
        kind = (config.data, config.model)
        if kind not in seen:
            seen.add(kind)
            world = World.build(config, _dataset(config.data, data_dir))
            _ = world.layout  # refuses a network that does not fit
            scores.setdefault(world.task.metric, world.dataset.name)
    if len(scores) > 1:
        told = " and ".join(f"{metric} ({name})" for metric, name in scores.items())
        raise ConfigError(f"a sweep has one score, got {told}; make a sweep of each")


# --- the folder ---------------------------------------------------------------------------------------------


def check_folder(folder: Path, resume: bool) -> None:
    """Raises RunFolderError unless a sweep may write in the folder."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"output {folder} exists and is not a folder")
    if not folder.exists() or all(path.name in (LOCK, f"{ENVIRONMENT}.tmp") for path in folder.iterdir()):
        return
    if not resume:
        raise RunFolderError(f"output folder {folder} is not empty; pass --resume or another --out")
    if not is_file(folder / ENVIRONMENT) or "datasets" not in read_json(folder / ENVIRONMENT):
        raise RunFolderError(f"nothing to resume in {folder}: it is not the folder of a sweep; left as it is")


def begin(folder: Path, datasets: Iterable[DataConfig], data_dir: Path | None, source: Path | None) -> None:
    """Make the folder, or check that one that is there was made with the same data; drop a torn last line."""
    read = {name_of_data(data): fingerprint(_dataset(data, data_dir)) for data in datasets}
    now = describe_environment() | {"datasets": dict(sorted(read.items()))}
    if (folder / ENVIRONMENT).exists():
        _check_same(folder, now)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ENVIRONMENT, dump_json(now, indent=2).encode() + b"\n")  # first: it is the mark
    with os.fdopen(open_in_place(folder / RESULTS, os.O_RDWR), "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    if source is not None:
        write_atomically(folder / SWEEP, source.read_bytes())


def name_of_data(data: DataConfig) -> str:
    """The name of a dataset, and of the keys that say what is read of it those that are set."""
    told = data.reading().model_dump(exclude_defaults=True)
    others = {key: value for key, value in told.items() if key != "name"}
    return " ".join([data.name, *([json.dumps(others, sort_keys=True)] if others else [])])


def _check_same(folder: Path, now: Json) -> None:
    then = read_json(folder / ENVIRONMENT)
    old = then.get("datasets", {})
    for name, data in now["datasets"].items():
        if name in old and old[name] != data:
            raise RunFolderError(f"cannot resume {folder}: its {name} is {old[name]}, got {data}")
    now["datasets"] = old | now["datasets"]
    if then["versions"] != now["versions"]:
        warnings.warn(f"{folder} was begun with {then['versions']}; results may differ from here on", stacklevel=4)


def read_results(folder: Path) -> list[Json]:
    """The rows of results.jsonl, failed ones as well. Raises RunFolderError when it is missing or damaged."""
    path = folder / RESULTS
    try:
        rows = [json.loads(line) for line in read_file(path).splitlines(keepends=True) if line.endswith(b"\n")]
        if not all(isinstance(row, dict) and {"key", "status"} <= row.keys() for row in rows):
            raise ValueError("a line is no point of a sweep")
        return rows
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from None
