"""What travels between the server and the nodes, as Flower records; everything that arrives is checked here.

A node computes for several devices. Arrays have a row a device (records.py). The codec opens the packets later and
checks their CRC, layout, round and device.
Axis vocabulary: `device` (of the message), `tensor`, `dim`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from spfl.allocation.result import AllocationResult
from spfl.arrays import State, Vector
from spfl.compensation import VECTOR, last_key, residual_key
from spfl.config.data import DataConfig
from spfl.data.dataset import Moments
from spfl.data.node_data import ColumnSums, GreySums, Sums, fixed_moments
from spfl.errors import PacketError, printable
from spfl.figures.scores import SHARES as SHARES_OF_ONE
from spfl.flat_model import STATISTICS
from spfl.flower.records import (
    expect,
    field_of,
    floats,
    integers,
    packet_rows,
    raw,
    read_array,
    read_record,
    read_weights,
    stacked,
    value_of,
)
from spfl.learning.local import SHARED, kept_key
from spfl.runs.environment import fingerprint
from spfl.uplink.upload import Upload
from spfl.world.world import World

NUMBERS = ("loss", "v2", "vbar2", "v_vbar", "delta2")
SHARES = ("beta", "alpha", "rho")
HELLO_NUMBERS = ("partition", "partitions", "samples", "test_samples")
MOST_TEXT = 500  # characters of what a node says that are kept and logged
MOST_SAMPLES = 2**53  # whole numbers above are not exact in float64


# --- the server asks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundTask:
    """What a node is to do in a round: gradients of its devices at `weights` (dim,), with what both ends remember."""

    round_: int
    devices: tuple[int, ...]
    weights: Vector
    memory: State
    one_exchange: bool
    moments: Moments | None = None


def task_content(task: RoundTask, weights: ArrayRecord) -> RecordDict:
    """The content of a `train` message, which `read_task` reads; all nodes share the record `weights`."""
    note = ConfigRecord({"round": task.round_, "devices": list(task.devices), "one_exchange": task.one_exchange})
    arrays = ArrayRecord({name: raw(array) for name, array in task.memory.items()})
    content = RecordDict({"task": note, "weights": weights, "memory": arrays})
    return _with_moments(content, task.moments)


def _with_moments(content: RecordDict, moments: Moments | None) -> RecordDict:
    if moments is not None:
        content["moments"] = ConfigRecord({"mean": list(moments[0]), "std": list(moments[1])})
    return content


def read_moments(content: RecordDict, config: DataConfig) -> Moments | None:
    """The normalisation of own data that the server tells; None where it is not needed. Raises PacketError."""
    if config.source == "partition":
        return None
    note = read_record(content, "moments", ConfigRecord)
    channels = 0 if fixed_moments(config) == [((), ())] else (config.shape or (0,))[0]
    mean, std = (tuple(value_of(note, name, list)) for name in ("mean", "std"))
    low, most = (0.0, 255.0) if config.input_type == "uint8" else (-math.inf, math.inf)
    if not all(len(v) == channels and all(type(x) is float and low <= x <= most for x in v) for v in (mean, std)):
        raise PacketError(f"moments must be {channels} numbers in {low:g}..{most:g}, got {mean} and {std}")
    return mean, std


def read_task(content: RecordDict, world: World) -> RoundTask:
    """Raises PacketError for a message that the server of this experiment did not make."""
    note = read_record(content, "task", ConfigRecord)
    dim, memory = world.layout.size, read_record(content, "memory", ArrayRecord)
    return RoundTask(
        value_of(note, "round", int),
        tuple(integers(note, "devices")),
        read_weights(read_record(content, "weights", ArrayRecord), dim),
        {name: read_array(memory, name, np.float32, tuple(memory[name].shape)) for name in memory},
        value_of(note, "one_exchange", bool),
        read_moments(content, world.config.data),
    )


def memory_for(memory: State, devices: Sequence[int]) -> State:
    """What devices know of the server's memory: the common vector, and their own arrays."""
    own = (last_key, residual_key, kept_key)
    wanted = {VECTOR, SHARED, STATISTICS, *(key(device) for key in own for device in devices)}
    return {name: array for name, array in memory.items() if name in wanted}


def grant_content(round_: int, devices: Sequence[int], allocation: AllocationResult, rows: Sequence[int]) -> RecordDict:
    """The content of a `train.upload` message: what each device was given of the bandwidth and of its power."""
    note: dict[str, Any] = {"round": round_, "devices": list(devices)}
    note |= {name: getattr(allocation, name)[list(rows)].tolist() for name in SHARES}
    return RecordDict({"grant": ConfigRecord(note)})


