"""Slow, obviously correct twins of the package's numerics: loops over elements, no shared code with `spfl`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# --- codec: packets bit by bit -----------------------------------------------------------------------------------


def dither(key: int, size: int) -> NDArray[np.float64]:
    """The first `size` outputs of SplitMix64 seeded with `key`, top 53 bits as a fraction; plain Python integers."""
    mask, values = 2**64 - 1, []
    for i in range(size):
        z = (key + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        values.append(((z ^ (z >> 31)) >> 11) / 2**53)
    return np.array(values)


def pack_codes(codes: NDArray[np.integer], bits: int) -> bytes:
    """Codes of `bits` bits, least significant bit first, padded with zeros to a byte."""
    one_bit_a_row = np.array([[int(code) >> k & 1 for k in range(bits)] for code in codes], np.uint8)
    return np.packbits(one_bit_a_row.ravel(), bitorder="little").tobytes()


def quantise(
    gradient: NDArray[np.float32], bits: int, edges: Sequence[int], uniform: NDArray[np.float64]
) -> tuple[list[int], list[tuple[np.float32, np.float32]], list[np.float32], float]:
    """Codes, ranges, decoded moduli and delta^2, an element at a time; range r is elements edges[r] .. edges[r + 1]."""
    top = 2**bits - 1
    codes, ranges, decoded, delta2 = [], [], [], 0.0
    for first, last in pairwise(edges):
        v = np.abs(gradient[first:last])
        low, high = (v.min(), v.max()) if v.size else (np.float32(0), np.float32(0))
        width = float(high) - float(low)
        ranges.append((low, high))
        for x, u in zip(v, uniform[first:last], strict=True):
            position = (float(x) - float(low)) / width * top if width else 0.0
            f = position - math.floor(position)
            codes.append(math.floor(position) + (1 if u < f else 0))
            decoded.append(np.float32(float(low) + width / top * codes[-1]))
            delta2 += f * (1 - f) * (width / top) ** 2
    return codes, ranges, decoded, delta2


def packet(
    kind: int, bits: int, round_: int, device: int, digest: bytes, codes: Sequence[int], ranges: Sequence
) -> bytes:
    """The wire format, field by field."""
    header = b"SPFL" + bytes([1, kind]) + bits.to_bytes(2, "little")
    header += round_.to_bytes(4, "little") + device.to_bytes(4, "little")
    header += len(codes).to_bytes(8, "little") + len(ranges).to_bytes(4, "little") + digest
    body = header + np.array(ranges, "<f4").tobytes() + pack_codes(np.array(codes, np.int64), bits)
    return body + zlib.crc32(body).to_bytes(4, "little")
