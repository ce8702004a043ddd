"""The link (model.md, section 3): outage against Shannon's formula and Monte Carlo, extremes, cells and fades."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

import oracles
from spfl.radio.outage import Fading, Link, conditional_modulus_success, draw_fades, outage_exponent, success, transmit
from spfl.radio.path_loss import drop_cell, path_loss_db, scale_to_median_snr
from spfl.units import db_to_linear
from stats import assert_mean, assert_proportion

BITS = 7850
FADINGS: list[Fading] = ["block", "independent"]


def make_link(fading: Fading = "block", rho: ArrayLike | None = None, **changes: Any) -> Link:
    """Two devices 12 dB apart, signs and 3-bit moduli of a softmax layer on MNIST, about 2 symbols a parameter."""
    values: dict[str, Any] = {
        "bandwidth_hz": 1e6,
        "noise_w_per_hz": 4e-21,
        "power_w": np.array([0.01, 0.02]),
        "gain": np.array([4e-12, 0.5e-12]),
        "tau_s": np.array(4 * BITS / 1e6),
        "sign_bits": np.array(BITS + 320),
        "modulus_bits": np.array(3 * BITS + 384),
        "snr_gap": 1.5,
        "fading": fading,
        "rho": None if rho is None else np.asarray(rho),
    }
    return Link(**values | changes)


# --- Monte Carlo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fading", FADINGS)
@pytest.mark.parametrize(
    ("beta", "alpha", "rho"),
    [(0.5, 0.25, None), (0.5, 0.9, 0.25), (0.6, 0.5, 0.5), (0.7, 0.05, 0.4), (0.35, 0.6, 0.1)],
)
def test_outage_probabilities_match_monte_carlo(fading: Fading, beta: float, alpha: float, rho: float | None) -> None:
    """4 * 10^5 rounds of fades; each packet's fate is decided by Shannon's formula, not by the closed form."""
    link = make_link(fading, rho)
    probabilities = success(link, beta, alpha)
    rng = np.random.default_rng(7)
    fade_s = rng.exponential(size=(400_000, 2))
    fade_m = fade_s if fading == "block" else rng.exponential(size=fade_s.shape)
    split = link.split
    capacity = {}
    for name, band, power, fade in (("s", split, alpha, fade_s), ("m", 1 - split, 1 - alpha, fade_m)):
        band_hz = band * beta * link.bandwidth_hz
        snr = power * link.power_w * link.gain * fade / (link.noise_w_per_hz * band_hz)
        capacity[name] = link.tau_s * band_hz * np.log2(1 + snr / link.snr_gap)
    sign = capacity["s"] >= link.sign_bits
    both = sign & (capacity["m"] >= link.modulus_bits)
    assert_proportion(sign, probabilities.q_s, "q_s")
    assert_proportion(both, probabilities.q_s * probabilities.r_m, "q_s r_m")
    louder = success(replace(link, noise_w_per_hz=link.noise_w_per_hz * db_to_linear(0.1)), beta, alpha)
    with pytest.raises(AssertionError):
        assert_proportion(sign, louder.q_s)
    with pytest.raises(AssertionError):
        assert_proportion(both, louder.q_s * louder.r_m)


@pytest.mark.parametrize("fading", FADINGS)
def test_transmit_realises_the_probabilities(fading: Fading) -> None:
    """4,000 rounds of the package's own fades for 100 equal devices, sign and modulus packets."""
    link = make_link(fading, power_w=np.full(100, 0.01), gain=np.full(100, 1e-12))
    odds = success(link, 0.4, 0.5)
    outcomes = [transmit(odds, draw_fades(3, t, 100, fading)) for t in range(4000)]
    sign = np.concatenate([o.sign for o in outcomes])
    modulus = np.concatenate([o.modulus for o in outcomes])
    assert not (modulus & ~sign).any()
    assert_proportion(sign, odds.q_s[0], "q_s")
    assert_proportion(modulus[sign], odds.r_m[0], "r_m")
    other: Fading = "independent" if fading == "block" else "block"
    with pytest.raises(AssertionError):  # the other fading's r_m
        assert_proportion(modulus[sign], success(replace(link, fading=other), 0.4, 0.5).r_m[0])