def read_grant(content: RecordDict) -> tuple[int, tuple[int, ...]]:
    """Round and devices of a `train.upload` message. Raises PacketError."""
    note = read_record(content, "grant", ConfigRecord)
    return value_of(note, "round", int), tuple(integers(note, "devices"))


@dataclass(frozen=True)
class Identity:
    """What all parties of a run must agree upon: the network's layout, the data or their form, and own code."""

    network: str
    data: str
    code: str = ""


def identity_of(world: World, code: str = "") -> Identity:
    """What a party takes the experiment to be; `code` is a digest of modules that it was brought."""
    if world.config.data.source == "node":
        told, form = world.config.data, " x ".join(map(str, world.dataset.shape))
        data = f"own, {form} of {told.input_type}, {world.dataset.task}, {world.dataset.classes} classes"
    else:
        data = "{name} of CRC {crc32}".format(**fingerprint(world.dataset))
    return Identity(world.layout.digest.hex(), data, code)


NOT_TOLD = -1  # a partition that is left to the server


@dataclass(frozen=True)
class Hello:
    """What a node says of itself: its partition, the experiment it takes part in, and of own data how many it has.

    `versions` is of the software: other versions may round otherwise. `sums` are of grey levels or columns, where the
    run needs them for its normalisation; nothing else of own data is told.
    """

    partition: int
    partitions: int
    identity: Identity
    versions: str
    samples: int = 0
    test_samples: int = 0
    sums: Sums | None = None


def hello_content(hello: Hello) -> RecordDict:
    """A node's answer to `query`."""
    note: dict[str, Any] = {name: getattr(hello, name) for name in HELLO_NUMBERS} | asdict(hello.identity)
    content = RecordDict({"hello": ConfigRecord(note | {"versions": hello.versions})})
    if hello.sums is not None:
        content["sums"] = ConfigRecord({name: list(values) for name, values in hello.sums._asdict().items()})
    return content


def refusal_content(reason: str) -> RecordDict:
    """A node's answer to `query` when it cannot take part; the server's log has the reason."""
    return RecordDict({"refusal": ConfigRecord({"reason": reason})})


def brief(text: str) -> str:
    """A node's words for the log: their beginning, in one line, control characters as escapes."""
    return printable(text[:MOST_TEXT]).replace("\n", "\\n").replace("\t", "\\t")


def read_hello(content: RecordDict) -> Hello:
    """Raises PacketError, also with the node's own reason not to take part."""
    refusal = content.get("refusal")
    if isinstance(refusal, ConfigRecord):
        raise PacketError(value_of(refusal, "reason", str))
    note = read_record(content, "hello", ConfigRecord)
    identity = Identity(*(brief(value_of(note, field.name, str)) for field in fields(Identity)))
    numbers = {name: value_of(note, name, int) for name in HELLO_NUMBERS}
    if not all(0 <= numbers[name] < MOST_SAMPLES for name in ("samples", "test_samples")):
        raise PacketError("samples and test_samples must be whole numbers in 0..2^53 - 1")
    sums = content.get("sums")
    told = _read_sums(sums, numbers["samples"]) if isinstance(sums, ConfigRecord) else None
    return Hello(identity=identity, versions=brief(value_of(note, "versions", str)), sums=told, **numbers)


def _read_sums(note: ConfigRecord, samples: int) -> Sums:
    """Sums that inputs can have. Raises PacketError."""
    sums: Sums
    if "pixels" in note:
        sums = GreySums(*(tuple(integers(note, name)) for name in GreySums._fields))
    else:
        means, deviations = (tuple(floats(note, name)) for name in ("mean", "deviation"))
        sums = ColumnSums(tuple(integers(note, "values")), means, deviations)
    counts, *others = sums
    even = {len(part) for part in others} == {len(counts)} and bool(counts)
    if not even or min(counts) < samples or not sums.possible:
        raise PacketError("sums of grey levels are none that images have" if "pixels" in note else
                          "sums of columns are none that numbers have")  # fmt: skip
    return sums


def evaluation_content(round_: int, weights: ArrayRecord, moments: Moments | None) -> RecordDict:
    """The content of an `evaluate` message."""
    return _with_moments(RecordDict({"task": ConfigRecord({"round": round_}), "weights": weights}), moments)


