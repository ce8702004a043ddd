"""A run made again from its folder, and compared with what the folder says, round by round and bit by bit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file

from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.errors import RunFolderError
from spfl.machine import native
from spfl.runs.environment import describe_environment, fingerprint
from spfl.runs.experiment import ENVIRONMENT, SUMMARY, WEIGHTS, read_config, read_json
from spfl.runs.jsons import Json, as_written
from spfl.runs.metrics import (
    ALLOCATION,
    METRICS,
    NOT_DIGESTED,
    allocation_rows,
    metrics,
    read_metrics,
    read_table,
    summarise,
)
from spfl.training import train
from spfl.world.state import ServerState
from spfl.world.world import World


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

    Compared are metrics.jsonl (all but wall-clock), summary.json's digest of it, allocation.parquet, and
    weights.safetensors. `tolerance` is relative, for another machine or other versions; 0 asks for equal bits.
    Raises RunFolderError for a folder that is no run's, or whose data or own parts are not at hand.
    """
    config, recorded = _recorded(folder, dataset)
    config = config.model_copy(update={"workers": workers})
    finished = (folder / SUMMARY).exists()
    world, rows, server, count = World.build(config, dataset), _allocations(folder), None, 0
    for old, record in zip(recorded, train(world), strict=False):
        new = as_written(metrics(record))
        progress(new)
        difference = _first({k: v for k, v in old.items() if k not in NOT_DIGESTED}, new, tolerance)
        if not difference and rows is not None:
            difference = _first_row(next(rows, None), allocation_rows(record), tolerance)
        if difference:
            return Verdict(count, finished, f"round {record.round_}: {difference}")
        server, count = record.server, count + 1
    if finished and count < config.training.rounds:
        return Verdict(count, finished, f"{METRICS} ends at round {count} of {config.training.rounds}")
    if finished and summarise(recorded)["digest"] != read_json(folder / SUMMARY).get("digest"):
        return Verdict(count, finished, f"digest in {SUMMARY} is not that of {METRICS}")
    return Verdict(count, finished, _weights(folder, world, server, tolerance) if finished else None)


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
    for name, value in old.items():
        if name not in new or not _same(value, new[name], tolerance):
            return f"{name} is {value!r}, again {new.get(name)!r}"
    return None


def _same(old: Any, new: Any, tolerance: float) -> bool:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return old == new or (numbers and math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance))


def _allocations(folder: Path) -> Iterator[pa.Table] | None:
    """The table of each round; None for a run that is not finished."""
    if not (folder / ALLOCATION).is_file():
        return None
    table = read_table(folder / ALLOCATION)
    starts = np.flatnonzero(np.diff(table["round"].to_numpy(), prepend=0)).tolist()
    return (table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(table)], strict=True))


def _first_row(old: pa.Table | None, new: pa.RecordBatch, tolerance: float) -> str | None:
    if old is None or len(old) != len(new):
        return f"{ALLOCATION} has {0 if old is None else len(old)} devices, again {len(new)}"
    for name in old.column_names:
        if name not in new.schema.names:
            return f"{name} is in {ALLOCATION}, but not again"
        a, b = old[name].to_numpy(), new[name].to_numpy(zero_copy_only=False)
        off = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        if off.any():
            k = int(np.argmax(off))
            return f"{name} of device {old['device'][k]} is {a[k].item()!r}, again {b[k].item()!r}"
    return None


def _weights(folder: Path, world: World, server: ServerState | None, tolerance: float) -> str | None:
    try:
        with native(folder / WEIGHTS) as name:
            old = load_file(name)
    except (OSError, SafetensorError) as error:
        return f"{WEIGHTS} cannot be read: {error}"
    layout = world.layout
    if server is None or old.keys() != set(layout.names):
        return f"{WEIGHTS} holds {', '.join(old)}, again {', '.join(layout.names)}"
    for name, start, end in zip(layout.names, layout.edges, layout.edges[1:], strict=False):
        a, b = old[name].ravel(), server.weights[start:end]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{WEIGHTS}: {name} has shape {old[name].shape} of {a.dtype}"
        off = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        if off.any():
            worst = float(np.max(np.abs(a[off] - b[off])))
            return f"{WEIGHTS}: {off.sum()} of {a.size} values of {name} differ, by at most {worst:.3g}"
    return None
