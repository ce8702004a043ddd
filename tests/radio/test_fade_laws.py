"""Fading laws against Monte Carlo of their physics, at 5 standard errors, and against Rayleigh where they meet it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spfl.config.radio import ChannelConfig
from spfl.config.schema import build_config
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.radio.fade_laws import FadedLaw, fade_law
from spfl.radio.outage import success
from spfl.training import train
from spfl.uplink.scheduling import probabilities
from spfl.world.world import World

DRAWS = 200_000
CHANNELS = {
    "rician": {"fading": "rician", "rician_k_db": 5.0},
    "nakagami": {"fading": "nakagami", "nakagami_m": 2.0},
    "lognormal": {"fading": "lognormal", "fade_spread_db": 6.0},
}


def physics(name, rng):
    """Power fades by construction: a line of sight and scatter; a sum of squares; a normal number of decibels."""
    if name == "rician":
        k = 10**0.5
        scatter = (rng.normal(size=DRAWS) + 1j * rng.normal(size=DRAWS)) * math.sqrt(0.5 / (k + 1))
        return np.abs(math.sqrt(k / (k + 1)) + scatter) ** 2
    if name == "nakagami":  # m = 2: the mean of two exponential fades
        return rng.exponential(size=(DRAWS, 2)).mean(1)
    gain = 10 ** (6.0 * rng.normal(size=DRAWS) / 10)
    return gain / math.exp(0.5 * (6.0 * math.log(10) / 10) ** 2)


def differs(counted, chance):
    return abs(counted - chance) > 5 * math.sqrt(max(chance * (1 - chance), 1e-9) / DRAWS)


@pytest.mark.parametrize("name", CHANNELS)
def test_survival_is_that_of_the_physics(name):
    law, drawn = fade_law(ChannelConfig(**CHANNELS[name])), physics(name, np.random.default_rng(1))
    for x in (0.05, 0.2, 0.7, 1.0, 2.0):
        assert not differs(np.mean(drawn >= x), float(law.sf(x)))
    assert any(differs(np.mean(drawn >= x), math.exp(-x)) for x in (0.05, 0.2, 0.7))  # Rayleigh's would be found out


@pytest.mark.parametrize("name", CHANNELS)
def test_draws_have_mean_one_and_the_law(name):
    law = fade_law(ChannelConfig(**CHANNELS[name]))
    fades = FadedLaw(law).draw(np.random.default_rng(2), (DRAWS,))
    assert abs(fades.mean() - 1.0) < 5 * fades.std() / math.sqrt(DRAWS)
    assert not differs(np.mean(fades >= 0.5), float(law.sf(0.5)))


@pytest.mark.parametrize("same", [{"fading": "nakagami", "nakagami_m": 1.0}, {"fading": "rician", "rician_k_db": -90}])
def test_laws_that_are_rayleigh_have_the_closed_form(same, digits, small_config):
    world = World.build(small_config(channel=same), digits)
    closed = World.build(small_config(), digits)
    link, known = (w.radio.link(range(6), 1) for w in (world, closed))
    beta, alpha = np.full(6, 1 / 6), np.linspace(0.1, 0.9, 6)
    a, b = link.law.success(link, beta, alpha, link.split), success(known, beta, alpha)
    np.testing.assert_allclose(a.q_s, b.q_s, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(a.r_m, b.r_m, rtol=1e-6, atol=1e-12)
    assert link.snr_gap == pytest.approx(known.snr_gap, rel=1e-6)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("scheme", ["sp_fl", "single_packet", "retransmit"])
def test_packets_arrive_as_often_as_the_allocation_says(name, scheme, digits, small_config):
    """q_s and q_s r_m of the first round's allocation, against what arrives in many rounds of fades."""
    world = World.build(small_config(channel=CHANNELS[name], scheme={"name": scheme}), digits)
    (record, *_) = train(world)
    rounds, law = 1000, world.radio.law
    link, share = world.radio.link(record.cohort, 1), record.allocation
    odds = probabilities(link, share)
    received = np.zeros((2, 6))
    for t in range(1, rounds + 1):
        fades = world.radio.fades(record.cohort, t)
        outcome = law.transmit(link, (share.beta, share.alpha, share.rho), fades, np.random.default_rng(0))
        received += outcome.sign, outcome.modulus
    for counted, chance in zip(received / rounds, (odds.q_s, odds.q_s * odds.r_m), strict=True):
        assert (np.abs(counted - chance) <= 5 * np.sqrt(np.maximum(chance * (1 - chance), 1e-6) / rounds)).all()
    if scheme != "retransmit":
        np.testing.assert_allclose(share.q_s, odds.q_s)


def test_an_own_fade_needs_no_law(digits, small_config):
    fades = Custom(fades=lambda t, k, rng: (np.ones(k), np.ones(k)))
    assert World.build(small_config(), digits, fades).radio.law is None


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ({"rician_k_db": 3.0}, "rician_k_db has an effect with fading = rician only, got 3.0"),
        ({"fading": "rician", "nakagami_m": 3.0}, "nakagami_m has an effect with fading = nakagami only"),
        ({"fading": "lognormal", "link": "bler"}, "link must be outage or gap with fading = lognormal"),
        ({"fading": "rician", "doppler_hz": 5.0}, "doppler_hz must be absent with fading = rician"),
    ],
)
def test_what_does_not_go_together_is_refused(channel, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"channel": channel})


def test_an_analogue_uplink_is_refused_before_the_first_round(digits, small_config):
    config = small_config(channel=CHANNELS["rician"], scheme={"name": "over_the_air"})
    with pytest.raises(ConfigError, match="fading = rician is not for over_the_air"):
        next(train(World.build(config, digits)))