def read_evaluation(content: RecordDict, world: World) -> Vector:
    """The weights (dim,) that are to be evaluated. Raises PacketError."""
    return read_weights(read_record(content, "weights", ArrayRecord), world.layout.size)


def score_content(loss: float, score: float, count: int) -> RecordDict:
    """A node's answer to `evaluate`."""
    return RecordDict({"score": ConfigRecord({"loss": loss, "score": score, "count": count})})


def read_score(content: RecordDict, count: int, metric: str) -> tuple[float, float, int]:
    """Mean loss, score and number of a node's test samples. Raises PacketError for what none can be."""
    note = read_record(content, "score", ConfigRecord)
    loss, score = value_of(note, "loss", float), value_of(note, "score", float)
    expect("count", count, value_of(note, "count", int))
    if not math.isfinite(loss) or not math.isfinite(score) or (metric in SHARES_OF_ONE and not 0 <= score <= 1):
        rule = " in [0, 1]" if metric in SHARES_OF_ONE else ""
        raise PacketError(f"loss and {metric} must be finite numbers{rule}, got {loss} and {score}")
    return loss, score, count


# --- the node answers ------------------------------------------------------------------------------------------


def report_content(round_: int, uploads: Sequence[Upload]) -> RecordDict:
    """The side information of a node's devices, packets left out."""
    devices, samples = [u.device for u in uploads], [u.samples for u in uploads]
    note = ConfigRecord({"round": round_, "devices": devices, "samples": samples})
    numbers = np.array([[getattr(u, name) for name in NUMBERS] for u in uploads], np.float64)
    side = {
        "numbers": raw(numbers.reshape(len(uploads), len(NUMBERS))),
        "means": raw(stacked([u.tensor_means for u in uploads], np.float32)),
        "output_bias": raw(stacked([u.output_bias for u in uploads], np.float32)),
    }
    return RecordDict({"report": note, "side": ArrayRecord(side)})


def upload_content(round_: int, devices: Sequence[int], packets: ArrayRecord) -> RecordDict:
    """A node's answer to `train.upload`."""
    return RecordDict({"upload": ConfigRecord({"round": round_, "devices": list(devices)}), "packets": packets})


def check_upload(content: RecordDict, round_: int, devices: Sequence[int]) -> None:
    """Raises PacketError unless packets are of that round and of those devices."""
    note = read_record(content, "upload", ConfigRecord)
    expect("round", round_, value_of(note, "round", int))
    expect("devices", list(devices), integers(note, "devices"))


def read_report(content: RecordDict, round_: int, devices: Sequence[int], world: World) -> list[Upload]:
    """The side information of the devices that were asked, in that order.

    Raises PacketError for a report of another round or of other devices, or of the wrong shape. What the values mean
    is not looked at: `admission.admit` does that, device by device.
    """
    note, side = read_record(content, "report", ConfigRecord), read_record(content, "side", ArrayRecord)
    expect("round", round_, value_of(note, "round", int))
    expect("devices", list(devices), integers(note, "devices"))
    samples, count = integers(note, "samples"), len(devices)
    if len(samples) != count or not all(0 <= n < MOST_SAMPLES for n in samples):
        raise PacketError(f"samples must be {count} whole numbers in 0..2^53 - 1")
    packing = world.format.packing
    numbers = read_array(side, "numbers", np.float64, (count, len(NUMBERS)))
    means = read_array(side, "means", np.float32, (count, len(packing.packets.names)))
    output_bias = read_array(side, "output_bias", np.float32, (count, packing.output_biases))
    return [
        Upload(
            device,
            samples[row],
            tensor_means=means[row],
            output_bias=output_bias[row],
            **dict(zip(NUMBERS, numbers[row].tolist(), strict=True)),
        )
        for row, device in enumerate(devices)
    ]


def read_packets(
    content: RecordDict, uploads: Sequence[Upload], world: World, elsewhere: Iterable[str] = ()
) -> list[Upload]:
    """The same uploads with their packets, a row for each that has samples. Raises PacketError for another shape.

    Fields of `Upload` that travel `elsewhere` are left as they are.
    """
    count = sum(u.samples > 0 for u in uploads)
    record = read_record(content, "packets", ArrayRecord)
    parts = {}
    for name, (dtype, length) in packet_rows(world).items():
        if name in elsewhere:
            continue
        parts[name] = read_array(record, name, dtype, (count, length))
    found = ({name: field_of(rows[row]) for name, rows in parts.items()} for row in range(count))
    return [replace(u, **next(found)) if u.samples else u for u in uploads]
