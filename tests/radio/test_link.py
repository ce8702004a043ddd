"""Links beyond the closed form: selective and correlated fades, segments, imperfect CSI; draws and probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

import oracles
from spfl.errors import ConfigError
from spfl.packets.segments import Cut, element_mask, segment_overhead
from spfl.radio.fading import CorrelatedFades, draw_many, round_correlation
from spfl.radio.outage import Link, Outcome, level, success
from spfl.radio.selective import Packet, RadioLaw, allocators_gap, at_least, information, information_below
from spfl.rng import Purpose
from spfl.training import run
from spfl.uplink.aggregation import Sum
from spfl.uplink.scheduling import probabilities
from spfl.world.world import World
from stats import assert_mean, assert_proportion

N = 40_000


def make_link(law=None, fading="selective", devices=3, **changes):
    values = {
        "bandwidth_hz": 1e6, "noise_w_per_hz": 4e-21, "power_w": np.full(devices, 0.01),
        "gain": np.geomspace(3e-14, 3e-13, devices), "tau_s": np.full(devices, 0.2),
        "sign_bits": np.full(devices, 8000.0), "modulus_bits": np.full(devices, 24000.0),
        "fading": fading, "law": law,
    }  # fmt: skip
    return Link(**values | changes)


SHARES = np.full(3, 0.2), np.full(3, 0.3), np.full(3, 0.25)


def draws(law, link, shares=SHARES, rounds=N):
    """(rounds, device) indicators of the sign and of both packets."""
    rng = np.random.default_rng(0)
    big = {name: np.tile(getattr(link, name), rounds) for name in
           ("power_w", "gain", "tau_s", "sign_bits", "modulus_bits", "rho")}  # fmt: skip
    wide = replace(link, **big)
    size = link.size * rounds
    shape = (size,) if link.fading == "block" else None
    sign = rng.exponential(size=shape or (size, law.sign_segments + law.parity, law.subbands))
    modulus = sign if shape else rng.exponential(size=(size, law.modulus_segments, law.subbands))
    outcome = law.transmit(wide, tuple(np.tile(s, rounds) for s in shares), (sign, modulus), rng)
    return outcome, lambda bits: bits.reshape(rounds, link.size, *bits.shape[1:])


# --- the law -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fading", ["independent", "block"])
def test_without_subbands_and_segments_the_law_is_the_closed_form(fading):
    law = RadioLaw(snr_gap=1.5, gap_slope=0.1)
    link = make_link(law, fading, snr_gap=1.5, gap_slope=0.1)
    ours, closed = law.success(link, *SHARES), success(link, *SHARES)
    tolerance = {"abs": 4e-3} if fading == "block" else {"rel": 1e-12}
    assert ours.q_s == pytest.approx(closed.q_s, **tolerance)
    assert ours.r_m == pytest.approx(closed.r_m, **tolerance)


@pytest.mark.parametrize("subbands", [2, 4, 9])
def test_selective_probabilities_are_those_of_the_draws(subbands):
    law = RadioLaw(subbands, snr_gap=1.3)
    link = make_link(law)
    chances, (outcome, shaped) = law.success(link, *SHARES), draws(law, link)
    assert 0.02 < chances.q_s[1] < 0.98
    assert_proportion(shaped(outcome.sign), chances.q_s)
    assert_proportion(shaped(outcome.modulus), chances.q_s * chances.r_m)
    with pytest.raises(AssertionError):  # the closed form is another law
        assert_proportion(shaped(outcome.sign), success(link, *SHARES).q_s)


@pytest.mark.parametrize(("rate", "snr"), [(0.5, 0.4), (2.0, 3.0), (6.0, 80.0)])
def test_mutual_information_of_two_subbands_equals_the_integral(rate, snr):
    """Convolution on a grid against the double integral done by quadrature."""
    exact = oracles.two_subbands_below(rate, snr)
    (got,) = information_below(np.array([rate]), np.array([snr]), 2)
    assert got == pytest.approx(exact, abs=2e-5)
    values, mass = information(np.array([snr]), 2)
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    assert mass[values < rate].sum() == pytest.approx(exact, abs=5e-3)


def test_diversity_helps_where_success_is_likely_and_hurts_where_it_is_not():
    one, eight = RadioLaw(1), RadioLaw(8)
    easy, hard = Packet(np.array([1.0]), np.array([8.0])), Packet(np.array([1.0]), np.array([0.3]))
    assert eight.segment_success(easy) > 0.99 > one.segment_success(easy)
    assert eight.segment_success(hard) < 1e-3 < one.segment_success(hard)


@pytest.mark.parametrize("recovery", ["all", "segment"])
def test_segments_have_their_own_fades(recovery):
    law = RadioLaw(2, 3, 2, recovery)
    link = make_link(law)
    chances, (outcome, shaped) = law.success(link, *SHARES), draws(law, link)
    if recovery == "all":
        assert_proportion(shaped(outcome.sign), chances.q_s)
        assert_proportion(shaped(outcome.modulus), chances.q_s * chances.r_m)
        single = RadioLaw(2).success(link, *SHARES)
        assert chances.q_s == pytest.approx(single.q_s**3)
        assert chances.r_m == pytest.approx(single.r_m**2)
    else:
        for segment in range(3):
            assert_proportion(shaped(outcome.sign_segments)[..., segment], chances.q_s)
        assert_proportion(shaped(outcome.sign), 1 - (1 - chances.q_s) ** 3)


@pytest.mark.parametrize("recovery", ["all", "segment"])
def test_any_three_of_five_segments_tell_a_sign_packet(recovery):
    law = RadioLaw(1, 3, 2, recovery, parity=2)
    link = make_link(law)
    chances, (outcome, shaped) = law.success(link, *SHARES), draws(law, link)
    one, _ = law.sent_success(link, *SHARES)
    assert (one < chances.q_s).all() or recovery == "all"
    if recovery == "all":
        assert chances.q_s == pytest.approx(binom.sf(2, 5, one))
        assert_proportion(shaped(outcome.sign), chances.q_s)
        with pytest.raises(AssertionError):
            assert_proportion(shaped(outcome.sign), one**3)
    else:
        assert chances.q_s == pytest.approx(one + (1 - one) * binom.sf(2, 4, one))
        for segment in range(3):
            assert_proportion(shaped(outcome.sign_segments)[..., segment], chances.q_s)
            with pytest.raises(AssertionError):
                assert_proportion(shaped(outcome.sign_segments)[..., segment], one)


@pytest.mark.parametrize(("least", "count"), [(0, 3), (1, 1), (3, 5), (40, 60)])
def test_at_least_is_the_binomial_tail(least, count):
    p = np.linspace(0, 1, 21)
    np.testing.assert_allclose(at_least(least, count, p), binom.sf(least - 1, count, p), atol=1e-12)


def test_parity_is_paid_for_in_the_band(small_config, digits):
    """The sign packet's load is that of all its segments, and so are its bits."""
    cut = {"fading": "independent", "recovery": "segment", "segment_bits": 512}
    plain, more = (
        World.build(small_config(channel=cut | {"sign_parity": m}, scheme={"name": "sp_fl_uniform"}), digits)
        for m in (0, 2)
    )
    (first, second), count = plain.format.packet_bits, plain.format.segments[0]
    own, side = plain.format.link_bits[0], plain.format._side_bits
    assert more.format.segments == plain.format.segments
    assert more.format.packet_bits == (first + 2 * (math.ceil(own / count) + 64 + side), second)
    loads = [world.radio.link(range(6), 1).sign_load for world in (plain, more)]
    assert (loads[1] > loads[0] * (1 + 1.9 / count)).all()
    records = [next(run(world.config, digits)) for world in (plain, more)]
    assert records[1].payload_bits > records[0].payload_bits


