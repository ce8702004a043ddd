"""A vector as one ladder of bits, the important ones first: a sketch, then all signs, then magnitudes, plane by plane.

After a random rotation every coordinate is nearly Gaussian with the variance of its block, so any prefix of the
planes is an estimate of the whole vector:

* The first n signs, n < d, scaled by d / n (a sketch; EDEN below one bit, Vargaftik et al. 2022).
* All signs, scaled: DRIVE (Vargaftik et al. 2021).
* Each further plane halves the cells of the magnitudes (EDEN's codebooks, here nested, so that a packet may be cut
  after any bit).

Each block's scale makes the estimate of whole planes exact along the block, and with that unbiased over rotations
(DRIVE, EDEN); for a number of planes that was not foreseen, it is so for Gaussian coordinates. The squared error of n
bits relative to the squared norm is `noise(n, d)`. Coordinate i of every block comes before coordinate i + 1 of any, so
that a prefix of a plane takes as much of each block. Bits are counted from the least significant one of the first byte.

A packet may be cut into segments, each with all bits of its coordinates: any of them make a sketch of the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from spfl.arrays import Bools, Bytes, Floats, Vector
from spfl.machine import PART
from spfl.packets import ladder_kernels as kernels

MAX_PLANES = 4  # the sign and three of the magnitude
LEAST_SHARE = 1.0 / 64  # of the signs: the shortest sketch


@dataclass(frozen=True)
class Codebook:
    """Cells of |x| for a standard normal x after some planes: edges (cell + 1,), unbiased values (cell,).

    `noise` is the squared error of an unbiased value relative to the squared norm.
    """

    edges: Floats
    values: Floats
    noise: float

    @cached_property
    def inner(self) -> Vector:
        """The edges between cells, each rounded up to a float32: such a number exceeds both or neither."""
        edges = self.edges[1:-1].astype(np.float32)
        return np.where(edges < self.edges[1:-1], np.nextafter(edges, np.float32(np.inf)), edges)


def _density(x: Floats) -> Floats:
    """Of a standard normal."""
    return np.asarray(np.exp(-(x**2) / 2.0) / np.sqrt(2.0 * np.pi))


def _centroids(edges: Floats) -> Floats:
    """E[|x| given its cell]."""
    return np.asarray((_density(edges[:-1]) - _density(edges[1:])) / np.diff(ndtr(edges)))


def _halved(low: float, high: float) -> float:
    """The point that splits a cell best: midway between the means of its halves (Lloyd, Max)."""
    point = low + 0.7 if np.isinf(high) else 0.5 * (low + high)
    for _ in range(200):
        point = float(_centroids(np.array([low, point, high])).mean())
    return point


@lru_cache(maxsize=MAX_PLANES + 1)
def codebook(planes: int) -> Codebook:
    """The nested codebook after the sign and `planes` - 1 planes of the magnitude."""
    edges = [0.0, np.inf]
    for _ in range(planes - 1):
        inner = [_halved(low, high) for low, high in pairwise(edges)]
        edges = sorted([*edges, *inner])
    cells = np.array(edges)
    means = _centroids(cells)
    kept = float(2.0 * np.diff(ndtr(cells)) @ means**2)  # E[x c(x)] = E[c(x)^2] at the centroids
    return Codebook(cells, means / kept, 1.0 / kept - 1.0)


def plane_noise() -> Floats:
    """The noise of one, two, ... whole planes, (plane,)."""
    return np.array([codebook(planes).noise for planes in range(1, MAX_PLANES + 1)])


def noise(bits: ArrayLike, dim: int) -> Floats:
    """Squared error of the first `bits` bits of a vector (dim,), relative to its squared norm; inf for none.

    Source: pi/2 d/n - 1 for n <= d signs (EDEN); linear between whole planes, as the error adds up over coordinates.
    """
    share = np.asarray(bits, np.float64) / dim
    known = plane_noise()
    whole = np.interp(share, np.arange(1, MAX_PLANES + 1), known)
    with np.errstate(divide="ignore"):
        sketch = (1.0 + known[0]) / np.maximum(share, 0.0) - 1.0
    return np.asarray(np.where(share < 1.0, sketch, whole))


def spreads_of(vector: Vector, block: int) -> Vector:
    """The root mean square of each block, float32 (blocks,); 1 where it is 0."""
    out = np.empty(vector.size // block, np.float32)
    kernels.spreads(vector, block, out)
    return out


def deviations(vector: Vector, block: int, planes: int = 1) -> Vector:
    """What an estimate from these planes is scaled by, float32 (blocks,): the side information of a ladder.

    Near the root mean square of the block: ||x||^2 / <x, c(x)> with the codebook's values c, as in EDEN.
    """
    spread, book = spreads_of(vector, block), codebook(planes)
    out = np.empty(spread.size, np.float32)
    kernels.deviations(vector, spread, book.inner, book.values, out)
    return out


def encode(vector: Vector, block: int, planes: int) -> Bytes:
    """All bits of the first planes of a rotated vector (dim,), uint8 (planes dim / 8,); dim is a multiple of 8."""
    spread, edges = spreads_of(vector, block), codebook(planes).inner
    packed, rows = np.empty((planes, vector.size // 8), np.uint8), _rows(block, spread.size)
    masks = [kernels.SIGN, *(np.uint8(1 << bit) for bit in reversed(range(planes - 1)))]
    for begin in range(0, block, rows):
        codes = np.empty(min(rows, block - begin) * spread.size, np.uint8)
        kernels.write_codes(vector, spread, edges, begin, codes)
        byte = begin * spread.size // 8
        for plane, mask in zip(packed, masks, strict=True):
            plane[byte : byte + codes.size // 8] = np.packbits(codes & mask, bitorder="little")
    return packed.ravel()


def decode(payload: Bytes, deviation: Vector, block: int, bits: int) -> Vector:
    """The estimate that the first `bits` bits give, float32 (dim,)."""
    dim = block * len(deviation)
    whole, rest = divmod(min(bits, MAX_PLANES * dim), dim)
    estimate, part = np.zeros(dim, np.float32), _rows(block, len(deviation)) * len(deviation)
    told = [(whole, (rest, dim), 1.0)] if whole else []
    if rest:
        told.append((whole + 1, (0, rest), 1.0 if whole else dim / rest))
    for planes, (begin, end), scale in told:
        table = _table(planes) * np.float32(scale)
        for start in range(begin // part * part, end, part):
            first, last = max(start, begin), min(start + part, end)
            kernels.read_codes(_codes(payload, planes, dim, (first, last)), first, table, deviation, estimate)
    return estimate


def share_received(came: Bools, dim: int, block: int, bits: float) -> float:
    """The share of the coordinates in a packet of so many bits that its segments, (segment,), brought."""
    places = int(min(bits, dim))
    return float(_brought(came, dim, block).T.ravel()[:places].mean()) if places else 0.0


def thinned(estimate: Vector, came: Bools, block: int) -> Vector:
    """What the segments that came, (segment,), leave of an estimate (dim,): 0 for the coordinates of the others."""
    return np.asarray(estimate * _brought(came, estimate.size, block).ravel())


def _brought(came: Bools, dim: int, block: int) -> Bools:
    """Whether each coordinate came, (blocks, block): coordinate i of every block is in segment i mod n."""
    return np.broadcast_to(came[np.arange(block) % came.size], (dim // block, block))


def _rows(block: int, blocks: int) -> int:
    """How many coordinates of each block are told together: whole tiles, some PART values in all."""
    tile = min(kernels.TILE, block)
    return tile * max(1, PART // (tile * blocks))


def unpacked(payload: Bytes, first: int, count: int) -> Bytes:
    """So many bits from bit `first` on, uint8 (count,)."""
    byte, bit = divmod(first, 8)
    return np.unpackbits(payload[byte:], count=bit + count, bitorder="little")[bit:]


def _codes(payload: Bytes, planes: int, dim: int, places: tuple[int, int]) -> Bytes:
    """The digits of places from one to before another, the sign first, as one number each."""
    first, last = places
    codes = unpacked(payload, first, last - first)
    for plane in range(1, planes):
        codes <<= 1
        codes |= unpacked(payload, plane * dim + first, last - first)
    return codes


def _table(planes: int) -> Vector:
    """What each code stands for, float32 (2^planes,)."""
    values = codebook(planes).values.astype(np.float32)
    return np.concatenate([values, -values])
