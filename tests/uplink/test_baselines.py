"""Each baseline does what its source defines: checked against loops that were written from the definition."""

from __future__ import annotations

import math
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import oracles
from rounds import format_of, received
from spfl.allocation.bound import Devices
from spfl.arrays import State
from spfl.cli import commands as cli
from spfl.compensation import Received, remember
from spfl.config.schema import CodecConfig, SchemeConfig, build_config
from spfl.data.dataset import Dataset
from spfl.packets.codec import decode_signs, encode_signs
from spfl.packets.layout import Layout
from spfl.packets.rotation import Rotation
from spfl.radio import over_the_air
from spfl.radio.outage import Link, Outcome
from spfl.schemes import SCHEMES, Scheme, resolve
from spfl.uplink.delivery import deliver
from spfl.uplink.format import Format
from spfl.uplink.reception import Update
from spfl.uplink.scheduling import schedule, share_resources
from spfl.uplink.upload import Origin, Upload, encode, signs_of, silent
from spfl.world.world import World
from stats import assert_mean, assert_proportion

LAYOUT = Layout(("a", "b"), ((4,), (3,)))
DIM = LAYOUT.size
SAMPLES = (10, 20, 30, 40)
WEIGHT = np.array(SAMPLES) / 100

Vector = NDArray[np.float32]


def constant_modulus(rng: np.random.Generator, size: int = DIM) -> Vector:
    """Random signs, one random modulus: what the quantiser sends exactly."""
    return (rng.choice([-1.0, 1.0], size) * rng.uniform(0.5, 2.0)).astype(np.float32)


def send(scheme: Scheme, gradients: list[Vector], state: State | None = None, round_: int = 1) -> list[Upload]:
    return [
        encode(format_of(scheme, LAYOUT), g, state or {}, Origin(k, round_, SAMPLES[k], 0.0))
        for k, g in enumerate(gradients)
    ]


def get(
    scheme: Scheme, uploads: list[Upload], heard: Any, state: State | None = None, round_: int = 1, q_s: Any = 1.0
) -> Update:
    """What the server makes of the uploads when these devices are heard, with all their packets."""
    sign = np.asarray(heard, np.bool_)
    allocation: Any = SimpleNamespace(q_s=np.full(len(sign), q_s), r_m=np.ones(len(sign)), bits=None)
    return received(format_of(scheme, LAYOUT), uploads, Outcome(sign, sign), allocation, state, round_)


def make_link(gain: Any = (1.0, 0.3, 0.1, 0.03), bits: int = 100, symbols: float = 400.0, **more: Any) -> Link:
    """B N_0 = 1, so that `gain` is the mean SNR over the whole band at full power; `symbols` = B tau."""
    one = np.ones(len(gain))
    known = {"sign_bits": bits * one, "modulus_bits": 0 * one, "gain": np.array(gain), "tau_s": symbols * one} | more
    return Link(bandwidth_hz=1.0, noise_w_per_hz=1.0, power_w=one, **known)


def make_devices(size: int = 4, seed: int = 0) -> Devices:
    v2 = np.random.default_rng(seed).uniform(1, 2, size)
    return Devices(np.full(size, 1 / size), v2, 0.6 * v2, 0.7 * v2, 0.05 * v2)


def fades(rng: np.random.Generator, size: int = 4) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = rng.exponential(size=size)
    return both, both


# --- the single packet and what stands in for it ---------------------------------------------------------------------


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


def test_optimised_bandwidth_of_the_single_packet_is_the_best_of_a_grid() -> None:
    link, devices, rng = make_link(gain=(3.0, 0.5), bits=600), make_devices(2), np.random.default_rng(6)
    best = share_resources(format_of(SCHEMES["single_packet_optimised"], LAYOUT), devices, link, fades(rng, 2))
    np.testing.assert_array_equal(best.alpha, 1.0)
    grid = []
    for beta in np.linspace(0, 1, 1001):
        q = [math.exp(-oracles.outage_exponent(1.5, b, 1.0, 1 / g)) if b > 0 else 0.0
             for b, g in zip((beta, 1 - beta), link.gain, strict=True)]  # fmt: skip
        v = np.sqrt(devices.v2)
        noisy = [oracles.device_cost(0.5, v[k : k + 1], v[k : k + 1], 0.05 * v[k] ** 2, q[k], 1.0, 1.0, 1.0, 1.0)
                 for k in range(2)]  # fmt: skip
        grid.append(sum(noisy))
    assert best.objective == pytest.approx(min(grid), rel=1e-4)
    equal = share_resources(format_of(SCHEMES["single_packet"], LAYOUT), devices, link, fades(rng, 2))
    assert best.objective < 0.99 * equal.objective


