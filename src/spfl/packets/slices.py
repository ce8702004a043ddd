"""A packet of signs or moduli in pieces that are of use alone: each has the codes of its own elements, and the ranges.

Element i of dim is in piece floor(i n / dim), as in `segments.element_mask`. A piece is the quantiser's ranges, if
there are any, and the bytes that hold its codes; bytes that two pieces share are in both. All pieces have one length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spfl.errors import PacketError
from spfl.packets.container import HEADER, RANGE_BITS, Kind, blank, contents, seal
from spfl.packets.layout import Layout


@dataclass(frozen=True)
class PieceShape:
    """What a packet is made of: `bits` a code of each element, `ranges` pairs of floats, and in how many pieces."""

    kind: Kind
    bits: int
    ranges: int
    count: int

    def span(self, piece: int, dim: int) -> tuple[int, int]:
        """The bytes of the codes that hold the elements of a piece, from and to."""
        first, last = (-(-i * dim // self.count) for i in (piece, piece + 1))
        return first * self.bits // 8, -(-last * self.bits // 8)

    def length(self, dim: int) -> int:
        """Bytes of a piece."""
        spans = [self.span(piece, dim) for piece in range(self.count)]
        return self.ranges * RANGE_BITS // 8 + max(end - begin for begin, end in spans)


def slice_packet(packet: bytes, shape: PieceShape, dim: int) -> list[bytes]:
    """The pieces of a packet, all of one length."""
    _, codes = contents(packet, shape.kind, shape.ranges)
    told = packet[HEADER.size : HEADER.size + shape.ranges * RANGE_BITS // 8]
    length = shape.length(dim)
    spans = [shape.span(piece, dim) for piece in range(shape.count)]
    return [(told + codes[begin:end].tobytes()).ljust(length, b"\0") for begin, end in spans]


def rebuild(pieces: Mapping[int, bytes], shape: PieceShape, layout: Layout, round_: int, device: int) -> bytes:
    """A packet of the pieces that arrived, with zeros for the codes of the others.

    Raises PacketError for a piece of another length, number or ranges: of one packet all have the same.
    """
    packet, floats, codes = blank(shape.kind, shape.bits, shape.ranges, layout, round_, device)
    head, length = shape.ranges * RANGE_BITS // 8, shape.length(layout.size)
    heads = {piece[:head] for piece in pieces.values()}
    if len(heads) != 1 or any(len(piece) != length for piece in pieces.values()):
        raise PacketError(f"pieces must have {length} bytes and the same ranges")
    floats[:] = np.frombuffer(heads.pop(), "<f4")
    for number, piece in pieces.items():
        if not 0 <= number < shape.count:
            raise PacketError(f"piece must be in 0..{shape.count - 1}, got {number}")
        begin, end = shape.span(number, layout.size)
        codes[begin:end] = np.frombuffer(piece, np.uint8, end - begin, head)
    return seal(packet)
