"""What a device sends and what it keeps: sparse packets, error feedback, signs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from four_devices import (
    DIM,
    LAYOUT,
    get,
    send,
)
from rounds import format_of
from spfl.arrays import State
from spfl.config.schema import SchemeConfig
from spfl.packets.codec import decode_signs, encode_signs
from spfl.schemes import resolve
from spfl.uplink.upload import signs_of


def test_top_k_sends_the_largest_and_keeps_the_rest_exactly() -> None:
    """e' = a - delivered, bit for bit; and with one device all that was used plus the remainder is all gradients."""
    rng, scheme = np.random.default_rng(9), resolve(SchemeConfig(name="top_k", density=0.3))
    assert format_of(scheme, LAYOUT).kept_values == 2
    state: State = {}
    used, total = np.zeros(DIM), np.zeros(DIM)
    for t in range(1, 60):
        gradient, received = rng.normal(size=DIM).astype(np.float32), bool(rng.random() < 0.6)
        (upload,) = send(scheme, [gradient], state, t)
        corrected = gradient + state.get("residual/0", np.float32(0))
        np.testing.assert_array_equal(upload.gradient, corrected)
        places = sorted(range(DIM), key=lambda i: -abs(corrected[i]))[:2]
        delivered = np.array([corrected[i] if i in places and received else 0 for i in range(DIM)], np.float32)
        update = get(scheme, [upload], [received], state, t)
        np.testing.assert_array_equal(update.gradient, delivered)
        np.testing.assert_array_equal(update.state["residual/0"], corrected - delivered)
        state, used, total = update.state, used + update.gradient, total + gradient
    np.testing.assert_allclose(used + state["residual/0"], total, atol=1e-4)
    assert np.abs(total - used).max() < 10


def test_error_feedback_takes_plain_weights_and_applies_a_gradient_once() -> None:
    scheme = resolve(SchemeConfig(name="single_packet", error_feedback=True))
    assert (scheme.weights, scheme.error_feedback) == ("plain", True)
    assert resolve(SchemeConfig(name="single_packet", error_feedback=True, weights="unbiased")).weights == "unbiased"
    assert resolve(SchemeConfig(name="single_packet", error_feedback=False)).weights == "normalized"
    rng, gradient, rounds, q = np.random.default_rng(10), np.ones(DIM, np.float32), 2000, 0.5
    applied = {}
    for weights in ("plain", "unbiased"):
        twin, state, total = replace(scheme, weights=weights), State(), np.zeros(DIM)
        for t in range(1, rounds + 1):
            update = get(twin, send(twin, [gradient], state, t), [rng.random() < q], state, t, q_s=q)
            state, total = update.state, total + update.gradient
        applied[weights] = total.mean() / rounds
    assert applied["plain"] == pytest.approx(1.0, abs=0.02)
    assert applied["unbiased"] == pytest.approx(1 / q, abs=0.04)


def test_signs_in_the_air_are_those_of_a_sign_packet() -> None:
    gradient = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.0], np.float32)
    packet = encode_signs(gradient, layout=LAYOUT, round_=1, device=0)
    np.testing.assert_array_equal(signs_of(gradient), decode_signs(packet, layout=LAYOUT, round_=1, device=0))