def test_parity_without_segments_is_refused(small_config):
    with pytest.raises(ConfigError, match="sign_parity needs segment_bits"):
        small_config(channel={"sign_parity": 1})


def test_empty_packets_and_devices_without_band():
    law = RadioLaw(4)
    link = make_link(law, modulus_bits=np.zeros(3), rho=np.ones(3))
    shares = np.array([0.5, 0.0, 0.5]), np.array([1.0, 1.0, 0.0]), np.ones(3)
    chances = law.success(link, *shares)
    assert chances.r_m.tolist() == [1.0, 1.0, 1.0]
    assert chances.q_s[0] > 0
    assert chances.q_s[1:].tolist() == [0.0, 0.0]
    outcome = law.transmit(link, shares, draw_many(0, 1, (3, 1, 4), (3, 1, 4)), np.random.default_rng(0))
    assert outcome.sign[1:].tolist() == [False, False]


@pytest.mark.parametrize("subbands", [1, 4, 16])
def test_the_allocators_gap_meets_the_law_at_one_half(subbands):
    law = RadioLaw(subbands, snr_gap=1.4)
    gap, slope = allocators_gap(law, block=False)
    rate = np.array([0.5, 1.0, 2.0, 4.0])
    snr = gap * np.exp(slope * rate) * (2**rate - 1) / math.log(2)
    assert law.segment_success(Packet(rate, snr)) == pytest.approx(np.full(4, 0.5), abs=1e-6 if subbands == 1 else 0.13)
    if subbands == 1:
        assert (gap, slope) == (pytest.approx(1.4), pytest.approx(0.0, abs=1e-6))


