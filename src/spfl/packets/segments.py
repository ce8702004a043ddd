"""A packet cut into segments: how many, what each adds, and which part of the vector is whose.

A segment is what has a CRC of its own: a code block, a transport block, a datagram. The segments of a packet have equal
shares of its elements, in order. Axis vocabulary: `segment`, `dim`.
"""

from __future__ import annotations

import numpy as np

from spfl.arrays import Bools
from spfl.packets.container import RANGE_BITS

SEGMENT_HEADER_BITS = 64  # number, count, round, device (8, 8, 8, 8 bits), CRC-32


def segment_count(bits: int, limit: int | None) -> int:
    """Segments of a packet of `bits`, at most `limit` each: 1 without a limit."""
    return max(1, -(-bits // limit)) if limit else 1


def segment_overhead(count: int, ranges: int) -> int:
    """Bits that `count` segments add to a packet: a header each after the first, with the quantiser's ranges."""
    return (count - 1) * (SEGMENT_HEADER_BITS + RANGE_BITS * ranges)


def parity_overhead(bits: int, count: int, parity: int) -> int:
    """Bits that `parity` segments add to a packet of `bits` in `count` segments: an equal share and a header each."""
    return parity * (-(-bits // count) + SEGMENT_HEADER_BITS)


def element_mask(arrived: Bools, dim: int) -> Bools:
    """Which elements (dim,) lie in segments that arrived, (segment,): element i is in segment floor(i n / dim)."""
    return arrived[np.arange(dim) * arrived.size // dim]
