"""Places of the largest values: energies against draws, and every packet against one that is written bit by bit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import oracles
import spfl
from spfl.custom import Custom
from spfl.errors import ConfigError, PacketError
from spfl.packets import ladder, peaks
from spfl.packets.codec import decode_ladder, encode_ladder
from spfl.packets.layout import Layout
from spfl.packets.rotation import Rotation
from spfl.schemes import SCHEMES
from spfl.uplink import upload
from spfl.world.world import World
from stats import assert_mean

GROUPS = [4, 16, 128]


def gaussian(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def decoded(vector: np.ndarray, block: int, bits: int, first: int = 0) -> np.ndarray:
    return peaks.decode(peaks.encode(vector, block), ladder.deviations(vector, block), block, bits, first)


@pytest.mark.parametrize("size", [4, 128])
def test_a_peak_is_the_mean_of_the_largest(size: int) -> None:
    """E[max |x_i|] by adaptive quadrature of its density."""
    expected = quad(lambda x: x * size * (2 * norm.cdf(x) - 1) ** (size - 1) * 2 * norm.pdf(x), 0, 12)[0]
    assert next(g for g in peaks.grades(128) if g.peak == size).values[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("group", GROUPS)
def test_grades_are_a_concave_ladder_from_nothing_to_all_planes(group: int) -> None:
    steps = peaks.grades(group)
    slopes = [(b.kept - a.kept) / (b.share - a.share) for a, b in itertools.pairwise(steps)]
    assert all(a > b > 0 for a, b in itertools.pairwise(slopes))
    assert (steps[0].share, steps[0].kept) == (0.0, 0.0)
    assert (steps[-1].planes, steps[-1].kept) == (4, 1 / (1 + ladder.codebook(4).noise))


@pytest.mark.parametrize("grade", peaks.grades(128)[1:], ids=lambda g: f"{g.planes} planes, peaks of {g.peak}")
def test_a_grade_keeps_the_energy_that_is_told_of_it(grade: peaks.Grade) -> None:
    """Of Gaussian values: <x, E[x | code]> is the energy kept, and so is |E[x | code]|^2, which makes it a centroid."""
    size, block = 2**18, 2**12
    vector = gaussian(size)
    lower, upper, count = peaks.granted(round(grade.share * size), size, 128)
    assert (lower, count) == (grade, 0) or (upper, count) == (grade, size // 128)
    deviation = np.repeat(ladder.deviations(vector, block), block)
    centroid = decoded(vector, block, round(grade.share * size)) * grade.kept / deviation
    assert vector @ centroid / size == pytest.approx(grade.kept, rel=0.01)
    assert centroid @ centroid / size == pytest.approx(grade.kept, rel=0.01)


def test_peaks_beat_signs_of_a_part_and_signs_before_magnitudes() -> None:
    bits = np.array([64, 128, 256, 512, 768, 1150, 1280, 1536])
    ratio = peaks.noise(bits, 1024, 128) / ladder.noise(bits, 1024)
    assert (ratio < [0.63, 0.65, 0.67, 0.71, 0.80, 0.84, 0.75, 0.73]).all()


@given(st.sampled_from([(8, 4), (32, 16), (512, 128), (512, 256)]), st.data(), st.integers(0, 50))
def test_every_packet_is_that_of_the_plain_twin_in_no_more_bits(sizes: tuple[int, int], data, seed: int) -> None:
    size, block = sizes
    bits, vector = data.draw(st.integers(0, 4 * size + 3)), gaussian(size, seed)
    first = data.draw(st.integers(0, size // min(128, block) - 1))
    code = oracles.peaks_code(vector, block, bits, first)
    assert len(code) <= bits
    expected = oracles.peaks_estimate(code, ladder.deviations(vector, block), block, bits, first)
    np.testing.assert_allclose(decoded(vector, block, bits, first), expected, rtol=1e-5, atol=1e-6)


def test_a_long_vector_is_prepared_part_by_part_and_no_differently(monkeypatch) -> None:
    vector = gaussian(7 * 512)
    whole = peaks.encode(vector, 512)
    monkeypatch.setattr(peaks, "PART", 1024)
    np.testing.assert_array_equal(peaks.encode(vector, 512), whole)


def test_an_estimate_is_unbiased_over_rotations_and_as_noisy_as_told() -> None:
    vector, turn = gaussian(4096) * np.geomspace(0.1, 3.0, 4096).astype(np.float32), Rotation(4096)
    for bits in (200, 1024, 3000, 5000, 7000):
        draws = []
        for seed in range(200):
            first = peaks.first_group(32, seed, 3)
            estimate = decoded(turn.forward(vector, np.random.default_rng(seed)), turn.block, bits, first)
            draws.append(turn.inverse(estimate, np.random.default_rng(seed)))
        error = np.square(np.array(draws) - vector).sum(1) / (vector @ vector)
        told = peaks.noise(bits, turn.layout.size, peaks.group_of(turn.block))
        assert error.mean() == pytest.approx(float(told), rel=0.05)
        assert_mean(np.array(draws), vector)


def test_gradients_of_a_network_are_told_with_the_noise_of_the_formula(monkeypatch) -> None:
    """After a rotation they are Gaussian enough: of a network on the digits, over devices and rounds."""
    seen, packets = [], upload._packets

    def spy(form, vector, origin):
        seen.append((form.packets.sizes[0], vector.copy()))
        return packets(form, vector, origin)

    monkeypatch.setattr(upload, "_packets", spy)
    keys = {"training.rounds": 4, "workers": 1, "scheme.peaks": True, "model.name": "mlp"}
    spfl.run("configs/demo.toml", scheme="sp_fl_plus", overrides=keys)
    for share in (0.0625, 0.3, 0.75, 1.3):
        errors, told = [], []
        for number, (block, vector) in enumerate(seen):
            bits = int(share * vector.size)
            first = peaks.first_group(vector.size // peaks.group_of(block), number, 0)
            error = decoded(vector, block, bits, first) - vector
            errors.append(error @ error / (vector @ vector))
            told.append(peaks.noise(bits, vector.size, peaks.group_of(block)))
        assert np.mean(errors) == pytest.approx(np.mean(told), rel=0.05)


def test_zero_blocks_and_equal_values_are_no_trouble() -> None:
    vector = np.concatenate([np.zeros(16), np.full(16, -2.0)]).astype(np.float32)
    for bits in (0, 7, 20, 40, 128):
        got = decoded(vector, 16, bits)
        assert np.isfinite(got).all()
        assert not got[:16].any()
        assert (got[16:] <= 0).all()


def test_a_damaged_packet_is_refused_and_the_length_of_a_sound_one_tells_what_it_is() -> None:
    vector, layout = gaussian(32), Layout(("block0", "block1"), ((16,), (16,)))
    deviation, address = ladder.deviations(vector, 16), {"layout": layout, "round_": 1, "device": 0}
    packet = encode_ladder(vector, peaks.DIGITS, **address)
    first = peaks.first_group(2, 1, 0)
    np.testing.assert_array_equal(decode_ladder(packet, deviation, 20, **address), decoded(vector, 16, 20, first))
    broken = bytearray(packet)
    broken[-6] ^= 1
    with pytest.raises(PacketError):
        decode_ladder(bytes(broken), deviation, 20, **address)


CUT = {"segment_bits": 512, "recovery": "segment"}


@pytest.mark.parametrize(
    ("channel", "given", "is_on"),
    [({}, {}, True), ({}, {"peaks": False}, False), (CUT, {}, False), (CUT, {"peaks": False}, False)],
)
def test_whole_packets_of_sp_fl_plus_tell_peaks_and_segments_none(channel, given, is_on, small_config, digits) -> None:
    config = small_config(channel=channel, scheme={"name": "sp_fl_plus"} | given)
    world = World.build(config, digits)
    assert world.scheme.peaks is is_on
    assert world.format.digits == (peaks.DIGITS if is_on else ladder.MAX_PLANES)


def test_peaks_that_are_asked_for_and_segments_exclude_each_other(small_config, digits) -> None:
    asked = small_config(channel=CUT, scheme={"name": "sp_fl_plus", "peaks": True})
    with pytest.raises(ConfigError, match="peaks must be false with"):
        World.build(asked, digits)
    own = replace(SCHEMES["sp_fl_plus"], name="own")
    with pytest.raises(ConfigError, match="peaks must be false with"):
        World.build(small_config(channel=CUT, scheme={"name": "own"}), digits, Custom(scheme=own))


@pytest.mark.parametrize("groups", [1, 6, 300])
def test_every_group_has_the_better_grade_as_often(groups: int) -> None:
    firsts = np.array([peaks.first_group(groups, round_, device) for round_ in range(1, 101) for device in range(20)])
    counts = np.bincount(firsts, minlength=groups)
    assert counts.size == groups
    assert abs(counts * groups / firsts.size - 1).max() < 0.7
    assert abs(np.cumsum(counts) / firsts.size - np.arange(1, groups + 1) / groups).max() < 0.02
