"""Mutated packets against the decoders: each must give what was sent, or a PacketError. python fuzz/packets.py [COUNT]

Bit flips, truncation, extension, splices of two packets, numbers up to 2^64 - 1 in every field of the header, floats of
all kinds in the ranges; half of all with a CRC-32 that is made to fit. A packet whose CRC fits by itself must be the
one that was sent. One that was forged may decode, but only to finite values of the right shape within the packet's own
ranges: what a device may send anyhow. Memory: no more than a small multiple of the vector, whatever a header claims.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spfl.errors import PacketError
from spfl.packets.codec import (
    Levels,
    decode_modulus,
    decode_signs,
    decode_sparse,
    encode_modulus,
    encode_signs,
    encode_sparse,
)
from spfl.packets.container import Kind
from spfl.packets.layout import Layout

DECODE = {Kind.SIGN: decode_signs, Kind.MODULUS: decode_modulus, Kind.SPARSE: decode_sparse}
LAYOUTS = [
    Layout(("w", "b"), ((3, 4), (2,))),
    Layout(("w",), ((257,),)),
    Layout(("a", "b", "c"), ((1,), (64, 8), (7,))),
]
FIELDS = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 4), (12, 4), (16, 8), (24, 4), (28, 8)]  # offset, bytes
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1e-45, -1.0, 3.4e38, float("inf"), float("-inf"), float("nan"), 1.0]
HEADER, CRC = 36, 4


@dataclass(frozen=True)
class Sent:
    """A packet as it was sent, and what it stands for."""

    kind: Kind
    layout: Layout
    packet: bytes
    name: dict[str, object]
    value: np.ndarray


def make_corpus(seed: int) -> list[Sent]:
    """Packets of every kind, layout, number of bits and form of range."""
    rng, corpus = np.random.default_rng(seed), list[Sent]()
    for layout in LAYOUTS:
        for form in ("sign", "sparse", 1, 3, 8, "per_tensor"):
            name = {"layout": layout, "round_": len(corpus), "device": len(corpus) % 5}  # no two of one name
            gradient = rng.standard_normal(layout.size).astype(np.float32)
            if form == "sign":
                kind, packet = Kind.SIGN, encode_signs(gradient, **name)
            elif form == "sparse":
                kind, packet = Kind.SPARSE, encode_sparse(gradient, 1 + layout.size // 5, **name)
            else:
                bits, per_tensor = (3, True) if form == "per_tensor" else (int(form), False)
                kind = Kind.MODULUS
                packet, _ = encode_modulus(gradient, Levels(bits, per_tensor), rng=rng, **name)
            corpus.append(Sent(kind, layout, packet, name, DECODE[kind](packet, **name)))
    return corpus


def flip(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        place = rng.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8


def truncate(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[rng.randrange(len(data) + 1) :]


def extend(data: bytearray, rng: random.Random, _: bytes) -> None:
    data += rng.randbytes(rng.choice((1, 4, 100)))


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    a, b = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    data[a:] = other[b:] if rng.random() < 0.5 else other[a:]


def number(data: bytearray, rng: random.Random, _: bytes) -> None:
    offset, size = rng.choice(FIELDS)
    value = rng.choice(NUMBERS) if rng.random() < 0.7 else rng.randrange(2**64)
    if len(data) >= offset + size:
        data[offset : offset + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")


def real(data: bytearray, rng: random.Random, _: bytes) -> None:
    place = HEADER + 4 * rng.randrange(4)
    if len(data) >= place + 4:
        struct.pack_into("<f", data, place, rng.choice(FLOATS))


MUTATIONS: list[Callable[[bytearray, random.Random, bytes], None]] = [flip, truncate, extend, splice, number, real]


def mutate(packet: bytes, other: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """A mutated packet, and whether its CRC was made to fit."""
    data, forged = bytearray(packet), rng.random() < 0.5
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(data, rng, other)
    if forged and len(data) >= CRC:
        data[-CRC:] = zlib.crc32(memoryview(data)[:-CRC]).to_bytes(CRC, "little")
    return bytes(data), forged


def check(sent: Sent, packet: bytes, forged: bool) -> str:
    """Decode; returns `refused`, `same` or `forged`. Raises AssertionError for what must not be."""
    try:
        out = DECODE[sent.kind](packet, **sent.name)  # type: ignore[operator]
    except PacketError:
        return "refused"
    if packet == sent.packet:
        assert np.array_equal(out, sent.value)
        return "same"
    assert forged, f"a damaged packet was taken for a good one: {packet.hex()}"
    assert (out.shape, out.dtype) == ((sent.layout.size,), np.float32), packet.hex()
    assert np.isfinite(out).all(), packet.hex()
    if sent.kind == Kind.SIGN:
        assert (np.abs(out) == 1).all(), packet.hex()
    if sent.kind == Kind.MODULUS:
        ranges = np.frombuffer(packet, "<f4", 2 * struct.unpack_from("<I", packet, 24)[0], HEADER)
        assert out.min() >= 0, packet.hex()
        assert out.max() <= ranges[1::2].max(), packet.hex()
    return "forged"


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Check `count` mutated packets; what became of them."""
    rng, corpus, found = random.Random(seed), make_corpus(seed), Counter[str]()
    for _ in range(count):
        sent, other = rng.choice(corpus), rng.choice(corpus)
        found[check(sent, *mutate(sent.packet, other.packet, rng))] += 1
    return found


def peak_bytes(count: int, seed: int = 1) -> int:
    """Most memory that decoding one of `count` mutated packets took."""
    rng, corpus, most = random.Random(seed), make_corpus(seed), 0
    tracemalloc.start()
    for _ in range(count):
        sent = rng.choice(corpus)
        packet, forged = mutate(sent.packet, rng.choice(corpus).packet, rng)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        check(sent, packet, forged)
        most = max(most, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return most


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    fuzz(1000)  # compiles the kernels
    rss, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = fuzz(count, seed=42)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss
    seconds = time.perf_counter() - began
    print(f"{count} packets in {seconds:.0f} s: {dict(found)}; memory grew by {grown / 1024:.1f} MiB")
    print(f"one packet takes at most {peak_bytes(20_000)} bytes (largest vector: {4 * LAYOUTS[2].size} bytes)")


if __name__ == "__main__":
    main()