@given(
    st.floats(1, 1e5),
    st.floats(1e2, 1e7),
    st.floats(1e-6, 10),
    st.floats(1e-16, 1e-6),
    st.floats(0, 30),
    st.floats(1e-3, 10),
    st.floats(1, 10),
)
def test_a_packet_arrives_when_shannon_lets_it(
    bits: float, band_hz: float, power_w: float, gain: float, fade: float, tau_s: float, gap: float
) -> None:
    noise = 4e-21
    x = outage_exponent(bits / (band_hz * tau_s), 1.0, 1.0, gap * band_hz * noise / (power_w * gain))
    if not math.isclose(fade, x, rel_tol=1e-9, abs_tol=1e-300):
        assert (fade >= x) == oracles.packet_arrives(bits, band_hz, power_w, gain, fade, tau_s, noise, gap)


# --- the closed form in figures ------------------------------------------------------------------------------------


@given(st.floats(1e-20, 1e4), st.floats(1e-3, 1), st.floats(1e-6, 1), st.floats(1e-8, 1e8))
def test_outage_exponent_equals_its_decimal_twin(load: float, band: float, power: float, noise: float) -> None:
    x, twin = outage_exponent(load, band, power, noise), oracles.outage_exponent(load, band, power, noise)
    assert x == pytest.approx(twin, rel=1e-11, abs=1e-300) or (x == math.inf and twin > 1e307)


@pytest.mark.parametrize("load", [1e-30, 1e-18, 1e-12, 1.4e-12, 1.5e-12, 1e-9, 1e-4, 1.0])
def test_small_loads_lose_no_digits(load: float) -> None:
    """2^r - 1 in floating point keeps one digit in a hundred at r = 1e-15; expm1 keeps all of them."""
    exact = oracles.outage_exponent(load, 1.0, 0.5, 2.0)
    assert outage_exponent(load, 1.0, 0.5, 2.0) == pytest.approx(exact, rel=2e-12, abs=0)
    if 1e-18 <= load <= 1e-9:
        assert 2.0 / 0.5 * (2.0**load - 1) != pytest.approx(exact, rel=1e-8, abs=0)


extremes = st.one_of(st.floats(0, 1e308), st.sampled_from([0.0, 5e-324, 1e-308, 1e-12, 1.0, 1e4, 1e300]))
shares = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-308, 1e-300, 1.0]))


@given(extremes, shares, shares, st.one_of(extremes, st.just(math.inf)))
def test_outage_exponent_is_never_nan(load: float, band: float, power: float, noise: float) -> None:
    assert outage_exponent(load, band, power, noise) >= 0.0


@given(st.floats(0, 1e4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e300))
def test_more_band_or_power_never_hurts(load: float, a: float, b: float, fixed: float, noise: float) -> None:
    low, high, slack = min(a, b), max(a, b), 1 + 1e-11
    assert outage_exponent(load, high, fixed, noise) <= outage_exponent(load, low, fixed, noise) * slack
    assert outage_exponent(load, fixed, high, noise) <= outage_exponent(load, fixed, low, noise) * slack


@given(st.floats(0, 1e300) | st.just(math.inf), st.floats(0, 1e300) | st.just(math.inf), st.sampled_from(FADINGS))
def test_conditional_success_is_a_probability(x_s: float, x_m: float, fading: Fading) -> None:
    assert 0.0 <= conditional_modulus_success(np.float64(x_s), np.float64(x_m), fading) <= 1.0


@pytest.mark.parametrize("fading", FADINGS)
def test_hopeless_devices_are_never_heard_and_never_nan(fading: Fading) -> None:
    """No gain, no power, no time, no band, no power for the signs: q_s = 0 in each case."""
    hopeless = {"gain": [0.0, 1e-12], "power_w": [0.0, 0.01], "tau_s": [0.0, 0.03]}
    for name, values in hopeless.items():
        odds = success(make_link(fading, **{name: np.array(values)}), 0.5, 0.5)
        assert odds.q_s[0] == 0.0, name
        assert 0.0 < odds.q_s[1] < 1.0
        assert ((odds.r_m >= 0) & (odds.r_m <= 1)).all()
    nothing = success(make_link(fading), [0.0, 0.5], [0.5, 0.0])
    np.testing.assert_array_equal(nothing.q_s, 0.0)
    assert np.isfinite(nothing.r_m).all()


def test_empty_packets_always_arrive() -> None:
    """modulus_bits = 0, rho = 1: the conventional single packet; no bits at all: the ideal uplink."""
    single = make_link(sign_bits=np.array(4 * BITS), modulus_bits=np.array(0))
    np.testing.assert_array_equal(single.split, 1.0)
    np.testing.assert_array_equal(success(single, 0.5, 1.0).r_m, 1.0)
    ideal = success(make_link(sign_bits=np.array(0), modulus_bits=np.array(0)), 0.0, 0.0)
    np.testing.assert_array_equal(ideal.q_s * ideal.r_m, 1.0)


# --- model.md, section 3: the conventional scheme is a feasible point ---------------------------------------------


