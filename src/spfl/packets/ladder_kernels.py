"""Compiled loops under the ladder: blocks to cells and bits, and back (`packets.ladder` has the rules).

Each goes over the vector once, a tile of a block at a time, and keeps to one byte a coordinate, which NumPy packs. A
block is a power of two of 4 or more coordinates. Coordinate i of block b has place i * blocks + b in a plane.
"""

from __future__ import annotations

import numpy as np

from spfl.compiled import CACHE, njit

SIGN = np.uint8(0x80)  # of a code: the coordinate is negative
TILE = 256  # coordinates of a block that are looked at together; they stay in the L1 cache
BATCH = 64  # blocks whose codes are written together, a cache line of one place in each


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
def cells_of(x, spread, edges, modulus, cells):  # type: ignore[no-untyped-def]
    """The cell of each |x| / spread: how many edges do not exceed it. Floats all along, as SIMD registers hold them."""
    for i in range(x.size):
        modulus[i] = np.abs(x[i] / spread)
        cells[i] = np.float32(0)
    for j in range(edges.size):
        for i in range(x.size):
            cells[i] += np.float32(1) if modulus[i] >= edges[j] else np.float32(0)


@njit(cache=CACHE, nogil=True)
def deviations(vector, spread, edges, values, out):  # type: ignore[no-untyped-def]
    """||x||^2 / <|x|, c(|x|)> of each block, where c is the value of the cell; 0 for a block of zeros."""
    block = vector.size // out.size
    tile = min(TILE, block)
    modulus, cells = np.empty(tile, np.float32), np.empty(tile, np.float32)
    for b in range(out.size):
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        a0, a1, a2, a3 = 0.0, 0.0, 0.0, 0.0
        for start in range(b * block, (b + 1) * block, tile):
            x = vector[start : start + tile]
            cells_of(x, spread[b], edges, modulus, cells)
            for i in range(0, x.size, 4):
                x0, x1, x2, x3 = np.float64(x[i]), np.float64(x[i + 1]), np.float64(x[i + 2]), np.float64(x[i + 3])
                s0, s1, s2, s3 = s0 + x0 * x0, s1 + x1 * x1, s2 + x2 * x2, s3 + x3 * x3
                a0 += abs(x0) * values[np.intp(cells[i])]
                a1 += abs(x1) * values[np.intp(cells[i + 1])]
                a2 += abs(x2) * values[np.intp(cells[i + 2])]
                a3 += abs(x3) * values[np.intp(cells[i + 3])]
        along = a0 + a1 + a2 + a3
        out[b] = (s0 + s1 + s2 + s3) / along if along > 0 else 0.0


@njit(cache=CACHE, nogil=True)
def write_codes(vector, spread, edges, begin, codes):  # type: ignore[no-untyped-def]
    """The cell of each coordinate from `begin` on, with SIGN added where it is negative, to uint8 (place,).

    `codes` has room for whole tiles of every block.
    """
    blocks = spread.size
    block, rows = vector.size // blocks, codes.size // blocks
    tile = min(TILE, block)
    modulus, cells = np.empty(tile, np.float32), np.empty(tile, np.float32)
    batch = np.empty((BATCH, tile), np.uint8)
    for first in range(0, rows, tile):
        for b in range(0, blocks, BATCH):
            count = min(BATCH, blocks - b)
            for j in range(count):
                start = (b + j) * block + begin + first
                x, line = vector[start : start + tile], batch[j]
                cells_of(x, spread[b + j], edges, modulus, cells)
                for i in range(tile):
                    line[i] = np.uint8(np.int32(cells[i])) | (SIGN if x[i] < 0 else np.uint8(0))
            for i in range(tile):
                places = codes[(first + i) * blocks + b : (first + i) * blocks + b + count]
                for j in range(count):
                    places[j] = batch[j, i]


@njit(cache=CACHE, nogil=True)
def read_codes(codes, start, table, deviation, out):  # type: ignore[no-untyped-def]
    """Table entries of the codes, which lie at places `start` and on, times the deviations of their blocks.

    `out` is float32 (dim,), block after block; coordinates at other places stay as they are.
    """
    blocks, stop = deviation.size, start + codes.size
    block = out.size // blocks
    tile = min(TILE, block)
    for first in range(start // blocks // tile * tile, min(block, -(-stop // blocks)), tile):
        for b in range(blocks):
            for i in range(first, first + tile):
                place = i * blocks + b
                if start <= place < stop:
                    out[b * block + i] = table[codes[place - start]] * deviation[b]
