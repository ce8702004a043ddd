"""The container of every packet: header, floats, codes, CRC (the format is that of `packets.codec`), and its length.

Whoever opens a packet checks everything, and allocates nothing from what the packet claims.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from spfl.arrays import Bytes, Vector
from spfl.errors import ConfigError, PacketError
from spfl.packets.layout import Layout
from spfl.packets.peaks import DIGITS

MAGIC = b"SPFL"
VERSION = 1
MAX_BITS = 8
RANGE_BITS = 64  # two float32
VALUE_BITS = 32  # one
HEADER = struct.Struct("<4sBBHIIQI8s")
_CRC = struct.Struct("<I")
HEADER_BITS = 8 * (HEADER.size + _CRC.size)  # everything that is not payload


class Kind(IntEnum):
    """What a packet carries."""

    SIGN = 1
    MODULUS = 2
    SPARSE = 3
    LADDER = 4
    OWN = 5


def sign_packet_bits(dim: int) -> int:
    """L_s: bits on the air of a sign packet, header and CRC included."""
    return _packet_bits(dim, 1, 0)


def modulus_packet_bits(dim: int, bits: int, ranges: int = 1) -> int:
    """L_m: bits on the air of a modulus packet of `ranges` (v_min, v_max) pairs, header and CRC included."""
    return _packet_bits(dim, bits, ranges)


def sparse_packet_bits(dim: int, kept: int) -> int:
    """Bits on the air of a sparse packet of `kept` values and their places, header and CRC included."""
    return HEADER_BITS + (VALUE_BITS + place_bits(dim)) * kept


def place_bits(dim: int) -> int:
    """ceil(log2 dim): bits that name one of `dim` elements."""
    return (dim - 1).bit_length()


def _packet_bits(dim: int, bits: int, ranges: int) -> int:
    return HEADER_BITS + bits * dim + RANGE_BITS * ranges


class Header(NamedTuple):
    magic: bytes
    version: int
    kind: int
    bits: int
    round_: int
    device: int
    elements: int
    ranges: int
    digest: bytes


def blank(
    kind: Kind, bits: int, ranges: int, layout: Layout, round_: int, device: int
) -> tuple[bytearray, Vector, Bytes]:
    """A packet with its header written, and the views of its floats and of its codes, to be filled."""
    for name, value in (("round_", round_), ("device", device)):
        if not 0 <= value < 2**32:
            raise ConfigError(f"{name} must be in 0..2^32 - 1, got {value}")
    packet = bytearray(byte_length(kind, layout.size, bits, ranges))
    HEADER.pack_into(packet, 0, MAGIC, VERSION, kind, bits, round_, device, layout.size, ranges, layout.digest)
    return packet, *contents(packet, kind, ranges)


def seal(packet: bytearray) -> bytes:
    body = memoryview(packet)[: -_CRC.size]
    _CRC.pack_into(packet, len(body), zlib.crc32(body))
    return bytes(packet)


def open_packet(packet: bytes, kind: Kind, layout: Layout, round_: int, device: int) -> tuple[Header, Vector, Bytes]:
    """Check everything, the cheap and telling first. Nothing is allocated from what the packet claims."""
    if len(packet) < HEADER_BITS // 8:
        raise PacketError(f"packet length must be at least {HEADER_BITS // 8} bytes, got {len(packet)}")
    header = Header(*HEADER.unpack_from(packet))
    expect("magic", MAGIC, header.magic)
    expect("version", VERSION, header.version)
    expect("kind", int(kind), header.kind)
    least, most, counts = _rules(kind, layout)
    if not least <= header.bits <= most:
        raise PacketError(f"packet bits must be in {least}..{most}, got {header.bits}")
    if header.ranges not in counts:
        raise PacketError(f"packet ranges must be one of {counts}, got {header.ranges}")
    expect("length in bytes", byte_length(kind, layout.size, header.bits, header.ranges), len(packet))
    body = memoryview(packet)[: -_CRC.size]
    expect("CRC-32", zlib.crc32(body), _CRC.unpack_from(packet, len(body))[0])
    expect("layout digest", layout.digest.hex(), header.digest.hex())
    expect("element count", layout.size, header.elements)
    expect("round", round_, header.round_)
    expect("device", device, header.device)
    floats, codes = contents(packet, kind, header.ranges)
    used = header.bits * (header.ranges if kind == Kind.SPARSE else layout.size) % 8
    if used and codes[-1] >> used:
        raise PacketError("packet padding bits must be zero")
    return header, floats, codes


def _rules(kind: Kind, layout: Layout) -> tuple[int, int, Sequence[int]]:
    """Least and most bits of a code, and how many ranges (values, in a sparse packet) there may be."""
    if kind == Kind.SPARSE:
        return place_bits(layout.size), place_bits(layout.size), range(1, layout.size + 1)
    if kind == Kind.OWN:
        return 8, 8, range(1, 2**32)
    if kind == Kind.LADDER:
        return 1, DIGITS, [0]
    return (1, 1, [0]) if kind == Kind.SIGN else (1, MAX_BITS, sorted({1, len(layout.names)}))


def expect(what: str, expected: object, got: object) -> None:
    if got != expected:
        raise PacketError(f"packet {what} must be {expected}, got {got}")


def byte_length(kind: Kind, dim: int, bits: int, ranges: int) -> int:
    if kind == Kind.OWN:  # `ranges` counts its bytes
        return HEADER_BITS // 8 + ranges
    length = HEADER_BITS + (bits + VALUE_BITS) * ranges if kind == Kind.SPARSE else _packet_bits(dim, bits, ranges)
    return -(-length // 8)


def contents(packet: bytes | bytearray, kind: Kind, ranges: int) -> tuple[Vector, Bytes]:
    count = {Kind.SPARSE: ranges, Kind.OWN: 0}.get(kind, 2 * ranges)
    start = HEADER.size + count * VALUE_BITS // 8
    floats = np.frombuffer(packet, "<f4", count, HEADER.size)
    return floats, np.frombuffer(packet, np.uint8, len(packet) - start - _CRC.size, start)
