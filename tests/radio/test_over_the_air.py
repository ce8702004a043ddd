"""Signs superposed in the air: error rates and powers against theory, symbols one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from four_devices import (
    DIM,
    LAYOUT,
    SAMPLES,
    constant_modulus,
    fades,
    make_devices,
    make_link,
    send,
)
from rounds import format_of, received
from spfl.packets.layout import Layout
from spfl.radio import over_the_air
from spfl.radio.outage import Link
from spfl.schemes import SCHEMES
from spfl.uplink.delivery import deliver
from spfl.uplink.scheduling import share_resources
from spfl.uplink.upload import Origin, encode
from stats import assert_mean, assert_proportion


def gauss_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


@pytest.mark.parametrize(("repeats", "snr"), [(1, 1.0), (1, 4.0), (3, 0.5), (8, 0.1)])
def test_one_device_over_the_air_errs_as_often_as_theory_says(repeats: int, snr: float) -> None:
    """QPSK: Pr[sign wrong] = Q(sqrt(R Es / N0)), with Es / N0 the SNR at the receiver and R repetitions averaged."""
    dim, rng = 100_000, np.random.default_rng(11)
    link = make_link(gain=(1.0,), bits=dim, symbols=repeats * dim / 2)
    assert over_the_air.repetitions(link) == repeats
    signs = rng.choice(np.float32([-1, 1]), dim)
    votes = over_the_air.superpose([signs], dim, over_the_air.noise_variance(link, snr), rng)
    wrong = np.sign(votes) != signs
    assert_proportion(wrong, gauss_tail(math.sqrt(repeats * snr)))
    with pytest.raises(AssertionError):
        assert_proportion(wrong, gauss_tail(math.sqrt(2 * repeats * snr)))


def test_qpsk_symbol_by_symbol_has_the_noise_that_is_declared() -> None:
    """The slow twin: complex symbols of two signs each, channel inversion, complex noise, mean of the repetitions."""
    rng, dim, repeats, power, devices = np.random.default_rng(12), 400, 3, 0.7, 3
    signs = rng.choice([-1.0, 1.0], (devices, dim))
    h = rng.normal(size=devices) + 1j * rng.normal(size=devices)
    link, errors = make_link(gain=(9.0,) * devices, bits=dim, symbols=repeats * dim / 2), []
    for _ in range(100):
        mean = np.zeros(dim)
        for _ in range(repeats):
            sent = (signs[:, 0::2] + 1j * signs[:, 1::2]) / math.sqrt(2) * math.sqrt(power) / h[:, None]
            noise = (rng.normal(size=dim // 2) + 1j * rng.normal(size=dim // 2)) * math.sqrt(0.5)
            received = (h[:, None] * sent).sum(axis=0) + noise
            votes = received * math.sqrt(2) / math.sqrt(power)
            mean[0::2], mean[1::2] = mean[0::2] + votes.real / repeats, mean[1::2] + votes.imag / repeats
        errors.append(mean - signs.sum(axis=0))
    assert_mean(np.ravel(errors) ** 2, over_the_air.noise_variance(link, power))
    with pytest.raises(AssertionError):
        assert_mean(np.ravel(errors) ** 2, 1.1 * over_the_air.noise_variance(link, power))


def test_devices_take_part_when_their_channel_can_afford_it() -> None:
    rng, scheme, draws = np.random.default_rng(13), SCHEMES["over_the_air"], 5000
    link, devices = make_link(bits=DIM, symbols=40.0), make_devices()
    uploads = send(scheme, [rng.normal(size=DIM).astype(np.float32) for _ in SAMPLES])
    allocation = share_resources(format_of(scheme, LAYOUT), devices, link, fades(rng))
    power = over_the_air.receive_power(link, np.ones(4, np.bool_))
    sent = np.zeros((draws, 4), np.bool_)
    for row in sent:
        both = fades(rng)
        row[:] = deliver(scheme, uploads, link, allocation, both, rng).sign
        assert (row == [power / (g * h) <= 1.0 for g, h in zip(link.gain, both[0], strict=True)]).all()
    assert_proportion(sent, allocation.q_s)
    with pytest.raises(AssertionError):
        assert_proportion(sent, 0.93 * allocation.q_s)


def test_the_receive_power_is_the_best_of_a_fine_grid() -> None:
    for seed in range(20):
        gain = np.random.default_rng(seed).lognormal(-2, 2, 6)
        link = make_link(gain=gain, bits=10, symbols=30.0)

        def merit(power: float, link: Link = link) -> float:
            p = sum(math.exp(-power / g) for g in link.gain)
            return p**2 / (p + 1 / (6 * power))

        best = max(merit(x) for x in np.geomspace(1e-8, 1e6, 20_000))
        assert merit(over_the_air.receive_power(link, np.ones(6, np.bool_))) >= 0.999 * best


def test_over_the_air_takes_the_sign_and_the_common_modulus() -> None:
    rng, scheme = np.random.default_rng(14), SCHEMES["over_the_air"]
    gradients = [rng.normal(size=DIM).astype(np.float32) for _ in SAMPLES]
    uploads = send(scheme, gradients)
    assert not any(u.sign_packet or u.modulus_packet or u.sparse_packet for u in uploads)
    link = make_link(gain=(1e6,) * 4, bits=DIM, symbols=1e4)  # hardly any noise: a vote of all, one each
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    outcome = deliver(scheme, uploads, link, allocation, (np.ones(4), np.ones(4)), rng)
    assert outcome.sign.all()
    ballots = sum(np.where(g >= 0, 1, -1) for g in gradients[:3])  # of three there is no tie
    three = [*uploads[:3], replace(uploads[3], samples=0)]
    allocation = replace(allocation, beta=np.array([0.25, 0.25, 0.25, 0.0]))
    outcome = deliver(scheme, three, link, allocation, (np.ones(4), np.ones(4)), rng)
    update = received(format_of(scheme, LAYOUT), three, outcome, allocation)
    weight = np.array(SAMPLES[:3]) / 60
    common = [sum(w * np.abs(g[part]).mean() for w, g in zip(weight, gradients, strict=False))
              for part in (slice(0, 4), slice(4, 7))]  # fmt: skip
    np.testing.assert_allclose(update.gradient, np.sign(ballots) * np.repeat(common, [4, 3]), rtol=1e-5)


def test_on_a_dead_link_the_air_votes_by_coin() -> None:
    dim, rng = 10_000, np.random.default_rng(15)
    link = make_link(gain=(1e-9,) * 4, bits=dim, symbols=2.0 * dim)
    variance = over_the_air.noise_variance(link, over_the_air.receive_power(link, np.ones(4, np.bool_)))
    votes = over_the_air.superpose([np.ones(dim, np.float32)] * 4, dim, variance, rng)
    assert_proportion(votes > 0, 0.5)


def test_without_room_for_the_signs_nothing_is_sent() -> None:
    rng, scheme = np.random.default_rng(16), SCHEMES["over_the_air"]
    uploads = send(scheme, [constant_modulus(rng) for _ in SAMPLES])
    link = make_link(bits=DIM, symbols=DIM / 2 - 0.5)
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    outcome = deliver(scheme, uploads, link, allocation, fades(rng), rng)
    assert not allocation.q_s.any()
    assert not outcome.sign.any()
    assert not received(format_of(scheme, LAYOUT), uploads, outcome, allocation).gradient.any()


@pytest.mark.parametrize("dim", [2, 7, 400])
def test_a_phase_error_turns_complex_symbols(dim: int) -> None:
    """The slow twin: two values a symbol, one after the other; of an odd number, the last has no partner."""
    rng = np.random.default_rng(17)
    values = rng.normal(size=dim).astype(np.float32)
    for angle in rng.normal(0.0, 2.0, 20):
        expected = []
        for i in range(0, dim, 2):
            symbol = complex(values[i], values[i + 1] if i + 1 < dim else 0.0) * np.exp(1j * angle)
            expected += [symbol.real, symbol.imag]
        np.testing.assert_allclose(over_the_air.turned(values, angle), expected[:dim], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_phases_that_are_off_cost_what_theory_says(sigma: float) -> None:
    """E|v e^(j theta) - v|^2 = 2 (1 - e^(-sigma^2 / 2)) |v|^2, with nothing lost and no noise to speak of."""
    scheme, dim, rng = SCHEMES["analog_mean"], 64, np.random.default_rng(18)
    link = replace(make_link(gain=(1e12,), bits=dim, symbols=1e4), phase_error_rad=sigma)
    gradient, errors = rng.normal(size=dim).astype(np.float32), []
    layout = Layout(names=("w",), shapes=((dim,),))
    upload = encode(format_of(scheme, layout), gradient, {}, Origin(0, 1, 10, 0.0))
    allocation = share_resources(format_of(scheme, layout), make_devices(1), link, (np.ones(1), np.ones(1)))
    for _ in range(2000):
        outcome = deliver(scheme, [upload], link, allocation, (np.ones(1), np.ones(1)), rng)
        update = received(format_of(scheme, layout), [upload], outcome, allocation).gradient
        errors.append(np.sum((update - gradient) ** 2) / np.sum(gradient**2))
    assert_mean(np.array(errors), 2 * (1 - math.exp(-(sigma**2) / 2)))
    with pytest.raises(AssertionError):
        assert_mean(np.array(errors), 2.4 * (1 - math.exp(-(sigma**2) / 2)))
