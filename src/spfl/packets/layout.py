"""Where the parameter tensors lie in the vector of a gradient."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Vector
from spfl.errors import ConfigError, PacketError
from spfl.packets import quantiser as kernels


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameter tensors, in the order in which the gradient vector holds them.

    Raises ConfigError when there are not as many names as shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(tuple(int(n) for n in shape) for shape in self.shapes))
        if len(self.names) != len(self.shapes):
            raise ConfigError(f"shapes must be one a name, got {len(self.names)} names, {len(self.shapes)} shapes")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Tensor t is elements edges[t] .. edges[t + 1]; shape (tensor + 1,)."""
        return np.array([0, *accumulate(self.sizes)], np.int64)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First element of each tensor."""
        return tuple(self.edges[:-1].tolist())

    @property
    def size(self) -> int:
        """Number of parameters, d."""
        return int(self.edges[-1])

    @cached_property
    def digest(self) -> bytes:
        """Eight bytes that tell this layout from any other."""
        return hashlib.sha256(repr((self.names, self.shapes)).encode()).digest()[:8]

    def tensor_means(self, modulus: Vector) -> Vector:
        """Mean of each tensor's elements (0 for an empty tensor): (dim,) to (tensor,)."""
        means = np.zeros(len(self.names), np.float32)
        kernels.segment_means(_vector(modulus, self.size, "modulus"), self.edges, means)
        return means

    def expand(self, per_tensor: Sequence[float] | Vector) -> Vector:
        """One value a tensor repeated over its elements: (tensor,) to (dim,)."""
        return np.repeat(np.asarray(per_tensor, np.float32), self.sizes)


def _vector(values: Vector, size: int, name: str) -> Vector:
    if values.dtype != np.float32 or values.shape != (size,):
        raise PacketError(f"{name} must be float32 of shape ({size},), got {values.dtype} of {values.shape}")
    return np.ascontiguousarray(values)
