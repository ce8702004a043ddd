"""Superposed packets: the closed form is what a receiver meets that decodes the signs, then cancels them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spfl.radio.outage import Link, effective_power, sent_power, success

DRAWS = 200_000


def link(**changes: object) -> Link:
    """Three devices at 0, 6 and 12 dB on an equal share; one symbol carries a sign, three a modulus."""
    values = {
        "bandwidth_hz": 3.0, "noise_w_per_hz": 1.0, "power_w": np.ones(3), "gain": np.array([1.0, 4.0, 16.0]),
        "tau_s": np.ones(3), "sign_bits": np.full(3, 0.7), "modulus_bits": np.full(3, 1.4), "multiplex": "superposed",
    }  # fmt: skip
    return Link(**values | changes)


@pytest.mark.parametrize("gap", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.9, 1.0])
def test_the_closed_form_is_what_successive_decoding_meets(alpha: float, gap: float) -> None:
    """Monte Carlo over the fades: SINR of the signs with the moduli as noise, SNR of the moduli after the signs."""
    cell, beta = link(snr_gap=gap), np.array([0.2, 0.3, 0.5])
    fade = np.random.default_rng(5).exponential(size=(DRAWS, 1))
    received_w = cell.power_w * cell.gain * fade
    noise_w = cell.noise_w_per_hz * beta * cell.bandwidth_hz
    rate = [bits / (beta * cell.bandwidth_hz * cell.tau_s) for bits in (cell.sign_bits, cell.modulus_bits)]
    sign = alpha * received_w / ((1 - alpha) * received_w + noise_w) >= gap * (2 ** rate[0] - 1)
    both = sign & ((1 - alpha) * received_w / noise_w >= gap * (2 ** rate[1] - 1))
    known = success(cell, beta, alpha)
    spread = 4 / np.sqrt(4 * DRAWS) + 1e-12
    np.testing.assert_allclose(sign.mean(0), known.q_s, atol=spread)
    np.testing.assert_allclose(both.mean(0), known.q_s * known.r_m, atol=spread)


def test_signs_that_the_moduli_drown_never_arrive() -> None:
    """alpha <= (1 - alpha)(2^r - 1): no fade is good enough."""
    cell = link(sign_bits=np.full(3, 3.0))  # 2^3 - 1 = 7 on an equal share
    assert (success(cell, 1 / 3, 0.87).q_s == 0).all()
    assert (success(cell, 1 / 3, 0.89).q_s > 0).all()


def test_equally_strong_packets_are_the_single_packet() -> None:
    """x_s = x_m = a + b (1 + gamma) = noise (2^(r_s + r_m) - 1), at a gap of 1."""
    cell = link()
    gamma = 2**0.7 - 1
    a, b = gamma, (2**1.4 - 1) * (1 + gamma)
    alpha = sent_power(cell, 1 / 3, a / (a + b))
    known = success(cell, 1 / 3, alpha)
    single = replace(cell, multiplex="orthogonal", sign_bits=np.full(3, 2.1), modulus_bits=0.0, rho=np.ones(3))
    np.testing.assert_allclose(known.q_s, success(single, 1 / 3, 1.0).q_s, rtol=1e-12)
    np.testing.assert_allclose(known.r_m, 1.0, rtol=1e-12)
    np.testing.assert_allclose(effective_power(cell, 1 / 3, alpha), a / (a + b), rtol=1e-12)


def test_superposed_packets_have_one_fade_and_one_band() -> None:
    for changes in ({"fading": "independent"}, {"multiplex": "both"}):
        with pytest.raises(ValueError, match="multiplex"):
            link(**changes)
