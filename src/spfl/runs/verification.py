"""A run made again from its folder, and compared with what the folder says, round by round and bit by bit."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load

from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.errors import RunFolderError, reason
from spfl.files import is_file, read_file
from spfl.runs.environment import describe_environment, fingerprint
from spfl.runs.experiment import ENVIRONMENT, SUMMARY, WEIGHTS, read_config, read_json
from spfl.runs.jsons import Json, as_written
from spfl.runs.metrics import (
    ALLOCATION,
    DEVICES,
    allocation_rows,
    devices_table,
    metrics,
    read_metrics,
    summarise,
)
from spfl.runs.parquet import read_table
from spfl.runs.past import METRICS, PAST, changed_since_the_end, read_past
from spfl.training import train
from spfl.world.state import ServerState
from spfl.world.world import World

NOT_COMPARED = ("seconds", PAST)  # wall-clock, and the digest of lines that hold it


@dataclass(frozen=True)
class Verdict:
    """What came of it: rounds compared, and the first difference in one line; None when there is none."""

    rounds: int
    finished: bool
    difference: str | None


def verify(
    folder: Path,
    dataset: Dataset,
    *,
    workers: int = 0,
    tolerance: float = 0.0,
    progress: Callable[[Json], None] = lambda _: None,
) -> Verdict:
    """Run FOLDER/config.toml again, up to the last recorded round, and stop at the first difference. Writes nothing.

    Compared are metrics.jsonl (all but wall-clock), allocation.parquet, devices.parquet, weights.safetensors, every
    value of summary.json, and each file with its SHA-256 there. `tolerance` is relative, for another machine or other
    versions; 0 asks for equal bits. No more processes are started than there are cores, whatever the folder asks for.
    Raises RunFolderError for a folder that is no run's, or whose data or own parts are not at hand.
    """
    config, recorded = _recorded(folder, dataset)
    config = config.model_copy(update={"workers": workers, "processes": min(config.processes, os.cpu_count() or 1)})
    finished = is_file(folder / SUMMARY)
    world, rows, server, count = World.build(config, dataset), _allocations(folder), None, 0
    for old, record in zip(recorded, train(world), strict=False):
        new = as_written(metrics(record))
        progress(new)
        difference = _first(old, new, tolerance)
        if not difference and rows is not None:
            difference = _first_row(next(rows, None), allocation_rows(record), tolerance)
        if difference:
            return Verdict(count, finished, f"round {record.round_}: {difference}")
        server, count = record.server, count + 1
    difference = _length(config, recorded, rows, count, finished) or _devices(folder, world, tolerance)
    if finished and not difference:
        difference = _summary(folder, config, recorded) or _weights(folder, world, server, tolerance)
    return Verdict(count, finished, difference or _past(folder, finished))


def _length(
    config: Config, recorded: list[Json], rows: Iterator[pa.Table] | None, count: int, finished: bool
) -> str | None:
    if finished and count < config.training.rounds:
        return f"{METRICS} ends at round {count} of {config.training.rounds}"
    if len(recorded) > count:
        return f"{METRICS} has {len(recorded)} rounds, the run {count}"
    if finished and rows is None:
        return f"{ALLOCATION} is missing"
    if rows is not None and next(rows, None) is not None:
        return f"{ALLOCATION} goes on after round {count}"
    return None


def _summary(folder: Path, config: Config, recorded: list[Json]) -> str | None:
    """All but the seconds before the first round, which nothing else tells."""
    old = read_json(folder / SUMMARY)
    new = as_written({"scheme": config.scheme.name, "seed": config.seed} | summarise(recorded))
    if old.get("digest") != new["digest"]:
        return f"digest in {SUMMARY} is not that of {METRICS}"
    for name in (old.keys() | new.keys()) - {"seconds", "files"}:
        if old.get(name) != new.get(name):
            return f"{name} in {SUMMARY} is {old.get(name)!r}, by {METRICS} {new.get(name)!r}"
    return None


def _past(folder: Path, finished: bool) -> str | None:
    """What the digests of the folder tell, of files that are otherwise as they should be."""
    if not finished:
        return read_past(folder).fault
    return changed_since_the_end(folder, read_json(folder / SUMMARY))


def _devices(folder: Path, world: World, tolerance: float) -> str | None:
    table = devices_table(world)
    if table is None or not is_file(folder / DEVICES):
        return None if table is None else f"{DEVICES} is missing"
    old = read_table(folder / DEVICES)
    if old.schema.names != table.schema.names or len(old) != len(table):
        return f"{DEVICES} has other columns or rows"
    for name in table.column_names:
        same = np.isclose if name in ("distance_m", "gain") else lambda a, b, **_: a == b
        a, b = (np.stack(t[name].to_numpy(zero_copy_only=False)) for t in (old, table))
        if a.shape != b.shape or not np.all(same(a, b, rtol=tolerance, atol=0.0)):
            return f"{name} in {DEVICES} is not as it is again"
    return None


def _recorded(folder: Path, dataset: Dataset) -> tuple[Config, list[Json]]:
    config = read_config(folder)
    then, now = read_json(folder / ENVIRONMENT), describe_environment()
    if then.get("dataset") != fingerprint(dataset):
        raise RunFolderError(f"cannot verify {folder}: its data are {then.get('dataset')}, got {fingerprint(dataset)}")
    if then.get("custom"):
        raise RunFolderError(f"cannot verify {folder}: it was made with parts of its caller's own, {then['custom']}")
    if then.get("versions") != now["versions"]:
        warnings.warn(f"{folder} was made with {then.get('versions')}; bits may differ", stacklevel=3)
    return config, list(read_metrics(folder))


def _first(old: Json, new: Json, tolerance: float) -> str | None:
    for name in [*new, *(old.keys() - new.keys())]:
        if name not in (*NOT_COMPARED, *old.keys()):
            return f"{name} is missing, again {new[name]!r}"
        if name not in NOT_COMPARED and not _same(old[name], new.get(name), tolerance):
            return f"{name} is {old[name]!r}, again {new.get(name)!r}"
    return None


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key], tolerance) for key in old)
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return old == new or (numbers and math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance))


def _allocations(folder: Path) -> Iterator[pa.Table] | None:
    """The table of each round; None for a run that is not finished."""
    if not is_file(folder / ALLOCATION):
        return None
    table = read_table(folder / ALLOCATION)
    starts = np.flatnonzero(np.diff(table["round"].to_numpy(), prepend=0)).tolist()
    return (table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(table)], strict=True))


def _first_row(old: pa.Table | None, new: pa.RecordBatch, tolerance: float) -> str | None:
    if old is None or len(old) != len(new):
        return f"{ALLOCATION} has {0 if old is None else len(old)} devices, again {len(new)}"
    for name in dict.fromkeys([*old.column_names, *new.schema.names]):
        if name not in new.schema.names:
            return f"{name} is in {ALLOCATION}, but not again"
        if name not in old.column_names:
            return f"{name} is missing in {ALLOCATION}"
        a, b = old[name].to_numpy(), new[name].to_numpy(zero_copy_only=False)
        off = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        if off.any():
            k = int(np.argmax(off))
            return f"{name} of device {old['device'][k]} is {a[k].item()!r}, again {b[k].item()!r}"
    return None


def _weights(folder: Path, world: World, server: ServerState | None, tolerance: float) -> str | None:
    try:
        old = load(read_file(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        return f"{WEIGHTS} cannot be read: {reason(error)}"
    again = {} if server is None else world.tensors(server)
    if old.keys() != again.keys():
        return f"{WEIGHTS} holds {', '.join(old)}, again {', '.join(again)}"
    for name, tensor in again.items():
        a, b = old[name].ravel(), tensor.ravel()
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{WEIGHTS}: {name} has shape {old[name].shape} of {a.dtype}"
        off = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        if off.any():
            worst = float(np.max(np.abs(a[off] - b[off])))
            return f"{WEIGHTS}: {off.sum()} of {a.size} values of {name} differ, by at most {worst:.3g}"
    return None
