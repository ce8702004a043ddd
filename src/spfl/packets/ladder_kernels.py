"""Compiled loops under the ladder: blocks to cells and bits, and back (`packets.ladder` has the rules).

Each goes over the vector once, a tile of a block at a time, and keeps to one byte a bit, which NumPy packs. A block is
a power of two of 4 or more coordinates. Coordinate i of block b has place i * blocks + b in a plane.
"""

from __future__ import annotations

import numpy as np

from spfl.compiled import CACHE, njit

TILE = 64  # coordinates of a block that are looked at together; they stay in the L1 cache


@njit(cache=CACHE, nogil=True)
def spreads(vector, block, out):  # type: ignore[no-untyped-def]
    """The root mean square of each block; 1 for a block of zeros, which may then be divided by it."""
    for b in range(out.size):
        x = vector[b * block : (b + 1) * block]
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for i in range(0, block, 4):
            s0 += np.float64(x[i]) ** 2
            s1 += np.float64(x[i + 1]) ** 2
            s2 += np.float64(x[i + 2]) ** 2
            s3 += np.float64(x[i + 3]) ** 2
        spread = np.float32(np.sqrt((s0 + s1 + s2 + s3) / block))
        out[b] = spread if spread > 0 else np.float32(1)


@njit(cache=CACHE, nogil=True)
def _cells(x, spread, edges, cells):  # type: ignore[no-untyped-def]
    """The cell of each |x| / spread: how many edges do not exceed it."""
    cells[:] = 0
    for j in range(edges.size):
        for i in range(x.size):
            cells[i] += np.abs(x[i] / spread) >= edges[j]


@njit(cache=CACHE, nogil=True)
def deviations(vector, spread, edges, values, out):  # type: ignore[no-untyped-def]
    """||x||^2 / <|x|, c(|x|)> of each block, where c is the value of the cell; 0 for a block of zeros."""
    block = vector.size // out.size
    cells = np.empty(min(TILE, block), np.uint8)
    for b in range(out.size):
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        a0, a1, a2, a3 = 0.0, 0.0, 0.0, 0.0
        for start in range(b * block, (b + 1) * block, cells.size):
            x = vector[start : start + cells.size]
            _cells(x, spread[b], edges, cells)
            for i in range(0, x.size, 4):
                x0, x1, x2, x3 = np.float64(x[i]), np.float64(x[i + 1]), np.float64(x[i + 2]), np.float64(x[i + 3])
                s0, s1, s2, s3 = s0 + x0 * x0, s1 + x1 * x1, s2 + x2 * x2, s3 + x3 * x3
                a0 += abs(x0) * values[cells[i]]
                a1 += abs(x1) * values[cells[i + 1]]
                a2 += abs(x2) * values[cells[i + 2]]
                a3 += abs(x3) * values[cells[i + 3]]
        along = a0 + a1 + a2 + a3
        out[b] = (s0 + s1 + s2 + s3) / along if along > 0 else 0.0


@njit(cache=CACHE, nogil=True)
def write_planes(vector, spread, edges, digits):  # type: ignore[no-untyped-def]
    """The signs (1 is negative) and the digits of the cells, the highest first, to uint8 (plane, place)."""
    blocks, planes = spread.size, len(digits)
    block = vector.size // blocks
    cells = np.empty(min(TILE, block), np.uint8)
    for first in range(0, block, cells.size):
        for b in range(blocks):
            x = vector[b * block + first : b * block + first + cells.size]
            _cells(x, spread[b], edges, cells)
            for i in range(x.size):
                place = (first + i) * blocks + b
                digits[0, place] = x[i] < 0
                for plane in range(1, planes):
                    digits[plane, place] = (cells[i] >> (planes - 1 - plane)) & 1


@njit(cache=CACHE, nogil=True)
def read_planes(digits, places, values, deviation, out):  # type: ignore[no-untyped-def]
    """Digits, one plane after the other, to the values of the cells times the deviations, at `places` [first, last).

    The planes read are those that tell `values` (cell,) apart; `out` is float32 (dim,), block after block.
    """
    blocks, dim = deviation.size, out.size
    block, tile = dim // blocks, min(TILE, dim // blocks)
    for start in range(places[0] // blocks // tile * tile, min(block, -(-places[1] // blocks)), tile):
        for b in range(blocks):
            for i in range(start, start + tile):
                place = i * blocks + b
                if places[0] <= place < places[1]:
                    cell, at, cells = 0, place + dim, 1
                    while cells < values.size:
                        cell, at, cells = 2 * cell + digits[at], at + dim, 2 * cells
                    value = -values[cell] if digits[place] else values[cell]
                    out[b * block + i] = value * deviation[b]
