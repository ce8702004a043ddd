"""Arrays, packets and values as Flower records, and read again with all that is claimed checked.

Arrays travel as their raw little-endian bytes, with dtype and shape beside them: nothing is parsed, and nothing is
allocated from what a message claims. Packets are uint8, exactly as the codec makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from spfl.arrays import Vector
from spfl.errors import PacketError
from spfl.packets.container import HEADER_BITS, modulus_packet_bits, sign_packet_bits, sparse_packet_bits
from spfl.uplink.upload import Upload
from spfl.world.world import World

RAW = "spfl.raw"  # how the bytes of an Array are to be read: as they are
Record = TypeVar("Record", ArrayRecord, ConfigRecord)


# --- arrays and values ------------------------------------------------------------------------------------------


def raw(array: NDArray[Any]) -> Array:
    """An array as its bytes; `read_array` is the inverse."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return Array(str(array.dtype), tuple(array.shape), RAW, little.tobytes())


def stacked(rows: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """Rows of one length as an array, (0, 0) of none."""
    return np.stack(rows) if rows else np.zeros((0, 0), dtype)


def read_array(record: ArrayRecord, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of a record, read-only. What is expected decides; what is claimed must agree with it."""
    array = record.get(name)
    if array is None:
        raise PacketError(f"array '{name}' is missing")
    wanted = np.dtype(dtype)
    empty = 0 in shape  # a stack of no rows has lost their length
    if array.stype != RAW or array.dtype != str(wanted) or not (empty or tuple(array.shape) == shape):
        raise PacketError(f"array '{name}' must be {wanted} {shape}, got {array.dtype} {tuple(array.shape)}")
    length = math.prod(shape) * wanted.itemsize
    if len(array.data) != length:
        raise PacketError(f"array '{name}' must have {length} bytes, got {len(array.data)}")
    return np.frombuffer(array.data, wanted.newbyteorder("<")).astype(wanted, copy=False).reshape(shape)


def read_record(content: RecordDict, name: str, kind: type[Record]) -> Record:
    """A record of a message. Raises PacketError unless it is there and of its kind; so do those below."""
    record = content.get(name)
    if not isinstance(record, kind):
        raise PacketError(f"record '{name}' must be {kind.__name__}, got {type(record).__name__}")
    return record


def value_of(note: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """A value of a record, of exactly this type."""
    value = note.get(name)
    if type(value) is not kind:
        raise PacketError(f"'{name}' must be {kind.__name__}, got {type(value).__name__}")
    return value


def integers(note: Mapping[str, Any], name: str) -> list[int]:
    """A list of whole numbers of a record."""
    values = value_of(note, name, list)
    if not all(type(value) is int for value in values):
        raise PacketError(f"'{name}' must be whole numbers")
    return list(values)


def floats(note: Mapping[str, Any], name: str) -> list[float]:
    """A list of numbers of a record."""
    values = value_of(note, name, list)
    if not all(type(value) is float for value in values):
        raise PacketError(f"'{name}' must be numbers")
    return list(values)


def expect(what: str, expected: object, got: object) -> None:
    """Raises PacketError, with what was expected and what came, unless both are equal."""
    if got != expected:
        raise PacketError(f"{what} must be {expected}, got {got}")


# --- weights and packets ----------------------------------------------------------------------------------------


def weights_record(weights: Vector) -> ArrayRecord:
    """The weights (dim,) as one array: a single object, which Flower stores once for all nodes."""
    return ArrayRecord({"weights": raw(weights)})


def read_weights(record: ArrayRecord, dim: int) -> Vector:
    """The inverse of `weights_record`. Raises PacketError for anything but finite float32 (dim,)."""
    weights = read_array(record, "weights", np.float32, (dim,)).copy()  # PyTorch wants to write
    if not np.isfinite(weights).all():
        raise PacketError("array 'weights' must be finite")
    return weights


def packets_record(uploads: Sequence[Upload], world: World) -> ArrayRecord:
    """The packets of the devices that have something to send, a row each."""
    sending = [u for u in uploads if u.samples]
    record = {}
    for name, (dtype, _) in packet_rows(world).items():
        rows = [np.frombuffer(part, dtype) for part in (getattr(u, name) for u in sending) if part is not None]
        record[name] = raw(stacked(rows, dtype))
    return ArrayRecord(record)


def stored_packets(record: ArrayRecord, name: str, world: World, count: int) -> list[bytes]:
    """The packets of `count` devices that `packets_record` keeps under a field of `Upload`. Raises PacketError."""
    dtype, length = packet_rows(world)[name]
    return [row.tobytes() for row in read_array(record, name, dtype, (count, length))]


def field_of(row: NDArray[Any]) -> Any:
    """A row as the field of `Upload` that it is: packets are bytes."""
    return row.tobytes() if row.dtype == np.uint8 else row


def packet_rows(world: World) -> dict[str, tuple[type[np.generic], int]]:
    """What a sending device hands over in this scheme: field of `Upload` -> (dtype, elements)."""
    form, scheme = world.format, world.scheme
    packets = form.packets
    rows: dict[str, tuple[type[np.generic], int]] = {}
    if scheme.uplink in ("split", "single", "sign"):
        rows["sign_packet"] = (np.uint8, _bytes(sign_packet_bits(packets.size)))
    if scheme.uplink in ("split", "single"):
        bits = modulus_packet_bits(packets.size, form.codec.bits, form.ranges)
        rows["modulus_packet"] = (np.uint8, _bytes(bits))
    if scheme.uplink == "sparse":
        rows["sparse_packet"] = (np.uint8, _bytes(sparse_packet_bits(form.layout.size, form.kept_values)))
    if scheme.error_feedback or scheme.uplink in ("ideal", "analog"):
        rows["gradient"] = (np.float32, form.layout.size)
    if scheme.uplink == "ladder":
        rows["ladder_packet"] = (np.uint8, _bytes(HEADER_BITS + form.digits * packets.size))
    if scheme.uplink == "codec" and scheme.codec is not None:
        rows["own_packet"] = (np.uint8, HEADER_BITS // 8 + _bytes(scheme.codec.bits(packets.size)))
    if world.config.training.correction != "none":  # the server keeps it for a node, which forgets
        rows["kept"] = (np.float32, form.layout.size)
    if form.statistics:
        rows["statistics"] = (np.float32, form.statistics)
    return rows


def has_packets(upload: Upload, world: World) -> bool:
    """Whether a device has handed over all that its scheme sends."""
    parts = [getattr(upload, name) for name in packet_rows(world)]
    return all(part is not None and len(part) for part in parts)


def _bytes(bits: int) -> int:
    return -(-bits // 8)
