"""Codec speed: signs and moduli to two sealed packets and back, on one core, against plain NumPy in the same run.

Run `python benchmarks/codec.py`. MB/s counts float32 gradient (4 bytes an element); encoding is both packets with
header, delta^2 and CRC, decoding both packets into preallocated arrays. Each figure is the median of the runs, the
spread their interquartile range over the median. The NumPy side does the same quantiser and bits, without header
and CRC.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spfl.codec import Layout, decode_modulus, decode_signs, encode_modulus, encode_signs

Vector = NDArray[np.float32]
LARGE, SMALL = 10_000_000, (10_000, 60_000)


def seconds(call: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median seconds of a call after one warm-up, and the spread."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(times, n=4)
    return median, (high - low) / median


def codec_calls(gradient: Vector, bits: int, rng: np.random.Generator) -> tuple[Callable[[], object], ...]:
    """Encoder and decoder of both packets."""
    name = {"layout": Layout(("w",), ((gradient.size,),)), "round_": 1, "device": 0}
    signs, moduli = np.empty_like(gradient), np.empty_like(gradient)

    def encode() -> tuple[bytes, bytes]:
        return encode_signs(gradient, **name), encode_modulus(gradient, bits, rng=rng, **name)[0]

    packets = encode()

    def decode() -> None:
        decode_signs(packets[0], out=signs, **name)
        decode_modulus(packets[1], out=moduli, **name)

    return encode, decode


def numpy_calls(gradient: Vector, bits: int, rng: np.random.Generator) -> tuple[Callable[[], object], ...]:
    """The same by packbits and unpackbits."""
    shifts = np.arange(bits, dtype=np.uint8)

    def encode() -> tuple[NDArray[np.uint8], float, float, NDArray[np.uint8]]:
        v = np.abs(gradient)
        low, high = v.min(), v.max()
        codes = ((v - low) * ((2**bits - 1) / (high - low)) + rng.random(v.size, np.float32)).astype(np.uint8)
        planes = (codes[:, None] >> shifts) & 1
        return np.packbits(gradient < 0), low, high, np.packbits(planes)

    signs, low, high, packed = encode()

    def decode() -> tuple[Vector, Vector]:
        planes = np.unpackbits(packed, count=bits * gradient.size).reshape(-1, bits)
        codes = (planes << shifts).sum(1, dtype=np.uint8)
        step = np.float32((high - low) / (2**bits - 1))
        return 1 - 2 * np.unpackbits(signs, count=gradient.size).astype(np.float32), low + step * codes

    return encode, decode


def main() -> None:
    """Print the two tables."""
    rng = np.random.default_rng(0)
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one core")
    print(f"\nd = {LARGE:.0e}: MB/s of float32 gradient (spread), and times NumPy's")
    print("bits          encode      x          decode      x")
    gradient = rng.standard_normal(LARGE, np.float32)
    for bits in range(1, 9):
        line = f"{bits:4}"
        for ours, plain in zip(codec_calls(gradient, bits, rng), numpy_calls(gradient, bits, rng), strict=True):
            (fast, spread), (slow, _) = seconds(ours, 9), seconds(plain, 2)
            line += f"{4e-6 * LARGE / fast:10.0f} ({spread:3.0%}) {slow / fast:6.1f}"
        print(line)
    print("\nSmall vectors, b = 3: us a call for both packets (spread), and times NumPy's")
    print("   d          encode      x          decode      x")
    for size in SMALL:
        line = f"{size:6}"
        gradient = rng.standard_normal(size, np.float32)
        for ours, plain in zip(codec_calls(gradient, 3, rng), numpy_calls(gradient, 3, rng), strict=True):
            (fast, spread), (slow, _) = seconds(ours, 200), seconds(plain, 20)
            line += f"{1e6 * fast:10.1f} ({spread:3.0%}) {slow / fast:6.1f}"
        print(line)


if __name__ == "__main__":
    main()
