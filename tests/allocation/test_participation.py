"""Bandwidth and bits by participation: near the best of all combinations, within the bound, and what it is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import oracles
from spfl.allocation.participation import NEAR, BitTables, Ladder, allocate_bits
from spfl.packets.segments import Cut
from spfl.radio.outage import Link, success

DIM = 1000


def make_link(gain: np.ndarray, symbols: float = 2.0) -> Link:
    size = np.size(gain)
    tau_s = symbols * size * DIM / 1e6
    noise = 1.0 / (1e6 / size)  # SNR 1 on an equal share at gain 1
    return Link(1e6, noise, np.ones(size), np.asarray(gain, float), np.full(size, tau_s), np.ones(size), np.zeros(size))


@pytest.mark.parametrize("fading", ["mean", "instantaneous"])
@pytest.mark.parametrize("seed", range(4))
def test_no_combination_of_shares_is_better_than_the_bound(seed: int, fading: str) -> None:
    rng = np.random.default_rng(seed)
    link, importance = make_link(10 ** rng.normal(0, 1, 3)), rng.random(3)
    fade = rng.exponential(size=3) if fading == "instantaneous" else None
    found = allocate_bits(importance, link, Ladder(DIM, 300.0), fade)
    tables = BitTables(link, Ladder(DIM, 300.0), fade, np.ones(3, bool))
    shares = tables.grid.shares[::8]
    table = tables.table(shares).gains
    best = importance.sum() - oracles.best_participation(importance, table, shares)
    assert found.lower_bound is not None
    assert found.lower_bound <= best + 1e-9
    assert found.objective <= best * 1.02 + 1e-9
    assert found.beta.sum() <= 1 + 1e-9


def test_it_is_no_worse_than_equal_shares() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        link, importance = make_link(10 ** rng.normal(0, 1.5, 12)), rng.random(12)
        fade = rng.exponential(size=12)
        for given in (None, fade):
            best = allocate_bits(importance, link, Ladder(DIM, 300.0), given)
            equal = allocate_bits(importance, link, Ladder(DIM, 300.0), given, equal=True)
            assert best.objective <= equal.objective * (1 + 1e-3)


def test_probabilities_are_those_of_the_link() -> None:
    link, ladder = make_link(np.array([3.0, 1.0, 0.2, 0.05])), Ladder(DIM, 300.0)
    found = allocate_bits(np.ones(4), link, ladder)
    assert found.bits is not None
    sized = Link(
        link.bandwidth_hz, link.noise_w_per_hz, link.power_w, link.gain, link.tau_s, found.bits + 300.0, np.zeros(4)
    )
    q = success(sized, found.beta, np.ones(4)).q_s
    sent = found.beta > 0
    np.testing.assert_allclose(found.q_s[sent], q[sent], rtol=1e-9)


def test_an_adapted_link_carries_what_capacity_allows() -> None:
    rng = np.random.default_rng(2)
    link, fade = make_link(10 ** rng.normal(0, 1, 6)), rng.exponential(size=6)
    found = allocate_bits(np.ones(6), link, Ladder(DIM, 300.0), fade)
    assert found.bits is not None
    sent = found.beta > 0
    snr = fade / (link.noise_to_signal * np.maximum(found.beta, 1e-300))
    capacity = found.beta * link.bandwidth_hz * link.tau_s * np.log2(1 + snr)
    assert (found.bits[sent] + 300.0 <= capacity[sent]).all()
    assert (found.q_s[sent] == 1).all()


def test_a_far_device_sends_less_and_a_near_one_more() -> None:
    found = allocate_bits(np.ones(3), make_link(np.array([30.0, 1.0, 0.1])), Ladder(DIM, 100.0), equal=True)
    assert found.bits is not None
    assert found.bits[0] > DIM > found.bits[2] > 0


def test_devices_without_importance_or_gain_get_nothing() -> None:
    found = allocate_bits(np.array([1.0, 0.0, 1.0]), make_link(np.array([1.0, 1.0, 0.0])), Ladder(DIM, 100.0))
    assert (found.beta > 0).tolist() == [True, False, False]
    assert found.beta[0] == pytest.approx(1.0)
    nobody = allocate_bits(np.zeros(3), make_link(np.ones(3)), Ladder(DIM, 100.0))
    assert not nobody.beta.any()


def test_no_device_is_given_more_than_the_largest_share() -> None:
    rng = np.random.default_rng(4)
    link = make_link(10 ** rng.normal(0, 1, 8))
    found = allocate_bits(rng.random(8), link, Ladder(DIM, 300.0), most=0.15)
    assert found.beta.max() <= 0.15
    assert found.gap is not None
    assert -1e-9 <= found.gap < 5e-3
    one = allocate_bits(np.eye(8)[0], link, Ladder(DIM, 300.0), equal=True, most=0.15)  # the only one of a schedule
    assert one.beta.max() == 0.15


@pytest.mark.parametrize("fading", ["mean", "instantaneous"])
def test_peaks_make_bits_worth_more_and_the_tables_know(fading: str) -> None:
    rng = np.random.default_rng(6)
    link, importance, fade = make_link(10 ** rng.normal(-1, 1, 6)), rng.random(6), rng.exponential(size=6)
    fade = fade if fading == "instantaneous" else None
    plain, peaks = Ladder(DIM, 300.0), Ladder(DIM, 300.0, group=128)
    tables = BitTables(link, peaks, fade, np.ones(6, bool))
    shares = tables.grid.shares[::8]
    expected = oracles.participation_table(link, peaks, fade, shares)
    np.testing.assert_allclose(tables.table(shares).gains, expected, rtol=1e-9, atol=1e-12)
    assert (
        allocate_bits(importance, link, peaks, fade).objective < allocate_bits(importance, link, plain, fade).objective
    )


@pytest.mark.parametrize("alone", [False, True])
def test_segments_are_paid_for_and_all_needed_unless_each_is_of_use_alone(alone: bool) -> None:
    rng = np.random.default_rng(12)
    link = make_link(10 ** rng.normal(0, 1.2, 6))
    cut = Cut(DIM // 3, alone=alone, one_fade=False)
    ladder = Ladder(DIM, 100.0, 1.0, None, cut, repeated=60.0 if alone else 0.0)
    tables = BitTables(link, ladder, None, np.ones(6, bool))
    found, shares = tables.table(tables.grid.shares), tables.grid.shares
    np.testing.assert_allclose(
        found.gains, oracles.participation_table(link, ladder, None, shares), rtol=1e-9, atol=1e-12
    )
    assert (np.diff(found.rungs, axis=1) >= 0).all()
    whole = BitTables(link, Ladder(DIM, 100.0), None, np.ones(6, bool)).table(shares)
    assert (found.gains <= whole.gains + 1e-12).all()  # segments only cost, as far as the objective goes
    assert (found.gains < 0.99 * whole.gains).any()
    bits, q = tables.best(np.full(6, 0.3))
    at = np.abs(shares - 0.3).argmin()
    assert q * ladder.gain(np.maximum(bits, 1.0)) == pytest.approx(found.gains[:, at], rel=0.2)


@pytest.mark.parametrize("gap_slope", [0.0, 0.4])
@pytest.mark.parametrize("fixed", [None, float(DIM)])
@pytest.mark.parametrize("fading", ["mean", "instantaneous"])
def test_the_compiled_table_is_the_best_of_all_rungs(fading: str, fixed: float | None, gap_slope: float) -> None:
    rng = np.random.default_rng(11)
    link, ladder = make_link(10 ** rng.normal(0, 1.2, 6)), Ladder(DIM, 300.0, 0.7, fixed)
    link = replace(link, gap_slope=gap_slope)
    fade = rng.exponential(size=6) if fading == "instantaneous" else None
    tables = BitTables(link, ladder, fade, np.ones(6, bool))
    expected = oracles.participation_table(link, ladder, fade, tables.grid.shares)
    found = tables.table(tables.grid.shares)
    np.testing.assert_allclose(found.gains, expected, rtol=1e-9, atol=1e-12)
    assert (np.diff(found.rungs, axis=1) >= 0).all()
    if fixed is None and fading == "mean":
        assert found.rungs.max() > found.rungs.min()


@pytest.mark.parametrize("fading", ["mean", "instantaneous"])
@pytest.mark.parametrize("size", [1, 20, 2000, 9000])
def test_the_gap_stays_small_for_many_devices(size: int, fading: str) -> None:
    """The grid of shares follows the number of devices: with a fixed one the gap was 5 % at 1,000."""
    rng = np.random.default_rng(size)
    link, importance = make_link(10 ** rng.normal(0, 1, size)), rng.random(size)
    found = allocate_bits(
        importance, link, Ladder(DIM, 300.0), rng.exponential(size=size) if fading != "mean" else None
    )
    assert found.gap is not None
    assert -1e-9 <= found.gap < 5e-3
    assert found.beta.sum() <= 1 + 1e-9


@pytest.mark.parametrize("fading", ["mean", "instantaneous"])
def test_the_candidates_hold_the_best_share_at_prices_near(fading: str) -> None:
    rng, ladder = np.random.default_rng(5), Ladder(DIM, 300.0)
    link, importance = make_link(10 ** rng.normal(0, 1.2, 12)), rng.lognormal(0.0, 1.0, 12)
    fade = rng.exponential(size=12) if fading == "instantaneous" else None
    tables = BitTables(link, ladder, fade, np.ones(12, bool))
    shares = tables.grid.shares
    full, coarse = tables.table(shares).gains, tables.table(shares[tables.grid.at])
    for price in (0.05, 0.5, 5.0):
        found = tables.candidates(coarse, importance, price * NEAR)
        assert found.start[-1] < full.size  # or nothing would be spared
        for near in price * NEAR:
            best = np.maximum((importance[:, None] * full - near * shares).max(1), 0.0)
            for k in range(12):
                own = slice(found.start[k], found.start[k + 1])
                values = importance[k] * found.gains[own] - near * found.shares[own]
                assert np.isclose(max(values.max(initial=0.0), 0.0), best[k], rtol=1e-9, atol=1e-12)
