"""A packet cut into segments: how many, what each adds, and which part of the vector is whose.

A segment is what has a CRC of its own: a code block, a transport block, a datagram. The segments of a packet have equal
shares of its elements, in order. Axis vocabulary: `segment`, `dim`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spfl.arrays import Bools, Floats

SEGMENT_HEADER_BITS = 64  # number, count, round, device (8, 8, 8, 8 bits), CRC-32


@dataclass(frozen=True)
class Cut:
    """How packets are cut: into segments of at most `limit` bits, or not at all (None).

    `alone`: a segment is of use without the others, so each carries the side information that is in the packet.
    `one_fade`: all segments of a packet meet the same fade. `parity`: Reed-Solomon segments beside the first packet's.
    """

    limit: int | None = None
    alone: bool = False
    one_fade: bool = True
    parity: int = 0

    def count(self, bits: ArrayLike) -> Floats:
        """Segments of packets of these bits, any shape: 1 without a limit."""
        size = np.asarray(bits, np.float64)
        return np.ones(size.shape) if self.limit is None else np.maximum(np.ceil(size / self.limit), 1.0)


WHOLE = Cut()


def segment_overhead(count: ArrayLike, repeated: float) -> Floats:
    """Bits that `count` segments, any shape, add to a packet: each after the first has a header and `repeated` bits."""
    return (np.asarray(count, np.float64) - 1.0) * (SEGMENT_HEADER_BITS + repeated)


def parity_overhead(bits: int, count: int, parity: int) -> int:
    """Bits that `parity` segments add to a packet of `bits` in `count` segments: an equal share and a header each."""
    return parity * (-(-bits // count) + SEGMENT_HEADER_BITS)


def element_mask(arrived: Bools, dim: int) -> Bools:
    """Which elements (dim,) lie in segments that arrived, (segment,): element i is in segment floor(i n / dim)."""
    return arrived[np.arange(dim) * arrived.size // dim]
