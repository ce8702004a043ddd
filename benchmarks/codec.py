"""Codec speed: signs and moduli to two sealed packets and back, on one core, against plain NumPy in the same run.

    python benchmarks/codec.py [--out DIR]

MB/s counts float32 gradient (4 bytes an element); encoding is both packets with
header, delta^2 and CRC, decoding both packets into preallocated arrays. Each figure is the median of the runs, the
spread their interquartile range over the median. The NumPy side does the same quantiser and bits, without header
and CRC. Rows with `planes` are the ladder of a rotated vector: encoding is its side information and all planes.
Rows with `peaks_bits_per_value` are its peaks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write

from spfl.packets import ladder, peaks
from spfl.packets.codec import Levels, decode_modulus, decode_signs, encode_modulus, encode_signs
from spfl.packets.layout import Layout
from spfl.packets.rotation import Rotation

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
        return encode_signs(gradient, **name), encode_modulus(gradient, Levels(bits), rng=rng, **name)[0]

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


def measure(size: int, bits: int, runs: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    """MB/s, microseconds and times NumPy's, both ways."""
    gradient = rng.standard_normal(size, np.float32)
    ours, plain = codec_calls(gradient, bits, rng), numpy_calls(gradient, bits, rng)
    row: dict[str, Any] = {"parameters": size, "bits": bits} | both_ways(ours, size, runs[0])
    for name, call in zip(("encode", "decode"), plain, strict=True):
        row[f"{name}_times_numpy"] = 1e6 * seconds(call, runs[1])[0] / row[f"{name}_us"]
    print("  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), file=sys.stderr)
    return row


def ladder_row(size: int, planes: int, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """The ladder both ways; `size` is rounded to whole blocks, as rotated vectors are."""
    vector, block = rotated(size, rng)
    deviation, payload = ladder.deviations(vector, block, planes), ladder.encode(vector, block, planes)
    calls = (
        lambda: (ladder.deviations(vector, block, planes), ladder.encode(vector, block, planes)),
        lambda: ladder.decode(payload, deviation, block, planes * vector.size),
    )
    return {"parameters": vector.size, "planes": planes} | both_ways(calls, vector.size, runs)


def peaks_row(size: int, share: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Peaks both ways: all that a device prepares with its side information, and `share` bits a value back."""
    vector, block = rotated(size, rng)
    deviation, payload = ladder.deviations(vector, block), peaks.encode(vector, block)
    calls = (
        lambda: (ladder.deviations(vector, block), peaks.encode(vector, block)),
        lambda: peaks.decode(payload, deviation, block, int(share * vector.size)),
    )
    return {"parameters": vector.size, "peaks_bits_per_value": share} | both_ways(calls, vector.size, runs)


def rotated(size: int, rng: np.random.Generator) -> tuple[Vector, int]:
    """A normal vector of whole blocks, as rotated vectors are, and the size of a block."""
    turn = Rotation(size)
    return rng.standard_normal(turn.layout.size, np.float32), turn.block


def both_ways(calls: Sequence[Callable[[], object]], size: int, runs: int) -> dict[str, float]:
    """MB/s, microseconds and spread of encoding and decoding a vector of this size."""
    row: dict[str, float] = {}
    for name, call in zip(("encode", "decode"), calls, strict=True):
        fast, spread = seconds(call, runs)
        row |= {f"{name}_mb_s": 4e-6 * size / fast, f"{name}_us": 1e6 * fast, f"{name}_spread": spread}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [measure(LARGE, bits, (9, 2), rng) for bits in range(1, 9)]
    rows += [measure(size, 3, (200, 20), rng) for size in SMALL]
    for size in (LARGE, *SMALL):
        runs = 9 if size == LARGE else 200
        rows += [ladder_row(size, planes, runs, rng) for planes in (1, 2, 4)]
        rows += [peaks_row(size, share, runs, rng) for share in (0.25, 1.25)]
    write(given.out, "codec", rows)


if __name__ == "__main__":
    main()
