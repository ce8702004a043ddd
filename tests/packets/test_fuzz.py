"""Hostile packets, by our own mutator (fuzz/packets.py) and by Hypothesis."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))
import packets

CORPUS = packets.make_corpus(0)


def test_mutated_packets_are_refused_or_harmless():
    found = packets.fuzz(20_000, seed=7)
    assert found["refused"] > 15_000
    assert found["forged"] > 100  # the forgeries reach past the CRC, so the checks behind it are tested


def test_no_packet_takes_more_memory_than_a_few_vectors():
    """In a process of its own: before Python 3.12.9, tracemalloc may crash where other threads allocate (gh-128679)."""
    line = "import packets; print(packets.peak_bytes(3_000))"
    done = subprocess.run(
        [sys.executable, "-c", line], cwd=Path(packets.__file__).parent, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 64 * 1024  # a header may claim 2^64 elements


def test_the_checks_can_fail(monkeypatch):
    """A decoder that takes any CRC is found out."""
    monkeypatch.setattr("spfl.packets.container.zlib.crc32", lambda body: int.from_bytes(b"\0\0\0\0"))
    sent = CORPUS[0]
    with pytest.raises(AssertionError, match="taken for a good one"):
        packets.check(sent, sent.packet[:-5] + b"\x01" + bytes(4), forged=False)


@settings(max_examples=300)
@given(
    st.sampled_from(CORPUS),
    st.sampled_from(CORPUS),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**32)), min_size=1, max_size=6),
    st.booleans(),
)
def test_any_chain_of_mutations(sent, other, steps, forged):
    data = bytearray(sent.packet)
    for which, seed in steps:
        packets.MUTATIONS[which](data, random.Random(seed), other.packet)
    if forged and len(data) >= 4:
        data[-4:] = zlib.crc32(memoryview(data)[:-4]).to_bytes(4, "little")
    packets.check(sent, bytes(data), forged)


@settings(max_examples=300)
@given(st.sampled_from(CORPUS), st.binary(max_size=200), st.booleans())
def test_any_bytes_behind_a_good_header(sent, body, forged):
    data = sent.packet[:36] + body
    if forged:
        data += zlib.crc32(data).to_bytes(4, "little")
    packets.check(sent, data, forged)


@pytest.mark.slow
def test_a_million_mutated_packets():
    found = packets.fuzz(1_000_000, seed=42)
    assert found.total() == 1_000_000
    assert found["forged"] > 10_000
