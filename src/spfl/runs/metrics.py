"""The files that grow with a run: one JSON object a round, one table row a round and device; and their summary."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spfl.errors import RunFolderError
from spfl.figures.scores import ScoreKind, shown
from spfl.files import open_file, open_in_place
from spfl.rng import SETUP_ROUND
from spfl.runs.checkpoint import Checkpoint
from spfl.runs.folders import check_ours, remove, replacing_ours
from spfl.runs.jsons import Json, dump_json
from spfl.runs.parquet import column, lists, read_table, write_table
from spfl.runs.past import METRICS, PAST, begin_past, file_digest
from spfl.training import RoundRecord
from spfl.world.world import World

if TYPE_CHECKING:
    from hashlib import _Hash

    from spfl.world.state import ServerState

COSTS = ("joules", "round_s")  # what devices spend; with what they received it is told by the rest of the metrics
MOST_ROWS = 10_000
TEST = "test_"  # before the name of the score
LOWER = "lower_is_better"  # there, and true, where it holds for the score
ALLOCATION, DEVICES = "allocation.parquet", "devices.parquet"
PARTS = "allocation-*-*.parquet"  # rows of rounds FIRST-LAST, until the run is finished
TOLD = ("received_bits", *COSTS)
NOT_DIGESTED = ("seconds", "solver", PAST, *TOLD)  # also wall-clock, and what the solver says of itself
GROUP_ROWS = 2**18  # rows of the allocation table that are held in memory


def metrics(record: RoundRecord) -> Json:
    """One round as a JSON object; everything but `seconds` is a function of the configuration."""
    allocation, outcome, clock = record.allocation, record.outcome, record.asynchrony
    extra: Json = {} if clock is None else {"staleness": float(clock.staleness.mean()), "stepped": clock.stepped}
    extra |= {} if record.side_received is None else {"side_received": record.side_received}
    extra |= {LOWER: True} if record.lower_is_better else {}
    return {
        "round": record.round_,
        "loss": record.loss,
        "test_loss": record.test_loss,
        f"{TEST}{record.metric}": record.test_score,
        "mean_q_s": float(np.mean(allocation.q_s)),
        "mean_r_m": float(np.mean(allocation.r_m)),
        "signs_received": int(outcome.sign.sum()),
        "moduli_received": int(outcome.modulus.sum()),
        "payload_bits": int(record.payload_bits),
        "received_bits": int(record.received_bits),
        "side_bits": int(record.side_bits),
        "objective": float(allocation.objective),
        "rejected": int(record.rejected),
        "joules": float(record.spent.joules.sum()),
        "round_s": record.spent.round_s,
        **extra,
        "solver": {"status": allocation.status.value, "gap": allocation.gap, "iterations": allocation.iterations},
        "seconds": record.seconds | {"solver": allocation.seconds},
    }


def metric_of(values: Json) -> str:
    """The name of the score in a round's metrics: accuracy, f1, r2 or the caller's own."""
    scores = (key.removeprefix(TEST) for key in values if key.startswith(TEST) and key != "test_loss")
    return next(scores, "accuracy")


def metric_in(summary: Json) -> str:
    """The name of the score in a summary of a run, or in a row of a comparison."""
    return next(key for key in summary if key.endswith("_last")).removesuffix("_last")


def score_in(summary: Json) -> ScoreKind:
    """What the score is in a summary of a run, or in a row of a comparison or study."""
    return ScoreKind(metric_in(summary), bool(summary.get(LOWER)))


def told_score(summary: Json) -> str:
    """The score at the end of a run, in words."""
    metric = metric_in(summary)
    score = summary[f"{metric}_final"]
    return f"test {metric} {'unknown' if score is None else shown(metric, score, 2)}"


def score_of(values: Json) -> float | None:
    """The score in a round's metrics; None in a round without an evaluation."""
    score: float | None = values[f"{TEST}{metric_of(values)}"]
    return score


