"""The weighted sum of what was received (model.md, section 4)."""

from __future__ import annotations

import numpy as np

from spfl.arrays import Floats, Vector
from spfl.machine import PART


class Sum:
    """sum_k a_k g_k over the received devices, float32 (dim,), in their order, and the sum of the weights.

    Each vector is added and forgotten, so memory does not grow with the number of devices.
    """

    def __init__(self, dim: int) -> None:
        self.vector: Vector = np.zeros(dim, np.float32)
        self.weight: Floats = np.zeros(1)  # received in all, or by element where parts of vectors were

    def add(self, weight: float, vector: Vector, share: float | Vector = 1.0) -> None:
        """Add a vector of which `share` was received: a number, or 0 and 1 by element."""
        for start in range(0, vector.size, PART):  # a product of the whole vector would take as much memory again
            self.vector[start : start + PART] += np.float32(weight) * vector[start : start + PART]
        self.weight = self.weight + weight * share

    def normalized(self) -> Vector:
        """The sum over the weight that was received: one scale, or one an element. Nothing received gives zero."""
        divisor = self.weight.astype(np.float32)
        return np.divide(self.vector, divisor, out=self.vector, where=divisor > 0)