# --- scheduling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schedule_channel", "schedule_norm", "schedule_channel_norm"])
@pytest.mark.parametrize("count", [None, 1, 3, 12])
def test_schedules_pick_the_right_devices(name: str, count: int | None) -> None:
    rng, scheme, config = np.random.default_rng(7), SCHEMES[name], SchemeConfig(scheduled=count)
    wanted, seen = count or 2, set()
    for _ in range(50):
        gain, v2, weight = rng.exponential(size=(3, 8))
        weight[rng.random(8) < 0.2] = 0.0
        devices, fade = Devices(weight, v2, v2, v2, v2).normalized(), rng.exponential(size=8)
        link = make_link(gain=100 * gain)
        share = share_resources(
            Format(scheme, config, LAYOUT, CodecConfig(), 0), devices, link, (fade, rng.exponential(size=8))
        )
        alive = [k for k in range(8) if weight[k] > 0]
        by_channel = sorted(alive, key=lambda k: -gain[k] * fade[k])
        by_norm = sorted(alive, key=lambda k: -v2[k])
        both = sorted(by_channel[: 2 * wanted], key=lambda k: -v2[k])
        order = {"schedule_channel": by_channel, "schedule_norm": by_norm, "schedule_channel_norm": both}[name]
        chosen = sorted(order[:wanted])
        np.testing.assert_array_equal(np.flatnonzero(share.beta), chosen)
        np.testing.assert_allclose(share.beta[chosen], 1 / len(chosen))
        for k in chosen:
            x = oracles.outage_exponent(0.25, 1 / len(chosen), 1.0, 1 / (100 * gain[k]))
            assert share.q_s[k] == pytest.approx(math.exp(-x))
        assert not share.q_s[share.beta == 0].any()
        assert share.cost[share.beta == 0] == pytest.approx((devices.weight * v2)[share.beta == 0])
        seen.add(tuple(chosen))
    assert len(seen) > 1 or wanted == 12


def test_ties_go_to_the_first_and_nobody_is_chosen_of_nobody() -> None:
    scheme, devices = SCHEMES["schedule_norm"], Devices(*np.ones((5, 4)))
    all_, none = np.ones(4, np.bool_), np.zeros(4, np.bool_)
    np.testing.assert_array_equal(schedule(scheme, SchemeConfig(scheduled=2), devices, np.ones(4), all_), [1, 1, 0, 0])
    assert not schedule(scheme, SchemeConfig(), devices, np.ones(4), none).any()
    silent = Devices(*np.zeros((5, 4)))
    assert not share_resources(format_of(scheme, LAYOUT), silent, make_link(), (np.ones(4), np.ones(4))).beta.any()


# --- one bit ---------------------------------------------------------------------------------------------------------


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


# --- top-k -----------------------------------------------------------------------------------------------------------


def test_top_k_sends_the_largest_and_keeps_the_rest_exactly() -> None:
    """e' = a - delivered, bit for bit; and with one device all that was used plus the remainder is all gradients."""
    rng, scheme = np.random.default_rng(9), resolve(SchemeConfig(name="top_k", density=0.3))
    assert format_of(scheme, LAYOUT).kept_values == 2
    state: State = {}
    used, total = np.zeros(DIM), np.zeros(DIM)
    for t in range(1, 60):
        gradient, heard = rng.normal(size=DIM).astype(np.float32), bool(rng.random() < 0.6)
        (upload,) = send(scheme, [gradient], state, t)
        corrected = gradient + state.get("residual/0", np.float32(0))
        np.testing.assert_array_equal(upload.gradient, corrected)
        places = sorted(range(DIM), key=lambda i: -abs(corrected[i]))[:2]
        delivered = np.array([corrected[i] if i in places and heard else 0 for i in range(DIM)], np.float32)
        update = get(scheme, [upload], [heard], state, t)
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


# --- over the air ----------------------------------------------------------------------------------------------------


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


def test_signs_in_the_air_are_those_of_a_sign_packet() -> None:
    gradient = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.0], np.float32)
    packet = encode_signs(gradient, layout=LAYOUT, round_=1, device=0)
    np.testing.assert_array_equal(signs_of(gradient), decode_signs(packet, layout=LAYOUT, round_=1, device=0))


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


# --- ablations of sp_fl ----------------------------------------------------------------------------------------------