# --- fades over time -------------------------------------------------------------------------------------------------


def test_round_correlation_is_bessels():
    assert round_correlation(0.0, 1.0) == 1.0
    assert round_correlation(2.404825557695773 / (2 * np.pi), 1.0) == pytest.approx(0.0, abs=1e-12)


def test_correlated_fades_have_the_law_of_clarke():
    """|h|^2 ~ Exp(1) in every round; the correlation of powers n rounds apart is |a^n|^2."""
    a = 0.8
    fades = CorrelatedFades(5, (N,), a, Purpose.FADING_SIGN)
    power = np.array([fades.power(t) for t in (1, 2, 3, 4)])
    for row in power:
        assert_mean(row, 1.0)
        assert_proportion(row > 1.0, math.exp(-1))
    for lag in (1, 2, 3):
        assert_mean((power[0] - 1) * (power[lag] - 1), a ** (2 * lag))
    with pytest.raises(AssertionError):
        assert_mean((power[0] - 1) * (power[2] - 1), a**2)


def test_correlated_fades_depend_on_seed_and_round_alone():
    one, two = (CorrelatedFades(1, (4, 2), 0.9, Purpose.FADING_SIGN) for _ in range(2))
    forward = [one.power(t).tobytes() for t in range(1, 8)]
    assert [two.power(t).tobytes() for t in (7, 3, 5, 1)] == [forward[i] for i in (6, 2, 4, 0)]


def test_a_static_channel_never_changes(small_config, digits):
    world = World.build(small_config(channel={"doppler_hz": 0.0}), digits)
    assert world.radio.fades(world.cohort(1), 1)[0].tolist() == world.radio.fades(world.cohort(9), 9)[0].tolist()
    assert world.radio.fades(world.cohort(1), 1)[0] is not None
    assert (world.radio.fades(world.cohort(1), 1)[0] == world.radio.fades(world.cohort(1), 1)[1]).all()


def test_cohorts_meet_the_fades_of_their_members(small_config, digits):
    everyone = World.build(small_config(channel={"doppler_hz": 1.0, "round_s": 0.05}), digits)
    some = World.build(small_config(channel={"doppler_hz": 1.0, "round_s": 0.05}, data={"cohort_size": 3}), digits)
    for round_ in (1, 4):
        assert (
            some.radio.fades(some.cohort(round_), round_)[0].tolist()
            == everyone.radio.fades(everyone.cohort(round_), round_)[0][list(some.cohort(round_))].tolist()
        )


# --- imperfect knowledge of the channel ------------------------------------------------------------------------------


def test_the_server_reckons_with_noisy_gains_and_the_air_with_true_ones(small_config, digits):
    config = small_config(channel={"csi_error_db": 6.0}, scheme={"name": "sp_fl_uniform"})
    world, record = World.build(config, digits), next(run(config, digits))
    cohort = record.cohort
    link = world.radio.link(cohort, 1)
    believed = world.radio.estimate(link, cohort, 1)
    assert np.abs(np.log(believed.gain / link.gain)).min() > 1e-3
    assert record.allocation.q_s == pytest.approx(probabilities(believed, record.allocation).q_s)
    x_s = success(link, record.allocation.beta, record.allocation.alpha, record.allocation.rho).x_s
    assert record.outcome.sign.tolist() == (world.radio.fades(world.cohort(1), 1)[0] >= x_s).tolist()


