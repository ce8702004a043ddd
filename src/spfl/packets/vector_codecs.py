"""Codecs that write a whole vector into one packet: the hook for codecs of others, and three that papers compare with.

A `Codec` is three functions, so that a codec of another library is a scheme in a few lines:

    mine = Codec("mine", bits=lambda dim: 16 * dim, encode=lambda x, rng: x.astype("<f2").tobytes(),
                 decode=lambda payload, dim: np.frombuffer(payload, "<f2", dim).astype(np.float32))
    spfl.run("configs/demo.toml", scheme=Scheme("mine", "ours", "half precision", uplink="codec", codec=mine))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spfl.arrays import Vector

TRITS = 3 ** np.arange(5)  # five ternary digits fill a byte


@dataclass(frozen=True)
class Codec:
    """A vector to one packet and back.

    bits(dim): bits of a packet of `dim` values; encode(vector, rng): bytes of that many bits, rounded up;
    decode(payload, dim): the estimate, float32 (dim,). Both must be pure; `rng` is the device's own stream.
    """

    name: str
    bits: Callable[[int], int]
    encode: Callable[[Vector, np.random.Generator], bytes]
    decode: Callable[[bytes, int], Vector]


def _float32_encode(vector: Vector, rng: np.random.Generator) -> bytes:
    return vector.astype("<f4").tobytes()


def _float32_decode(payload: bytes, dim: int) -> Vector:
    return np.frombuffer(payload, "<f4", dim).astype(np.float32)


FLOAT32 = Codec("float32", lambda dim: 32 * dim, _float32_encode, _float32_decode)


def qsgd(levels: int) -> Codec:
    """QSGD (Alistarh et al. 2017): |x_i| / ||x|| rounded at random to a multiple of 1 / levels, unbiased.

    Codes have a fixed width: the sign and the level in ceil(log2(2 levels + 1)) bits, and the norm as a float32.
    """
    width = int(np.ceil(np.log2(2 * levels + 1)))

    def encode(vector: Vector, rng: np.random.Generator) -> bytes:
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        position = np.abs(vector, dtype=np.float64) / max(norm, 1e-300) * levels
        level = np.floor(position + rng.random(vector.size)).astype(np.int64)
        codes = np.where(vector < 0, levels - level, levels + level)  # 0 .. 2 levels
        digits = (codes[:, None] >> np.arange(width)) & 1
        return bytes(np.float32(norm).astype("<f4").tobytes() + np.packbits(digits.astype(np.uint8)).tobytes())

    def decode(payload: bytes, dim: int) -> Vector:
        norm = np.frombuffer(payload, "<f4", 1)[0]
        digits = np.unpackbits(np.frombuffer(payload, np.uint8, offset=4), count=dim * width).reshape(dim, width)
        codes = digits.astype(np.int64) @ (1 << np.arange(width))
        return np.asarray((codes - levels) * (norm / levels), np.float32)

    return Codec(f"qsgd{levels}", lambda dim: 32 + width * dim, encode, decode)


def _terngrad_encode(vector: Vector, rng: np.random.Generator) -> bytes:
    largest = float(np.abs(vector).max(initial=0.0))
    kept = rng.random(vector.size) * max(largest, 1e-300) < np.abs(vector)
    trits = np.where(kept, np.sign(vector), 0).astype(np.int64) + 1
    padded = np.concatenate([trits, np.zeros(-vector.size % 5, np.int64)]).reshape(-1, 5)
    return bytes(np.float32(largest).astype("<f4").tobytes() + (padded @ TRITS).astype(np.uint8).tobytes())


def _terngrad_decode(payload: bytes, dim: int) -> Vector:
    largest = np.frombuffer(payload, "<f4", 1)[0]
    codes = np.frombuffer(payload, np.uint8, offset=4).astype(np.int64)
    trits = (codes[:, None] // TRITS % 3).ravel()[:dim] - 1
    return np.asarray(trits * largest, np.float32)


# TernGrad (Wen et al. 2017): -1, 0 or 1 times the largest modulus, unbiased; five digits a byte, 1.6 bits a value.
TERNGRAD = Codec("terngrad", lambda dim: 32 + 8 * -(-dim // 5), _terngrad_encode, _terngrad_decode)