def test_ablations_fix_what_they_say() -> None:
    link = make_link(modulus_bits=np.full(4, 300.0), symbols=2000.0)
    share = {
        name: share_resources(format_of(scheme, LAYOUT), make_devices(), link, (np.ones(4), np.ones(4)))
        for name, scheme in SCHEMES.items()
        if name.startswith("sp_fl")
    }
    for name in ("sp_fl_uniform", "sp_fl_no_band"):
        np.testing.assert_allclose(share[name].beta, 0.25)
    for name in ("sp_fl_uniform", "sp_fl_no_power"):
        np.testing.assert_allclose(share[name].alpha, 0.25)
    assert not np.allclose(share["sp_fl_no_band"].alpha, 0.25)
    assert not np.allclose(share["sp_fl_no_power"].beta, 0.25)
    objective = {name: allocation.objective for name, allocation in share.items()}
    assert objective["sp_fl_exact"] <= objective["sp_fl"] * (1 + 1e-6)
    for name in ("sp_fl_no_band", "sp_fl_no_power"):
        assert objective["sp_fl"] < objective[name] < objective["sp_fl_uniform"]


def test_without_compensation_a_lone_sign_moves_nothing() -> None:
    gradient, alone = np.ones(DIM, np.float32), Outcome(np.array([True]), np.array([False]))
    allocation: Any = SimpleNamespace(q_s=np.ones(1), r_m=np.ones(1), bits=None)
    moved = {}
    for name in ("sp_fl", "sp_fl_no_compensation"):
        uploads = send(SCHEMES[name], [gradient])
        moved[name] = received(format_of(SCHEMES[name], LAYOUT), uploads, alone, allocation).gradient.any()
    assert moved == {"sp_fl": True, "sp_fl_no_compensation": False}


# --- what all share --------------------------------------------------------------------------------------------------


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


def test_side_information_by_hand() -> None:
    expected = dict.fromkeys(SCHEMES, 32 * 6)  # n_k and five floats
    expected |= dict.fromkeys(("majority_vote", "sign_mean", "over_the_air"), 32 * 8)  # and two tensors
    expected |= {name: 32 * 8 for name in SCHEMES if name.startswith("sp_fl")}
    blocks = len(format_of(SCHEMES["sp_fl_plus"], LAYOUT).packets.shapes)  # and the output bias, two floats
    expected |= dict.fromkeys(("sp_fl_plus", "sp_fl_plus_uniform"), 32 * (6 + blocks + LAYOUT.sizes[-1]))
    expected |= {"sp_fl_plus_uncalibrated": 32 * (6 + len(Rotation(LAYOUT.size).layout.shapes))}
    expected |= {"sp_fl_plus_unrotated": 32 * (6 + 1 + LAYOUT.sizes[-1])}
    expected |= {"single_packet_plus": 32 * (6 + LAYOUT.sizes[-1])}
    blocks = len(format_of(SCHEMES["drive"], LAYOUT).packets.shapes)
    expected |= {name: 32 * (6 + blocks) for name, scheme in SCHEMES.items() if scheme.uplink == "ladder"}
    blocks = len(format_of(SCHEMES["sp_fl_ladder"], LAYOUT).packets.shapes)
    calibrated = [n for n, s in SCHEMES.items() if s.uplink == "ladder" and s.rule == "calibrated"]
    expected |= dict.fromkeys(calibrated, 32 * (6 + blocks + LAYOUT.sizes[-1]))
    expected |= {"scaled_sign": 32 * 7, "sp_fl_no_compensation": 32 * 6}
    assert {name: format_of(scheme, LAYOUT).side_bits for name, scheme in SCHEMES.items()} == expected
    assert format_of(resolve(SchemeConfig(name="majority_vote", compensation="zero")), LAYOUT).side_bits == 32 * 8


def test_moduli_for_the_running_mean_are_summed_as_they_come() -> None:
    rng = np.random.default_rng(17)
    moduli = rng.random((64, 20_000), np.float32)
    tracemalloc.start()
    received = Received("ema")
    for k, modulus in enumerate(moduli):
        received.add(k, modulus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * moduli[0].nbytes
    summed = remember("ema", {}, received.moduli(), moduli[0])
    together = remember("ema", {}, dict(enumerate(moduli)), moduli[0])
    np.testing.assert_array_equal(summed["compensation/vector"], together["compensation/vector"])


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_runs_from_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (f"scheme.name={name}", "training.rounds=1", "data.devices=5", "model.name=softmax")
    settings = [part for key in keys for part in ("--set", key)]
    monkeypatch.setattr(sys, "argv", ["spfl", "run", *settings, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"{name}, seed 0: test accuracy")


def test_info_lists_all_schemes_with_their_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["spfl", "info", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    for scheme in SCHEMES.values():
        assert f'"{scheme.name}"' in out
        assert scheme.source in out
        assert len(scheme.summary) <= 100