def test_conventional_packet_is_the_proportional_point() -> None:
    """Under block fading: the same exponents, r_m = 1, and the same fate on common fades."""
    link = make_link(gain=np.geomspace(1e-13, 1e-10, 40), power_w=np.full(40, 0.01), tau_s=np.array(0.8))
    single = replace(link, sign_bits=link.sign_bits + link.modulus_bits, modulus_bits=np.zeros(40), rho=None)
    beta = np.random.default_rng(0).dirichlet(np.ones(40))
    both, one = success(link, beta, link.split), success(single, beta, 1.0)
    np.testing.assert_allclose(both.x_s, one.x_s, rtol=1e-11)
    np.testing.assert_allclose(both.x_m, one.x_s, rtol=1e-11)
    possible = one.q_s > 0
    assert possible.sum() > 20
    np.testing.assert_allclose(both.r_m[possible], 1.0, rtol=1e-9)
    received = 0
    for round_ in range(200):
        fades = draw_fades(5, round_, 40, "block")
        split_fate, single_fate = transmit(both, fades), transmit(one, fades)
        np.testing.assert_array_equal(split_fate.sign, single_fate.sign)
        np.testing.assert_array_equal(split_fate.modulus, single_fate.modulus)
        received += int(single_fate.sign.sum())
    assert 0 < received < 200 * 40


def test_the_guarantee_needs_block_fading_and_the_proportional_split() -> None:
    link = make_link()
    assert (success(replace(link, fading="independent"), 0.5, link.split).r_m < 0.999).all()
    halves = success(make_link(rho=[0.5, 0.5]), 0.5, 0.5)
    assert (halves.x_m > success(link, 0.5, link.split).x_s * 1.01).all()


# --- cells and fades -----------------------------------------------------------------------------------------------


def test_path_loss_of_3gpp() -> None:
    np.testing.assert_allclose(path_loss_db(np.array([1000.0, 100.0])), [128.1, 90.5])


def test_cell_is_uniform_in_area_and_shadowing_log_normal() -> None:
    cell = drop_cell(200_000, seed=1, round_=0, min_distance_m=200.0, radius_m=500.0, shadowing_db=8.0)
    assert cell.distance_m.min() >= 200.0
    assert cell.distance_m.max() <= 500.0
    assert_mean(cell.distance_m**2, (200.0**2 + 500.0**2) / 2, "squared distance")
    assert_mean(cell.distance_m**4, (200.0**4 + 200.0**2 * 500.0**2 + 500.0**4) / 3, "its square")
    shadow = 10 * np.log10(cell.gain) + path_loss_db(cell.distance_m)
    assert_mean(shadow, 0.0, "shadowing")
    assert_mean(shadow**2, 64.0, "shadowing power")
    with pytest.raises(AssertionError):  # uniform in radius
        assert_mean(np.linspace(200.0, 500.0, 200_000) ** 2, (200.0**2 + 500.0**2) / 2)


def test_fades_are_exponential_and_shared_as_the_fading_says() -> None:
    sign, modulus = draw_fades(2, 1, 100_000, "independent")
    for fade in (sign, modulus):
        assert_mean(fade, 1.0)
        assert_mean(fade**2, 2.0)
    assert_mean(sign * modulus, 1.0, "product of independent fades")
    block = draw_fades(2, 1, 100_000, "block")
    np.testing.assert_array_equal(block[0], sign)
    np.testing.assert_array_equal(block[0], block[1])
    with pytest.raises(AssertionError):
        assert_mean(block[0] * block[1], 1.0)


def test_median_snr_is_met_and_the_spread_kept() -> None:
    gain, power_w = np.array([1e-14, 3e-12, 2e-10]), np.array([0.1, 0.01, 0.05])
    scaled = scale_to_median_snr(gain, 4.0, power_w, 1e-13)
    assert np.median(power_w * scaled / 1e-13) == pytest.approx(4.0)
    np.testing.assert_allclose(scaled / gain, (scaled / gain)[0])


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gain": np.array([1.0, np.nan])}, "gain must be finite"),
        ({"power_w": np.array([-1.0, 1.0])}, "power_w must be finite and >= 0"),
        ({"tau_s": np.array(np.inf)}, "tau_s must be finite"),
        ({"rho": np.array([0.5, 1.5])}, "rho must lie in"),
        ({"snr_gap": 0.5}, "snr_gap must be finite and >= 1"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz"),
        ({"fading": "rician"}, "fading must be"),
        ({"power_w": np.ones(3)}, "broadcast"),
    ],
)
def test_bad_links_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_link(**changes)