def test_the_error_is_log_normal(small_config, digits):
    world = World.build(small_config(channel={"csi_error_db": 3.0}), digits)
    link = world.radio.link(range(6), 1)
    ratios = [10 * np.log10(world.radio.estimate(link, range(6), t).gain / link.gain) for t in range(1, 400)]
    assert_mean(np.array(ratios), 0.0)
    assert np.std(ratios) == pytest.approx(3.0, rel=0.1)


# --- segments --------------------------------------------------------------------------------------------------------


def test_segment_arithmetic():
    assert Cut(1000).count([0, 1, 1000, 1001, 5000]).tolist() == [1, 1, 1, 2, 5]
    assert Cut().count(10**9) == 1
    assert (segment_overhead(1, 192), segment_overhead(3, 0), segment_overhead(3, 128)) == (0, 128, 384)
    arrived = np.array([True, False, True])
    assert element_mask(arrived, 7).tolist() == [True] * 3 + [False] * 2 + [True] * 2


def test_parts_of_vectors_are_normalised_element_by_element():
    parts = [np.array([1, 1, 0], np.float32), np.array([0, 1, 0], np.float32)]
    total = Sum(3)
    for weight, part, value in zip((0.25, 0.5), parts, (2.0, 8.0), strict=True):
        total.add(weight, np.float32(value) * part, part)
    assert total.vector.tolist() == pytest.approx([0.5, 4.5, 0.0])
    assert total.normalized().tolist() == pytest.approx([2.0, 6.0, 0.0])


@pytest.mark.parametrize("name", ["sp_fl_uniform", "single_packet", "sign_mean"])
def test_the_update_of_parts_equals_its_twin(name, small_config, digits):
    """A round in which segments are lost, element by element in the oracle."""
    config = small_config(channel={"fading": "independent", "segment_bits": 512, "recovery": "segment"},
                          scheme={"name": name, "weights": "normalized"})  # fmt: skip
    world, record = World.build(config, digits), next(run(config, digits))
    outcome = record.outcome
    assert outcome.sign_segments.any()
    assert not outcome.sign_segments.all()
    update = world.start().weights - record.server.weights
    twin = oracles.update_of_segments(world, outcome)
    assert update / config.training.rate == pytest.approx(twin, abs=2e-6)


def test_whole_segments_are_the_whole_packet(small_config, digits):
    """When every segment arrives, recovery by segment gives the bits of the packet as a whole."""
    loud = {"fading": "independent", "segment_bits": 600, "median_snr_db": 60.0}
    even = {"weights": "normalized"}
    ends = [
        list(run(small_config(channel=loud | {"recovery": recovery}, scheme={"name": name} | even), digits))[-1]
        for name in ("sp_fl_uniform", "sp_fl_plus_1_uniform") for recovery in ("all", "segment")
    ]  # fmt: skip
    assert ends[1].outcome.sign_segments.all()
    for whole, parts in (ends[:2], ends[2:]):
        assert whole.server.weights == pytest.approx(parts.server.weights, abs=1e-6)


def test_each_segment_is_counted(small_config, digits):
    plain, cut = (
        next(run(small_config(channel={"fading": "independent"} | extra, scheme={"name": "sp_fl_uniform"}), digits))
        for extra in ({}, {"segment_bits": 512})
    )
    world = World.build(small_config(channel={"fading": "independent", "segment_bits": 512}), digits)
    first, second = world.format.segments
    assert min(first, second) > 1
    ranges = len(world.layout.names)  # each of them in each segment
    assert ranges > 1
    extra = (first - 1) * 64 + (second - 1) * (64 + 64 * ranges)
    assert cut.payload_bits - plain.payload_bits == 6 * extra


