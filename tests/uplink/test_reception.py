"""What the server makes of what it received, by the rule of each scheme: against loops written from the definition."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from four_devices import (
    DIM,
    LAYOUT,
    SAMPLES,
    WEIGHT,
    constant_modulus,
    fades,
    get,
    make_devices,
    make_link,
    send,
)
from rounds import format_of, received
from spfl.arrays import State
from spfl.compensation import Received, remember
from spfl.config.schema import SchemeConfig
from spfl.radio.outage import Outcome
from spfl.schemes import SCHEMES, resolve
from spfl.uplink.delivery import deliver
from spfl.uplink.scheduling import share_resources
from stats import assert_mean


def test_what_was_last_received_stands_in_for_a_lost_device() -> None:
    """MIFA: sum_k w_k m_k, with m_k the vector last received of a device, and nothing before the first."""
    rng, scheme = np.random.default_rng(8), SCHEMES["mifa"]
    weight, memory, state = np.array(SAMPLES) / sum(SAMPLES), np.zeros((4, DIM)), {}
    for t in range(1, 12):
        gradients, received = [constant_modulus(rng) for _ in SAMPLES], rng.random(4) < 0.4
        update = get(scheme, send(scheme, gradients, state, t), received, state, t)
        state = update.state
        for k in np.flatnonzero(received):
            memory[k] = gradients[k]
        np.testing.assert_allclose(update.gradient, weight @ memory, rtol=1e-5, atol=1e-6)


def test_unbiased_weights_make_the_single_packet_unbiased() -> None:
    rng, scheme = np.random.default_rng(1), SCHEMES["single_packet_unbiased"]
    gradients, link = [constant_modulus(rng) for _ in SAMPLES], make_link(gain=(3.0, 2.0, 1.0, 1.0))
    uploads = send(scheme, gradients)
    allocation = share_resources(format_of(scheme, LAYOUT), make_devices(), link, fades(rng))
    means = {}
    for weights in ("unbiased", "plain"):
        twin, draws = replace(scheme, weights=weights), []
        for _ in range(3000):
            outcome = deliver(twin, uploads, link, allocation, fades(rng), rng)
            draws.append(received(format_of(twin, LAYOUT), uploads, outcome, allocation).gradient)
        means[weights] = np.array(draws)
    assert 0.05 < allocation.q_s.min() < allocation.q_s.max() < 0.95
    assert_mean(means["unbiased"], WEIGHT @ np.array(gradients))
    with pytest.raises(AssertionError):
        assert_mean(means["plain"], WEIGHT @ np.array(gradients))


def test_reuse_last_lets_the_last_update_stand_in() -> None:
    """ghat_t = sum_heard w g + (1 - sum_heard w) ghat_{t-1}, over rounds, nobody heard among them."""
    rng, scheme = np.random.default_rng(2), SCHEMES["reuse_last"]
    state: State = {}
    last = np.zeros(DIM)
    for t in range(1, 30):
        gradients, heard = [constant_modulus(rng) for _ in SAMPLES], rng.random(4) < (0.5 if t % 7 else 0.0)
        update = get(scheme, send(scheme, gradients, state, t), heard, state, t)
        expected, missing = np.zeros(DIM), 1.0
        for k in range(4):
            if heard[k]:
                expected, missing = expected + WEIGHT[k] * gradients[k], missing - WEIGHT[k]
        last = expected + missing * last
        np.testing.assert_allclose(update.gradient, last, atol=1e-6)
        state = update.state
    assert get(SCHEMES["single_packet"], send(scheme, gradients), [False] * 4, state).gradient.any() == 0


def test_weights_of_the_config_do_not_change_what_reuse_and_vote_are() -> None:
    rng = np.random.default_rng(3)
    gradients = [constant_modulus(rng) for _ in SAMPLES]
    for name in ("reuse_last", "majority_vote"):
        plain, other = (resolve(SchemeConfig(name=name, weights=w)) for w in ("plain", "unbiased"))
        state = {"update/last": gradients[0]}
        a, b = (get(s, send(s, gradients), [True, False, True, False], state, q_s=0.3) for s in (plain, other))
        np.testing.assert_array_equal(a.gradient, b.gradient)


def test_majority_vote_is_the_sign_of_the_weighted_sum_times_the_common_modulus() -> None:
    rng, scheme = np.random.default_rng(8), SCHEMES["majority_vote"]
    for _ in range(30):
        gradients = [rng.normal(size=DIM).astype(np.float32) for _ in SAMPLES]
        heard = rng.random(4) < 0.6
        expected = np.zeros(DIM)
        for i in range(DIM):
            tensor = slice(0, 4) if i < 4 else slice(4, 7)
            common = sum(WEIGHT[k] * np.abs(gradients[k][tensor]).mean() for k in range(4))
            ballots = sum(SAMPLES[k] * (1 if gradients[k][i] >= 0 else -1) for k in range(4) if heard[k])
            expected[i] = common * ((ballots > 0) - (ballots < 0))
        np.testing.assert_allclose(get(scheme, send(scheme, gradients), heard).gradient, expected, rtol=1e-5)


def test_a_tie_moves_nothing() -> None:
    scheme, ones = SCHEMES["majority_vote"], np.ones(DIM, np.float32)
    uploads = [replace(u, samples=1) for u in send(scheme, [ones, -ones, ones, -ones])]
    assert not get(scheme, uploads, [True] * 4).gradient.any()
    assert get(scheme, uploads, [True, False, True, True]).gradient.all()


def test_scaled_sign_has_one_scale_and_sign_mean_one_a_tensor() -> None:
    gradient = np.array([1, -2, 3, -4, 50, 60, -70], np.float32)
    signs = np.sign(gradient)
    for name, scale in (("scaled_sign", [190 / 7] * 7), ("sign_mean", [2.5] * 4 + [60] * 3)):
        update = get(SCHEMES[name], send(SCHEMES[name], [gradient]), [True])
        np.testing.assert_allclose(update.gradient, signs * np.array(scale), rtol=1e-6)


def test_without_compensation_a_lone_sign_moves_nothing() -> None:
    gradient, alone = np.ones(DIM, np.float32), Outcome(np.array([True]), np.array([False]))
    allocation: Any = SimpleNamespace(q_s=np.ones(1), r_m=np.ones(1), bits=None)
    moved = {}
    for name in ("sp_fl", "sp_fl_no_compensation"):
        uploads = send(SCHEMES[name], [gradient])
        moved[name] = received(format_of(SCHEMES[name], LAYOUT), uploads, alone, allocation).gradient.any()
    assert moved == {"sp_fl": True, "sp_fl_no_compensation": False}


def test_a_damaged_modulus_packet_leaves_its_sign_packet_good() -> None:
    scheme = replace(SCHEMES["sp_fl"], compensation="layer")
    (upload,) = send(scheme, [np.arange(-3, 4, dtype=np.float32)])
    damaged = replace(upload, modulus_packet=upload.modulus_packet[:-1])
    got = get(scheme, [damaged], [True])
    odds: Any = SimpleNamespace(q_s=np.ones(1), r_m=np.ones(1), bits=None)
    lost: Any = received(format_of(scheme, LAYOUT), [upload], Outcome(np.array([True]), np.array([False])), odds)
    np.testing.assert_array_equal(got.gradient, lost.gradient)
    assert (got.rejected, lost.rejected) == (1, 0)
    assert got.gradient.all()
    single = replace(scheme, uplink="single")
    assert not get(single, [damaged], [True]).gradient.any()  # one packet is good or damaged as a whole


@pytest.mark.parametrize("kind", ["last", "ema"])
def test_a_damaged_modulus_is_not_remembered(kind: Any) -> None:
    scheme = replace(SCHEMES["sp_fl"], compensation=kind)
    (upload,) = send(scheme, [np.ones(DIM, np.float32)])
    assert get(scheme, [replace(upload, modulus_packet=b"x")], [True]).state == {}
    assert get(scheme, [upload], [True]).state.keys() != set()


def test_moduli_for_the_running_mean_are_summed_as_they_come() -> None:
    rng = np.random.default_rng(17)
    moduli = rng.random((64, 20_000), np.float32)
    received, kept = Received("ema"), []
    for k, modulus in enumerate(moduli):
        given = modulus.copy()
        kept.append(weakref.ref(given))
        received.add(k, given)
        del given
    assert [ref for ref in kept if ref() is not None] == []
    assert len(pickle.dumps(received)) < 4 * moduli[0].nbytes
    summed = remember("ema", {}, received.moduli(), moduli[0])
    together = remember("ema", {}, dict(enumerate(moduli)), moduli[0])
    np.testing.assert_array_equal(summed["compensation/vector"], together["compensation/vector"])
