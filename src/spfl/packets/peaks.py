"""Where the largest values are: what a few bits tell best of a rotated vector.

A sign alone costs one bit and tells 2/pi of the energy of a Gaussian coordinate. The place and the sign of the largest
of L coordinates, its peak, cost log2 L + 1 bits and tell more for each of them: 1.5 times as much with L = 128. So
below one bit a value a packet tells peaks in place of the signs of a part. Above one bit it tells all signs, and then
peaks before any magnitude, for of a few coordinates the largest is worth most.

A group of up to 128 coordinates is told in one of these grades (those on the upper hull of energy over bits):

* the peak of each L of its coordinates, L = 128, 64, ... 4: log2 L + 1 bits each,
* all signs and the peak of each L: 1 bit a coordinate, and log2 L for each peak,
* all signs and planes of the magnitude (`packets.ladder`).

A packet of n bits has two neighbouring grades: as many groups have the better one as fit, from another group on in
every round and for every device, so that each has it as often. Each code stands for E[x | code], divided by the part of
the energy that is told, `kept`. So the estimate is unbiased for Gaussian coordinates, and its squared error is
1 / kept - 1 of the squared norm.

A device prepares signs, planes, and a knockout tournament of every group: one bit for each match, 1 where the right
half has the larger modulus. Every grade can be read off these, so that the bits of a packet may be granted later.
One signed pulse among L is an old code: Fischer's pyramid code (1986), the cross-polytope hash after a random rotation
(Andoni et al. 2015), vqSGD for gradients (Gandikota et al. 2021). Ours is its place in the ladder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from spfl.arrays import Bytes, Floats, Vector
from spfl.machine import PART
from spfl.packets import peak_kernels as kernels
from spfl.packets.ladder import MAX_PLANES, codebook, spreads_of, unpacked

LARGEST_GROUP = 128
GOLDEN, SILVER = (math.sqrt(5.0) - 1.0) / 2.0, math.sqrt(2.0) - 1.0
DIGITS = MAX_PLANES + 1  # of a coordinate that a device prepares: the planes, and one of the tournaments


@dataclass(frozen=True)
class Grade:
    """One way to tell a group: `planes` of each coordinate, and the largest of each `peak` of them (1: of none).

    `share`: bits a coordinate. `kept`: the part of the energy that is told. `values`: E[|x|] of a peak and of the
    others where peaks are told, of each cell of the magnitude elsewhere.
    """

    share: float
    kept: float
    planes: int
    peak: int
    values: Floats


NOTHING = Grade(0.0, 0.0, 0, 1, np.zeros(1))


def _largest(count: int) -> float:
    """E[max |x_i|] of so many standard normal x_i."""
    x = np.linspace(0.0, 12.0, 2**16 + 1)  # fine enough for ten digits
    return float(np.trapezoid(1.0 - (2.0 * ndtr(x) - 1.0) ** count, x))


def _peaks(planes: int, peak: int) -> Grade:
    """All signs, or none, and the places of peaks."""
    top = _largest(peak)
    rest = (peak * _largest(1) - top) / (peak - 1) if planes else 0.0
    bits = planes * peak + int(np.log2(peak)) + (0 if planes else 1)
    return Grade(bits / peak, (top**2 + (peak - 1) * rest**2) / peak, planes, peak, np.array([top, rest]))


def _planes(planes: int) -> Grade:
    book = codebook(planes)
    kept = 1.0 / (1.0 + book.noise)
    return Grade(float(planes), kept, planes, 1, book.values * kept)


@lru_cache(maxsize=8)
def grades(group: int) -> tuple[Grade, ...]:
    """The grades on the upper hull of the energy over the bits, from nothing to all planes."""
    sizes = [2**k for k in range(1, group.bit_length())]
    known = [_peaks(planes, size) for planes in (0, 1) for size in sizes]
    known += [_planes(planes) for planes in range(1, MAX_PLANES + 1)]
    hull = [NOTHING]
    for grade in sorted(known, key=lambda g: (g.share, g.kept)):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], grade):
            hull.pop()
        hull.append(grade)
    return tuple(hull)


def _slope(a: Grade, b: Grade) -> float:
    return (b.kept - a.kept) / (b.share - a.share) if b.share > a.share else np.inf


@lru_cache(maxsize=8)
def steps_of(group: int) -> Floats:
    """Bits a value of each grade, and the energy that it keeps, (2, grade)."""
    return np.array([(grade.share, grade.kept) for grade in grades(group)]).T


def noise(bits: ArrayLike, dim: int, group: int) -> Floats:
    """Squared error of so many bits of a vector (dim,), relative to its squared norm; inf for none.

    The energy that is told is linear in the bits between two grades.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / np.interp(np.asarray(bits, np.float64) / dim, *steps_of(group)) - 1.0)