def test_packets_of_different_length_have_segments_of_their_own():
    """Each device's count decides which draws are of its packet, and with recovery of all, how many must arrive."""
    counts = np.array([1, 3, 6])
    law = RadioLaw(sign_segments=counts, recovery="segment")
    link = make_link(law, "independent", modulus_bits=np.zeros(3))
    one = law.segment_success(law._packets(link, *SHARES)[0])
    rng = np.random.default_rng(3)
    got = np.array([law.transmit(link, SHARES, (rng.exponential(size=(3, 8, 1)),) * 2, rng).sign_segments
                    for _ in range(4000)])  # fmt: skip
    assert got.shape == (4000, 3, 6)
    for k, count in enumerate(counts):
        assert_proportion(got[:, k, :count], one[k])
        assert not got[:, k, count:].any()
    whole = replace(law, recovery="all")
    assert whole.success(link, *SHARES).q_s == pytest.approx(one**counts)
    every = np.array([whole.transmit(link, SHARES, (rng.exponential(size=(3, 8, 1)),) * 2, rng).sign
                      for _ in range(4000)])  # fmt: skip
    for k, count in enumerate(counts):
        assert_proportion(every[:, k], one[k] ** count)


@pytest.mark.parametrize("doppler", [None, 4.0])
def test_all_schemes_meet_the_same_fades_whatever_the_number_of_their_segments(doppler, small_config, digits):
    """The first segments of a longer packet have the fades of a shorter one's."""
    channel = {"fading": "selective", "subbands": 2, "segment_bits": 600, "doppler_hz": doppler}
    schemes = ("sign_mean", "sp_fl_uniform", "drive", "sp_fl_plus")
    found = [
        World.build(small_config(channel=channel, scheme={"name": name}), digits).radio.fades(range(6), 2)[0]
        for name in schemes
    ]
    least = min(fades.shape[1] for fades in found)
    assert least < max(fades.shape[1] for fades in found)
    for fades in found:
        assert np.array_equal(fades[:, :least], found[0][:, :least])


# --- whole runs ------------------------------------------------------------------------------------------------------

OPTIONS = {
    "selective": {"fading": "selective", "subbands": 4},
    "selective, segments": {"fading": "selective", "segment_bits": 600, "recovery": "segment"},
    "segments": {"fading": "independent", "segment_bits": 600},
    "doppler": {"doppler_hz": 2.0, "round_s": 0.05},
    "doppler, selective": {"doppler_hz": 2.0, "round_s": 0.05, "fading": "selective"},
    "csi": {"csi_error_db": 3.0},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["sp_fl_plus_1", "retransmit", "schedule_channel", "over_the_air", "top_k"])
def test_every_option_runs_and_resumes_to_the_same_bits(option, name, small_config, digits):
    if name != "sp_fl_plus_1" and option not in ("selective, segments", "doppler, selective"):
        pytest.skip("one scheme is enough for what all share")
    config = small_config(channel=OPTIONS[option], scheme={"name": name})
    whole = list(run(config, digits))
    resumed = list(run(config, digits, start=whole[0].server))
    assert resumed[-1].server.weights.tobytes() == whole[-1].server.weights.tobytes()
    assert np.isfinite(whole[-1].server.weights).all()
    assert ((whole[-1].allocation.q_s >= 0) & (whole[-1].allocation.q_s <= 1)).all()


def test_the_allocation_tells_the_probabilities_of_the_law(small_config, digits):
    config = small_config(channel=OPTIONS["selective"], scheme={"name": "sp_fl_exact"})
    world, record = World.build(config, digits), next(run(config, digits))
    law, shares = world.radio.law, (record.allocation.beta, record.allocation.alpha, record.allocation.rho)
    assert record.allocation.q_s == pytest.approx(law.success(world.radio.link(record.cohort, 1), *shares).q_s)


def test_level_of_fades():
    fade = np.arange(12.0).reshape(2, 3, 2)
    assert level(fade).tolist() == [2.5, 8.5]
    assert level(fade[:, 0, 0]).tolist() == [0.0, 6.0]


def test_bad_options_are_told_in_one_line(small_config):
    with pytest.raises(ConfigError, match="recovery = segment needs segment_bits"):
        small_config(channel={"recovery": "segment"})
    with pytest.raises(ConfigError, match=r"channel\.subbands"):
        small_config(channel={"subbands": 1})


def test_outcome_without_segments_is_as_before():
    assert Outcome(np.array([True]), np.array([False])).sign_segments is None
