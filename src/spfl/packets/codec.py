"""Gradients to packets and back: signs, quantised moduli, and the binary format on the wire (model.md, section 2).

A gradient is float32 of shape (dim,), the parameter tensors of a `Layout` one after the other. It becomes two
packets, little-endian:

    header (36 bytes) | (v_min, v_max) float32, one pair a range | codes, b bits an element | CRC-32 (4 bytes)

Element i lies at the bits b i .. b i + b - 1 of the codes, counted from the least significant bit of the first
byte; a sign is a code of one bit, 1 for negative. A third kind, the sparse packet of the baseline top-k, has float32
values in place of the ranges, and their places, ascending, as codes. The bits counted on the air are exact; a packet
held as bytes is padded with zero bits to the next byte, so 8 len(packet) exceeds them by 0 .. 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Vector
from spfl.errors import ConfigError, PacketError
from spfl.packets import ladder, peaks
from spfl.packets import quantiser as kernels
from spfl.packets.container import (
    HEADER,
    HEADER_BITS,
    MAX_BITS,
    Header,
    Kind,
    blank,
    byte_length,
    contents,
    expect,
    open_packet,
    place_bits,
    seal,
)
from spfl.packets.layout import Layout, _vector
from spfl.packets.vector_codecs import Codec


def encode_signs(gradient: Vector, *, layout: Layout, round_: int, device: int) -> bytes:
    """The sign packet of a gradient (dim,): zero, of either sign, counts as +1.

    Raises PacketError for a gradient that is not finite float32 of the layout's size.
    """
    values = _vector(gradient, layout.size, "gradient")
    packet, _, codes = blank(Kind.SIGN, 1, 0, layout, round_, device)
    if not kernels.pack_signs(values.view(np.uint32), codes):
        raise PacketError("gradient must be finite, got NaN or infinity")
    return seal(packet)


@dataclass(frozen=True)
class Levels:
    """2^bits levels of a modulus; `per_tensor` takes one range a parameter tensor in place of one for the vector."""

    bits: int
    per_tensor: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(f"bits must be in 1..{MAX_BITS}, got {self.bits}")


def encode_modulus(
    gradient: Vector, levels: Levels, *, layout: Layout, round_: int, device: int, rng: np.random.Generator
) -> tuple[bytes, float]:
    """The modulus packet of a gradient (dim,), and delta^2, the variance that its quantiser adds (model.md, section 2).

    Stochastic uniform quantiser with 2^bits levels from v_min to v_max, both of them levels: unbiased up to the
    float32 rounding of the decoded levels. Ranges `per_tensor` (64 bits each) are our extension. One 64-bit draw from
    `rng` keys the dither, which is a hash of key and element index, so no random array is held.
    Raises PacketError as `encode_signs` does.
    """
    values, bits = _vector(gradient, layout.size, "gradient"), levels.bits
    edges = layout.edges if levels.per_tensor else layout.edges[[0, -1]]
    packet, floats, codes = blank(Kind.MODULUS, bits, edges.size - 1, layout, round_, device)
    ranges = floats.reshape(-1, 2)
    if not kernels.find_ranges(values.view(np.uint32), edges, ranges.view(np.uint32)):
        raise PacketError("gradient must be finite, got NaN or infinity")
    key = rng.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True)
    delta2 = kernels.quantise(values, bits, edges, ranges, key, codes)
    return seal(packet), delta2


def encode_sparse(gradient: Vector, kept: int, *, layout: Layout, round_: int, device: int) -> bytes:
    """The `kept` elements of largest modulus of a gradient (dim,), exact, with their places; ties go to the first.

    Raises ConfigError for kept outside 1..dim, PacketError as `encode_signs` does.
    """
    values = _vector(gradient, layout.size, "gradient")
    if not 1 <= kept <= layout.size:
        raise ConfigError(f"kept must be in 1..{layout.size}, got {kept}")
    if not np.isfinite(values).all():
        raise PacketError("gradient must be finite, got NaN or infinity")
    modulus = np.abs(values)
    least = np.partition(modulus, -kept)[-kept]
    above, equal = np.flatnonzero(modulus > least), np.flatnonzero(modulus == least)
    places = np.sort(np.concatenate([above, equal[: kept - above.size]]))
    packet, floats, codes = blank(Kind.SPARSE, place_bits(layout.size), kept, layout, round_, device)
    floats[:] = values[places]
    codes[:] = np.packbits(places[:, None] >> np.arange(place_bits(layout.size)) & 1, bitorder="little")
    return seal(packet)


def encode_ladder(vector: Vector, digits: int, *, layout: Layout, round_: int, device: int) -> bytes:
    """A rotated vector (dim,) as so many digits of each value, of which the radio sends as many bits as it is granted.

    Up to MAX_PLANES digits are the first planes of a ladder; `peaks.DIGITS` are what `packets.peaks` makes a packet
    of any length from.

    Raises PacketError as `encode_signs` does.
    """
    values = _vector(vector, layout.size, "vector")
    if not np.isfinite(values).all():
        raise PacketError("gradient must be finite, got NaN or infinity")
    packet, _, codes = blank(Kind.LADDER, digits, 0, layout, round_, device)
    block = layout.sizes[0]
    codes[:] = peaks.encode(values, block) if digits == peaks.DIGITS else ladder.encode(values, block, digits)
    return seal(packet)


def encode_own(
    codec: Codec, vector: Vector, rng: np.random.Generator, *, layout: Layout, round_: int, device: int
) -> bytes:
    """A vector (dim,) as a codec of the caller's writes it, in our container.

    Raises PacketError for a payload of another length than the codec promises, and as `encode_signs` does.
    """
    values = _vector(vector, layout.size, "gradient")
    if not np.isfinite(values).all():
        raise PacketError("gradient must be finite, got NaN or infinity")
    payload, size = codec.encode(values, rng), -(-codec.bits(layout.size) // 8)
    if len(payload) != size:
        raise PacketError(f"codec {codec.name} must write {size} bytes for {layout.size} values, got {len(payload)}")
    packet, _, codes = blank(Kind.OWN, 8, size, layout, round_, device)
    codes[:] = np.frombuffer(payload, np.uint8)
    return seal(packet)


def decode_ladder(packet: bytes, deviation: Vector, bits: float, *, layout: Layout, round_: int, device: int) -> Vector:
    """The estimate from the first bits of a ladder, float32 (dim,). Raises PacketError as `decode_signs` does."""
    header, _, codes = open_packet(packet, Kind.LADDER, layout, round_, device)
    if header.bits == peaks.DIGITS:
        groups = layout.size // peaks.group_of(layout.sizes[0])
        first = peaks.first_group(groups, round_, device)
        return peaks.decode(codes, deviation, layout.sizes[0], int(bits), first)
    return ladder.decode(codes, deviation, layout.sizes[0], min(int(bits), header.bits * layout.size))


def decode_own(codec: Codec, packet: bytes, *, layout: Layout, round_: int, device: int) -> Vector:
    """What a codec of the caller's reads, float32 (dim,). Raises PacketError as `decode_signs` does."""
    _, _, codes = open_packet(packet, Kind.OWN, layout, round_, device)
    expect("payload length", -(-codec.bits(layout.size) // 8), codes.size)
    values = np.asarray(codec.decode(codes.tobytes(), layout.size), np.float32)
    if values.shape != (layout.size,) or not np.isfinite(values).all():
        raise PacketError(f"codec {codec.name} must read {layout.size} finite values, got shape {values.shape}")
    return values


def decode_signs(packet: bytes, *, layout: Layout, round_: int, device: int, out: Vector | None = None) -> Vector:
    """Signs +-1, float32 (dim,), written to `out` if given.

    Raises PacketError for a packet that is damaged or was made for another layout, round, device or purpose.
    """
    _, _, codes = open_packet(packet, Kind.SIGN, layout, round_, device)
    out = _output(out, layout.size)
    kernels.unpack_signs(codes, out)
    return out


def decode_modulus(packet: bytes, *, layout: Layout, round_: int, device: int, out: Vector | None = None) -> Vector:
    """Quantised moduli, float32 (dim,), written to `out` if given. Raises PacketError as `decode_signs` does."""
    header, floats, codes = open_packet(packet, Kind.MODULUS, layout, round_, device)
    ranges = floats.reshape(-1, 2)
    if not (np.isfinite(ranges).all() and (ranges[:, 0] >= 0).all() and (ranges[:, 0] <= ranges[:, 1]).all()):
        raise PacketError("packet ranges must be finite with 0 <= v_min <= v_max")
    out = _output(out, layout.size)
    kernels.dequantise(codes, header.bits, _edges(layout, header.ranges), ranges, out)
    return out


def decode_sparse(packet: bytes, *, layout: Layout, round_: int, device: int) -> Vector:
    """The gradient with zeros for what was not sent, float32 (dim,). Raises PacketError as `decode_signs` does."""
    header, values, codes = open_packet(packet, Kind.SPARSE, layout, round_, device)
    bits, kept = header.bits, header.ranges
    digits = np.unpackbits(codes, count=bits * kept, bitorder="little").reshape(kept, bits)
    places = digits.astype(np.int64) @ (1 << np.arange(bits))
    if places[-1] >= layout.size or (np.diff(places) <= 0).any():
        raise PacketError(f"packet places must ascend and be below {layout.size}")
    if not np.isfinite(values).all():
        raise PacketError("packet values must be finite")
    out = np.zeros(layout.size, np.float32)
    out[places] = values
    return out


def gradient_stats(gradient: Vector, vbar: Vector) -> tuple[float, float, float]:
    """||v||^2, ||vbar||^2 and <v, vbar> with v = |gradient|, both (dim,) float32, summed in float64."""
    values = _vector(gradient, gradient.size, "gradient")
    v2, vbar2, v_vbar = kernels.moments(values, _vector(vbar, values.size, "vbar"))
    return v2, vbar2, v_vbar


def flip_codes(packet: bytes, rate: float, rng: np.random.Generator) -> bytes:
    """A packet of signs or moduli in which each bit of a code has flipped with this probability, and nothing else.

    Other packets, and those that are damaged already, come back as they are.
    """
    if rate <= 0 or len(packet) < HEADER_BITS // 8:
        return packet
    header = Header(*HEADER.unpack_from(packet))
    plain = header.kind in (Kind.SIGN, Kind.MODULUS) and 1 <= header.bits <= MAX_BITS
    if not plain or len(packet) != byte_length(Kind(header.kind), header.elements, header.bits, header.ranges):
        return packet
    changed = bytearray(packet)
    if seal(changed) != packet:
        return packet
    _, codes = contents(changed, Kind(header.kind), header.ranges)
    codes ^= np.packbits(rng.random(header.bits * header.elements) < rate, bitorder="little")
    return seal(changed)


def _edges(layout: Layout, ranges: int) -> NDArray[np.int64]:
    return layout.edges if ranges == len(layout.names) else layout.edges[[0, -1]]


def _output(out: Vector | None, size: int) -> Vector:
    if out is None:
        return np.empty(size, np.float32)
    if out.dtype != np.float32 or out.shape != (size,) or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous float32 of shape ({size},), got {out.dtype} of {out.shape}")
    return out
