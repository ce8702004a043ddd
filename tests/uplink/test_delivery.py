"""What arrives when packets are sent more than once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import oracles
from four_devices import (
    LAYOUT,
    fades,
    make_devices,
    make_link,
)
from rounds import format_of
from spfl.config.schema import build_config
from spfl.data.dataset import Dataset
from spfl.schemes import SCHEMES
from spfl.uplink.delivery import deliver
from spfl.uplink.scheduling import share_resources
from spfl.uplink.upload import silent
from spfl.world.world import World
from stats import assert_proportion


def test_a_second_attempt_helps_as_often_as_shannon_says() -> None:
    """Two attempts of tau / 2 at full power, independent fades; also the energy is that of one attempt of tau."""
    rng, scheme, draws = np.random.default_rng(4), SCHEMES["retransmit"], 20_000
    link = make_link(symbols=600.0 / scheme.attempts)
    assert scheme.attempts * link.tau_s[0] * link.power_w[0] == 600.0
    uploads = [silent(format_of(SCHEMES["sp_fl"], LAYOUT), k) for k in range(4)]
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    np.testing.assert_array_equal(allocation.beta, 0.25)
    got = np.array([deliver(scheme, uploads, link, allocation, fades(rng), rng).sign for _ in range(draws)])
    assert_proportion(got, allocation.q_s)
    twice = np.zeros((draws, 4), np.bool_)
    for row in twice:
        for k in range(4):
            for fade in rng.exponential(size=2):
                row[k] |= oracles.packet_arrives(100, 0.25, 1.0, float(link.gain[k]), fade, 300.0, 1.0, 1.0)
    assert_proportion(twice, allocation.q_s)
    once = share_resources(format_of(replace(scheme, attempts=1), LAYOUT), make_devices(), link, fades(rng))
    with pytest.raises(AssertionError):
        assert_proportion(got, once.q_s)
    np.testing.assert_allclose(allocation.q_s, 1 - (1 - once.q_s) ** 2, rtol=1e-9)


def test_new_parity_helps_as_often_as_the_sum_of_both_capacities_says() -> None:
    """HARQ with incremental redundancy: above repetition with the same fades, and as its law says."""
    rng, scheme, draws = np.random.default_rng(6), SCHEMES["harq"], 20_000
    link = make_link(symbols=600.0 / scheme.attempts)
    uploads = [silent(format_of(scheme, LAYOUT), k) for k in range(4)]
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    got = np.array([deliver(scheme, uploads, link, allocation, fades(rng), rng).sign for _ in range(draws)])
    assert_proportion(got, allocation.q_s)
    twice = np.zeros((draws, 4), np.bool_)
    for row in twice:
        for k in range(4):
            symbols = 0.25 * 300.0
            snr = float(link.gain[k]) / 0.25
            row[k] = sum(symbols * np.log2(1 + snr * fade) for fade in rng.exponential(size=2)) >= float(
                link.sign_bits[k]
            )
    assert_proportion(twice, allocation.q_s)
    repeated = share_resources(format_of(SCHEMES["retransmit"], LAYOUT), make_devices(), link, fades(rng))
    assert (allocation.q_s > repeated.q_s).all()
    with pytest.raises(AssertionError):
        assert_proportion(got, repeated.q_s)


def test_all_attempts_together_take_the_time_of_one_packet(digits: Dataset) -> None:
    link = {
        name: World.build(build_config({"scheme": {"name": name}}), digits).radio.link((0, 1), 1) for name in SCHEMES
    }
    for name, scheme in SCHEMES.items():
        np.testing.assert_array_equal(scheme.attempts * link[name].tau_s, link["single_packet"].tau_s)
        np.testing.assert_array_equal(link[name].power_w, link["single_packet"].power_w)
    assert SCHEMES["retransmit"].attempts == 2


def test_two_packets_can_be_repeated_too() -> None:
    rng, scheme = np.random.default_rng(5), replace(SCHEMES["sp_fl_uniform"], attempts=3)
    link = make_link(modulus_bits=np.full(4, 60.0), fading="independent")
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    uploads = [silent(format_of(SCHEMES["sp_fl"], LAYOUT), k) for k in range(4)]
    outcomes = [deliver(scheme, uploads, link, allocation, (rng.exponential(size=4), rng.exponential(size=4)), rng)
                for _ in range(20_000)]  # fmt: skip
    assert_proportion(np.array([o.sign for o in outcomes]), allocation.q_s)
    assert_proportion(np.array([o.modulus for o in outcomes]), allocation.q_s * allocation.r_m)