def allocation_rows(record: RoundRecord) -> pa.RecordBatch:
    """One round in allocation.parquet: a row a device of the cohort."""
    allocation, outcome, size = record.allocation, record.outcome, len(record.cohort)
    columns: dict[str, Any] = {
        "round": np.full(size, record.round_, np.int32),
        "device": np.array(record.cohort, np.int32),
    }
    columns |= {"weight": record.devices.weight, "gradient_norm": np.sqrt(record.devices.v2)}
    for name in ("beta", "alpha", "rho", "q_s", "r_m", "cost"):
        columns[name] = np.asarray(getattr(allocation, name), np.float64)
    columns |= {"joules": record.spent.joules, "latency_s": record.spent.latency_s}
    columns |= {"sign": outcome.sign, "modulus": outcome.modulus}
    return pa.RecordBatch.from_arrays([column(values) for values in columns.values()], list(columns))


def _cut(folder: Path, start: Checkpoint | None) -> _Hash:
    """Remove every round after a checkpoint, and parts that it does not know; returns the digest of what stays."""
    path, digest = folder / METRICS, begin_past(folder)
    after = start.server.round_ if start else 0
    with os.fdopen(open_in_place(path, os.O_RDWR), "r+b") as file:
        lines = [line for _, line in zip(range(after), file, strict=False)]
        if len(lines) < after:  # cannot be: the past was checked
            raise RunFolderError(f"{path} ends at round {len(lines)}, its checkpoint is of round {after}")
        file.truncate(sum(map(len, lines)))
    for part in folder.glob(PARTS):
        if start is None or part.name not in start.parts:
            remove(part)
    for line in lines:
        digest.update(line)
    return digest


class RoundLog:
    """Appends to the files of a run folder, after cutting away every round later than that of a checkpoint.

    None is before the first round. Raises RunFolderError when the metrics do not reach the checkpoint's round.
    """

    def __init__(self, folder: Path, start: Checkpoint | None) -> None:
        self._folder, self._pending = folder, list[tuple[int, pa.RecordBatch]]()
        self._past = _cut(folder, start)
        self._parts = dict(start.parts) if start else {}
        self._metrics = os.fdopen(open_in_place(folder / METRICS, os.O_WRONLY | os.O_APPEND), "ab")

    def add(self, record: RoundRecord) -> Json:
        """Write a round's metrics, keep its allocation for the next part; returns the metrics."""
        values = metrics(record)
        line = dump_json(values | {PAST: self._past.hexdigest()}).encode() + b"\n"
        check_ours(self._folder)
        self._metrics.write(line)
        self._metrics.flush()
        self._past.update(line)
        self._pending.append((record.round_, allocation_rows(record)))
        if sum(len(rows) for _, rows in self._pending) >= GROUP_ROWS:
            self.flush(record.round_)
        return values

    def flush(self, until: int) -> None:
        """Bring everything up to round `until` to the disk."""
        os.fsync(self._metrics.fileno())
        ready = [(round_, rows) for round_, rows in self._pending if round_ <= until]
        if ready:
            path = self._folder / f"allocation-{ready[0][0]:08d}-{ready[-1][0]:08d}.parquet"
            write_table(path, pa.Table.from_batches([rows for _, rows in ready]))
            self._parts[path.name] = file_digest(path)
        self._pending = [(round_, rows) for round_, rows in self._pending if round_ > until]

    def checkpoint(self, server: ServerState) -> Checkpoint:
        """The state after the last round that was added, with the digests of what precedes it; flushes."""
        self.flush(server.round_)
        return Checkpoint(server, self._past.hexdigest(), dict(self._parts))

    def close(self) -> None:
        """Let go of the files. On a full disk, what the last line could not get out is lost; a resume cuts it away."""
        with suppress(OSError):
            self._metrics.close()


def join_parts(folder: Path) -> None:
    """Make allocation.parquet of the parts, in row groups of bounded size."""
    parts = sorted(folder.glob(PARTS))
    schema = read_table(parts[0]).schema
    with replacing_ours(folder / ALLOCATION) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _grouped(map(read_table, parts)):
            writer.write_table(group)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(t.num_rows for t in held) >= GROUP_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def write_devices(folder: Path, world: World) -> None:
    """Write `devices_table`, if there is one."""
    table = devices_table(world)
    if table is not None:
        write_table(folder / DEVICES, table)


