"""The array types that the package passes around, each named once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Complexes = NDArray[np.complex128]
Floats = NDArray[np.float64]  # all numerics of the link and the allocator
Indices = NDArray[np.int64]  # places in the training set, in a table, rounds
Vector = NDArray[np.float32]  # a gradient, weights, an update: (dim,)
State = dict[str, Vector]  # what both ends of the uplink remember from round to round, by name
