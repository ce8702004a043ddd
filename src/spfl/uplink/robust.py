"""Aggregation that a minority of devices cannot steer: rules over coordinates in place of the weighted mean.

A weighted mean follows a single device as far as it pulls. These rules give each received device the same weight, since
weights rest on what devices claim of themselves. They estimate the mean gradient of those, so that they stand for
`normalized` weights. The mean needs one vector at a time; these need all of them at once, 4 d bytes each; the copies
in which coordinates are sorted are bounded by BLOCK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Vector

RobustRule = Literal["trimmed_mean", "median", "sign_majority"]
BLOCK = 2**15  # coordinates that are sorted at a time


def combine(rule: RobustRule, vectors: Sequence[Vector], dim: int, trim: float) -> Vector:
    """One vector (dim,) of the received devices' vectors, coordinate by coordinate; zeros when nobody was received.

    trimmed_mean: without the floor(trim n) smallest and as many largest of n values (Yin et al. 2018).
    median: of the values (Yin et al. 2018). sign_majority: the sign that most devices have (Bernstein et al. 2019,
    0 in a tie) times the median modulus.
    """
    out = np.zeros(dim, np.float32)
    for start in range(0, dim if vectors else 0, BLOCK):
        block = np.stack([vector[start : start + BLOCK] for vector in vectors])
        out[start : start + BLOCK] = _combined(rule, block, trim)
    return out


def _combined(rule: RobustRule, block: NDArray[np.float32], trim: float) -> NDArray[np.floating]:
    if rule == "median":
        return np.asarray(np.median(block, axis=0))
    if rule == "sign_majority":
        return np.asarray(np.sign(np.sign(block).sum(axis=0)) * np.median(np.abs(block), axis=0))
    count = len(block)
    cut = min(int(trim * count), (count - 1) // 2)
    return np.asarray(np.sort(block, axis=0)[cut : count - cut].mean(axis=0, dtype=np.float64))


def clipped(vector: Vector, limit: float) -> Vector:
    """The vector, scaled down to the Euclidean norm `limit` if it is longer."""
    norm = float(np.linalg.norm(vector)) if limit < np.inf else 0.0
    return vector if norm <= limit else vector * np.float32(limit / norm)