def devices_table(world: World) -> pa.Table | None:
    """One row a device of the cell: what it is, before any round. Cells that are dropped anew: as before the first.

    `classes` counts its samples of each class. A population of more than MOST_ROWS devices has none.
    """
    if len(world.parts) > MOST_ROWS:
        return None
    cell, labels = world.radio.cell(SETUP_ROUND), world.dataset.train_labels.numpy()
    # With data of their own nobody tells the classes of his samples, and other tasks have none.
    own = world.config.data.source == "node" or world.dataset.task != "classification"
    columns = {
        "device": column(np.arange(len(world.parts), dtype=np.int32)),
        "distance_m": column(cell.distance_m),
        "gain": column(cell.gain),
        "samples": column(np.array([len(part) for part in world.parts])),
        "classes": pa.nulls(len(world.parts), pa.list_(pa.int64()))
        if own
        else lists([np.bincount(labels[part], minlength=world.dataset.classes) for part in world.parts]),
    }
    return pa.Table.from_arrays(list(columns.values()), list(columns))


def read_metrics(folder: Path) -> Iterator[Json]:
    """The rounds of a run folder in order. Raises RunFolderError for a file that is missing or damaged.

    A last line without an end, of a run that was killed or is still writing, is left out.
    """
    path = folder / METRICS
    try:
        with os.fdopen(open_file(path), encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield _round_of(line)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _round_of(line: str) -> Json:
    values = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("round"), int):
        raise ValueError(f"a line is no round: {line[:40]!r}")
    return values


def summarise(rounds: Iterable[Json]) -> Json:
    """Accuracies, totals, and the SHA-256 of everything in the metrics but `NOT_DIGESTED`.

    accuracy_last is the mean over the evaluations of the last quarter of the rounds: it forgives the noise of a single
    evaluation. accuracy_best picks its round on the test set, so it flatters. Where the score is another than accuracy,
    its own name stands in these.
    """
    digest, seconds, totals = hashlib.sha256(), Counter[str](), Counter[str]()
    evaluations: list[tuple[int, float, float]] = []
    last, score_kind = 0, ScoreKind()
    for values in rounds:
        score_kind = ScoreKind(metric_of(values), bool(values.get(LOWER)))
        last = values["round"]
        seconds.update(values["seconds"])
        result = {key: value for key, value in values.items() if key not in NOT_DIGESTED}
        digest.update(dump_json(result).encode() + b"\n")
        totals.update(
            {key: values[key] or 0 for key in ("payload_bits", "side_bits", "signs_received", "moduli_received")}
        )
        totals.update({key: values.get(key, 0) for key in TOLD})
        totals.update({"q_s": values["mean_q_s"] or 0.0, "rejected": values["rejected"]})
        if "staleness" in values:
            totals.update({"staleness": values["staleness"], "server_steps": int(values["stepped"])})
        totals.update({"silent_rounds": int(not values["signs_received"])})
        if (score := score_of(values)) is not None:
            evaluations.append((last, score, values["test_loss"]))
    late = [score for round_, score, _ in evaluations if round_ > 0.75 * last]
    metric = score_kind.metric
    return {
        "rounds": last,
        f"{metric}_final": evaluations[-1][1] if evaluations else None,
        f"{metric}_best": score_kind.best(score for _, score, _ in evaluations) if evaluations else None,
        f"{metric}_last": math.fsum(late) / len(late) if late else None,
        "test_loss_final": evaluations[-1][2] if evaluations else None,
        "mean_q_s": totals["q_s"] / max(last, 1),
        "payload_bits": totals["payload_bits"],
        "received_bits": totals["received_bits"],
        "side_bits": totals["side_bits"],
        "signs_received": totals["signs_received"],
        "moduli_received": totals["moduli_received"],
        "silent_rounds": totals["silent_rounds"],
        "rejected": totals["rejected"],
        **{key: totals[key] for key in COSTS},
        **(
            {"mean_staleness": totals["staleness"] / last, "server_steps": totals["server_steps"]}
            if "server_steps" in totals
            else {}
        ),
        **({LOWER: True} if score_kind.lower_is_better else {}),
        "digest": digest.hexdigest(),
        "seconds": dict(seconds),
    }
