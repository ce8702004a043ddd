"""The ladder of bits: codebooks against published variances and a plain implementation, and every prefix of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import oracles
from spfl.errors import PacketError
from spfl.packets import ladder
from spfl.packets.codec import decode_ladder, encode_ladder
from spfl.packets.layout import Layout
from spfl.packets.rotation import Rotation
from stats import assert_mean

LAYOUT = Layout(("block0", "block1"), ((16,), (16,)))


def gaussian(size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize(("planes", "published"), [(1, 0.571), (2, 0.133), (3, 0.0358), (4, 0.0096)])
def test_codebooks_have_the_published_noise(planes: int, published: float) -> None:
    """EDEN's optimal codebooks (Vargaftik et al. 2022); nesting costs 4 % of the noise at most."""
    found = ladder.codebook(planes).noise
    assert published * 0.995 <= found <= 1.04 * published


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_values_are_unbiased_centroids_of_their_cells(planes: int) -> None:
    book = ladder.codebook(planes)
    kept = 1.0 / (1.0 + book.noise)
    for low, high, value in zip(book.edges[:-1], book.edges[1:], book.values, strict=True):
        mass = quad(norm.pdf, low, min(high, 12.0))[0]
        mean = quad(lambda x: x * norm.pdf(x), low, min(high, 12.0))[0] / mass
        assert value * kept == pytest.approx(mean, rel=1e-6)


@given(st.integers(0, 4 * 32), st.integers(0, 50))
def test_every_prefix_is_that_of_the_plain_twin(bits: int, seed: int) -> None:
    vector = gaussian(seed=seed)
    deviation = ladder.deviations(vector, 16)
    payload = ladder.encode(vector, 16, 4)
    got = ladder.decode(payload, deviation, 16, bits)
    np.testing.assert_allclose(got, oracles.ladder_estimate(vector, 16, bits), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [0, 5_001, 35_840, 36_000, 60_007, 4 * 35_840])
def test_a_long_vector_is_told_part_by_part_and_no_differently(bits: int, monkeypatch) -> None:
    """More blocks than are written together, more coordinates than a tile, and two parts."""
    monkeypatch.setattr(ladder, "PART", 20_000)
    vector, block = gaussian(70 * 512), 512
    got = ladder.decode(ladder.encode(vector, block, 4), ladder.deviations(vector, block), block, bits)
    np.testing.assert_allclose(got, oracles.ladder_estimate(vector, block, bits), rtol=1e-5, atol=1e-6)


def test_an_estimate_is_unbiased_over_rotations_and_as_noisy_as_told() -> None:
    size = 512
    vector, turn = gaussian(size), Rotation(size)
    for bits in (turn.layout.size // 4, turn.layout.size, 2 * turn.layout.size, 3 * turn.layout.size):
        draws = []
        for seed in range(300):
            rotated = turn.forward(vector, np.random.default_rng(seed))
            deviation = ladder.deviations(rotated, turn.block, max(1, bits // turn.layout.size))
            estimate = ladder.decode(ladder.encode(rotated, turn.block, 4), deviation, turn.block, bits)
            draws.append(turn.inverse(estimate, np.random.default_rng(seed)))
        error = np.square(np.array(draws) - vector).sum(1) / (vector @ vector)
        assert error.mean() == pytest.approx(float(ladder.noise(bits, turn.layout.size)), rel=0.1)
        assert_mean(np.array(draws), vector)
        along = np.array(draws) @ vector / (vector @ vector)  # far less noisy than any coordinate
        assert along.mean() == pytest.approx(1.0, abs=5 * along.std() / np.sqrt(len(along)) + 1e-6)


def test_noise_falls_with_every_bit() -> None:
    bits = np.arange(1, 4 * 64 + 1)
    noise = ladder.noise(bits, 64)
    assert (np.diff(noise) < 0).all()
    assert ladder.noise(32, 64) == pytest.approx(np.pi - 1, rel=1e-3)  # pi/2 d/n - 1
    assert np.isinf(ladder.noise(0, 64))


def test_zero_blocks_and_zero_vectors_stay_zero() -> None:
    vector = np.concatenate([np.zeros(16), gaussian(16)]).astype(np.float32)
    deviation = ladder.deviations(vector, 16)
    got = ladder.decode(ladder.encode(vector, 16, 4), deviation, 16, 128)
    assert not got[:16].any()
    assert got[16:].any()


def test_a_damaged_packet_is_refused() -> None:
    vector = gaussian()
    deviation = ladder.deviations(vector, 16)
    packet = encode_ladder(vector, 2, layout=LAYOUT, round_=1, device=0)
    assert decode_ladder(packet, deviation, 40, layout=LAYOUT, round_=1, device=0).shape == (32,)
    broken = bytearray(packet)
    broken[-6] ^= 1
    with pytest.raises(PacketError):
        decode_ladder(bytes(broken), deviation, 40, layout=LAYOUT, round_=1, device=0)