@lru_cache(maxsize=16)
def order_of(block: int) -> NDArray[np.uint32]:
    """In which order the coordinates of a block fall into groups, (block,): mixed once and for all.

    Neighbouring rows of a Hadamard matrix depend on each other (four of them multiply to one), which would make the
    estimate of a large parameter biased by a tenth and more.
    """
    return np.random.default_rng(block).permutation(block).astype(np.uint32)


def group_of(block: int) -> int:
    """Coordinates that are told together: no more than a block, which is a power of two."""
    return min(LARGEST_GROUP, block)


def encode(vector: Vector, block: int) -> Bytes:
    """All that a device prepares of a rotated vector (dim,), uint8 (DIGITS dim / 8,); dim is a multiple of 8.

    Signs, planes and tournaments, one after the other; in each the groups in their order. Match m of a group
    lies at place m: 1 is the final, and the winners of 2 m and 2 m + 1 meet in m.
    """
    packed, edges = np.empty((DIGITS, vector.size // 8), np.uint8), codebook(MAX_PLANES).inner
    for start in range(0, vector.size, PART):
        part = vector[start : start + PART]
        digits = np.empty((DIGITS, part.size), np.uint8)
        kernels.write_digits(part, spreads_of(part, block), edges, order_of(block), group_of(block), digits)
        packed[:, start // 8 : (start + part.size) // 8] = np.packbits(digits, axis=1, bitorder="little")
    return packed.ravel()


def first_group(groups: int, round_: int, device: int) -> int:
    """Where the better grade begins: multiples of irrational numbers, which fill the groups evenly."""
    return int(groups * math.modf(round_ * GOLDEN + device * SILVER)[0])


def decode(payload: Bytes, deviation: Vector, block: int, bits: int, first: int = 0) -> Vector:
    """The estimate of a packet of so many bits, float32 (dim,): nothing else of what was prepared is looked at.

    `first`: the group from which on the better grade is given.
    """
    dim, group = block * len(deviation), group_of(block)
    lower, upper, count = granted(bits, dim, group)
    groups = dim // group
    told = (lower.kept * (groups - count) + upper.kept * count) / groups
    estimate = np.zeros(dim, np.float32)
    if not told:
        return estimate
    digits = _needed(payload, dim, lower, upper)
    scale = deviation / np.float32(told)
    for grade, rows in ((upper, (first, count)), (lower, (first + count, groups - count))):
        one = (group, grade.planes, grade.peak, grade.values.astype(np.float32))
        kernels.read_groups(digits, scale, order_of(block), rows, one, estimate)
    return estimate


def _needed(payload: Bytes, dim: int, *told: Grade) -> Bytes:
    """The digits that these grades look at, uint8 (DIGITS, dim); other rows are left without values."""
    digits = np.empty((DIGITS, dim), np.uint8)
    for row in {0, *range(max(grade.planes for grade in told)), *(MAX_PLANES for grade in told if grade.peak > 1)}:
        digits[row] = unpacked(payload, row * dim, dim)
    return digits


def granted(bits: int, dim: int, group: int) -> tuple[Grade, Grade, int]:
    """The two grades of a packet of so many bits, and how many groups have the better one."""
    steps, groups = grades(group), dim // group
    at = int(np.searchsorted(steps_of(group)[0], bits / dim, side="right")) - 1
    if at == len(steps) - 1:
        return steps[-1], steps[-1], groups
    lower, upper = steps[at], steps[at + 1]
    spare = bits - round(lower.share * group) * groups
    return lower, upper, int(spare // round((upper.share - lower.share) * group))
