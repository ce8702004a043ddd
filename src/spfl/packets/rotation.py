"""A random rotation before signs and moduli are taken: what makes one bit a coordinate an unbiased estimate.

Signs of a raw gradient say nothing about which coordinates matter, and their error is a bias that all devices
share. After a random rotation every coordinate is nearly Gaussian with the same variance. Signs times one scale a
block then estimate the block nearly without bias (exactly so for a uniformly random rotation), their relative squared
error of pi/2 - 1 is independent between devices, and moduli have no heavy tail to quantise (Vargaftik et al. 2021,
DRIVE; Suresh et al. 2017). Norms are kept, so model.md, sections 6 and 7 hold as they stand in the rotated basis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spfl.arrays import Vector
from spfl.compiled import CACHE, njit
from spfl.packets.layout import Layout

LARGEST_BLOCK = 4096  # stays in the first-level cache
LEAST_BLOCK = 8  # so that one bit of each element fills whole bytes
SCALE_BITS = 32  # side information of a block
SIGNS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1


@dataclass(frozen=True)
class Packing:
    """How the vector of parameters becomes the vector that packets carry, and back.

    The last `output_biases` elements travel as side information; the others are rotated, or left as they are.
    """

    parameters: Layout
    rotated: bool = False
    output_biases: int = 0

    @cached_property
    def _rotation(self) -> Rotation:
        return Rotation(self.parameters.size - self.output_biases)

    @cached_property
    def packets(self) -> Layout:
        """The vector in packets as the codec sees it."""
        if self.rotated:
            return self._rotation.layout
        if not self.output_biases:
            return self.parameters
        return Layout(self.parameters.names[:-1], self.parameters.shapes[:-1])

    def pack(self, gradient: Vector, rng: np.random.Generator | None) -> Vector:
        """float32 (dim,) to (packets.size,); the stream of the rotation, where there is one."""
        rest = gradient[: gradient.size - self.output_biases]
        return self._rotation.forward(rest, rng) if rng else rest

    def unpack(self, vector: Vector, output_bias: Vector, rng: np.random.Generator | None) -> Vector:
        """float32 (packets.size,) and (output_biases,) to (dim,), given a stream in the state that `pack` met."""
        rest = self._rotation.inverse(vector, rng) if rng else vector
        return np.concatenate([rest, output_bias]) if self.output_biases else rest

    def scales(self, vector: Vector) -> Vector:
        """What a sign alone stands for, float32 (tensor,): ||x||^2 / ||x||_1 of a rotated block, which is unbiased.

        Unrotated, the mean modulus of each tensor (model.md, section 5, `layer`).
        """
        modulus = np.abs(vector)
        means = self.packets.tensor_means(modulus)
        if not self.rotated:
            return means
        squares = self.packets.tensor_means(modulus * modulus)
        return np.divide(squares, means, out=np.zeros_like(means), where=means > 0)


@dataclass(frozen=True)
class Rotation:
    """Randomised Hadamard rotation of vectors of `dim` elements, block by block; the last block is zero-padded."""

    dim: int

    @cached_property
    def block(self) -> int:
        """Elements rotated together: a power of two near sqrt(32 d), where padding and scales cost alike."""
        best = min(LARGEST_BLOCK, math.isqrt(SCALE_BITS * self.dim))
        return max(LEAST_BLOCK, int(2 ** (best.bit_length() - 1)))

    @cached_property
    def layout(self) -> Layout:
        """The rotated vector as the codec sees it: one tensor a block."""
        blocks = -(-self.dim // self.block)
        return Layout(tuple(f"block{i}" for i in range(blocks)), ((self.block,),) * blocks)

    def forward(self, vector: Vector, rng: np.random.Generator) -> Vector:
        """Flip signs at random, then transform: float32 (dim,) to (layout.size,). Keeps the norm."""
        rotated = np.empty(self.layout.size, np.float32)
        rotated[: self.dim], rotated[self.dim :] = vector, 0.0
        _flip(rotated, rng)
        _hadamard(rotated, self.block)
        return rotated

    def inverse(self, rotated: Vector, rng: np.random.Generator) -> Vector:
        """Undo `forward`, given a stream in the same state: float32 (layout.size,) to (dim,).

        Raises ValueError for a vector of another size, which the compiled transform would overrun.
        """
        if rotated.size != self.layout.size:
            raise ValueError(f"rotated must have {self.layout.size} elements, got {rotated.size}")
        vector = rotated.copy()
        _hadamard(vector, self.block)
        _flip(vector, rng)
        return vector[: self.dim]


def _flip(vector: Vector, rng: np.random.Generator) -> None:
    """Negate the elements, in place, for which a fair coin shows 0."""
    _multiply_signs(vector, np.frombuffer(rng.bytes(vector.size // 8), np.uint8))


@njit(cache=CACHE, nogil=True)
def _multiply_signs(vector, coins):  # type: ignore[no-untyped-def]
    for byte in range(coins.size):
        signs, eight = SIGNS_OF_BYTE[coins[byte]], vector[8 * byte : 8 * byte + 8]
        for i in range(8):
            eight[i] *= signs[i]


@njit(cache=CACHE, nogil=True)
def _hadamard(vector: Vector, block: int) -> None:
    """Orthonormal Walsh-Hadamard transform of every block, in place; its own inverse. Two stages a pass over memory."""
    scale = np.float32(1.0 / np.sqrt(block))
    for start in range(0, vector.size, block):
        x = vector[start : start + block]
        run = 1
        while 4 * run <= block:
            for first in range(0, block, 4 * run):
                p, q = x[first : first + run], x[first + run : first + 2 * run]
                r, s = x[first + 2 * run : first + 3 * run], x[first + 3 * run : first + 4 * run]
                for i in range(run):
                    a, b, c, d = p[i] + q[i], p[i] - q[i], r[i] + s[i], r[i] - s[i]
                    p[i], q[i], r[i], s[i] = a + c, b + d, a - c, b - d
            run *= 4
        if run < block:
            p, q = x[:run], x[run:]
            for i in range(run):
                p[i], q[i] = p[i] + q[i], p[i] - q[i]
        for i in range(block):
            x[i] *= scale
