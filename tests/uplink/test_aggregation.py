"""Aggregates and compensatory moduli (model.md, sections 4 and 5): moments in closed form against Monte Carlo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracles
from rounds import format_of, received
from spfl.allocation.bound import Devices, Weights, aggregation_weight
from spfl.arrays import State
from spfl.compensation import Compensation, compensatory_modulus, remember
from spfl.config.schema import CodecConfig
from spfl.packets.layout import Layout
from spfl.radio.outage import Outcome
from spfl.rng import Purpose, stream
from spfl.scheme import Scheme
from spfl.uplink.aggregation import Sum
from spfl.uplink.upload import Origin, describe, encode
from stats import assert_mean

KINDS: tuple[Compensation, ...] = get_args(get_args(Compensation)[0])
FIXED: list[Weights] = ["unbiased", "mmse", "plain"]  # closed form of model.md, section 4; `normalized` has none
LAYOUT = Layout(names=("a", "b"), shapes=((2, 2), (3,)))
SEED, ROUND, BITS, DRAWS = 4, 9, 2, 100_000
SAMPLES = (10, 20, 30, 40)
Q_S, R_M = np.array([0.9, 0.3, 0.6, 0.75]), np.array([0.4, 0.8, 0.1, 0.6])

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Four devices with float32 gradients (device, dim), and what the last round left in memory."""

    gradients: NDArray[np.float32]
    state: State
    vbar: Array

    @property
    def signs(self) -> Array:
        return np.where(self.gradients >= 0, 1.0, -1.0)


def make_cell(kind: Compensation) -> Cell:
    """Device 2 has not been heard yet, so `last` falls back for it."""
    rng = np.random.default_rng(11)
    gradients = rng.normal(size=(4, LAYOUT.size)).astype(np.float32) * np.float32([[1], [2], [0.5], [1]])
    gradients[0, 3] = 0.0
    old = np.abs(rng.normal(size=(4, LAYOUT.size))).astype(np.float32)
    state = remember(kind, {}, {k: old[k] for k in (0, 1, 3)}, old.mean(axis=0))
    means = [LAYOUT.tensor_means(np.abs(g)) for g in gradients]
    vbar = np.stack([compensatory_modulus(kind, state, k, means[k], LAYOUT) for k in range(4)])
    return Cell(gradients, state, vbar.astype(np.float64))


def moments(cell: Cell, scale: Array, q_s: Array, r_m: Array, delta2: Array) -> tuple[Array, float]:
    """E ghat (dim,) and E ||ghat - E ghat||^2 of model.md, section 4 for independent devices; scale = w c."""
    v = np.abs(cell.gradients.astype(np.float64))
    m = r_m[:, None] * v + (1 - r_m[:, None]) * cell.vbar
    e = r_m * ((v**2).sum(1) + delta2) + (1 - r_m) * (cell.vbar**2).sum(1)
    return (scale * q_s) @ (cell.signs * m), float((scale**2 * (q_s * e - q_s**2 * (m**2).sum(1))).sum())


@pytest.mark.parametrize("weights", FIXED)
@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_of_the_aggregate(kind: Compensation, weights: Weights) -> None:
    """10^5 draws of fades and dither; the simulation is checked against the package's own functions below."""
    cell, rng = make_cell(kind), np.random.default_rng(5)
    gradients = cell.gradients.astype(np.float64)
    quantised, delta2 = oracles.quantise_draws(gradients, BITS, rng.random((DRAWS, 4, LAYOUT.size)))
    w, v = np.array(SAMPLES) / 100, np.abs(gradients)
    devices = Devices(w, (v**2).sum(1), (cell.vbar**2).sum(1), (v * cell.vbar).sum(1), delta2)
    scale = w * aggregation_weight(devices, Q_S, R_M, weights)
    sign = rng.random((DRAWS, 4)) < Q_S
    modulus = sign & (rng.random((DRAWS, 4)) < R_M)
    ghat = oracles.simulate_aggregate(gradients, cell.vbar, quantised, scale, sign, modulus)

    mean, variance = moments(cell, scale, Q_S, R_M, delta2)
    assert_mean(ghat, mean, "aggregate")
    assert_mean(((ghat - mean) ** 2).sum(1), variance, "variance")
    with pytest.raises(AssertionError):  # 5 % off in the sign packets' probability
        assert_mean(ghat, moments(cell, scale, 0.95 * Q_S, R_M, delta2)[0])
    with pytest.raises(AssertionError):  # in the modulus packets'
        assert_mean(ghat, moments(cell, scale, Q_S, R_M + 0.05, delta2)[0])
    with pytest.raises(AssertionError):  # the quantiser's noise forgotten
        assert_mean(((ghat - mean) ** 2).sum(1), moments(cell, scale, Q_S, R_M, 0 * delta2)[1])


@pytest.mark.parametrize("weights", get_args(Weights))
@pytest.mark.parametrize("kind", KINDS)
def test_the_simulation_is_what_the_package_does(kind: Compensation, weights: Weights) -> None:
    """The real chain (encode, packets, receive) on given fates equals the oracle fed with the codec's own dither."""
    cell, scheme = make_cell(kind), Scheme("test", "", "", weights=weights, compensation=kind)
    form = format_of(scheme, LAYOUT, CodecConfig(bits=BITS), SEED)
    uploads = [encode(form, cell.gradients[k], cell.state, Origin(k, ROUND, SAMPLES[k], 0.0)) for k in range(4)]
    keys = [int(stream(SEED, ROUND, k, Purpose.QUANTISE).integers(0, 2**64, dtype=np.uint64)) for k in range(4)]
    uniform = np.stack([oracles.dither(key, LAYOUT.size) for key in keys])
    gradients = cell.gradients.astype(np.float64)
    spans = [slice(*edges) for edges in zip(LAYOUT.edges, LAYOUT.edges[1:], strict=False)]  # a range a tensor
    parts = [oracles.quantise_draws(gradients[:, span], BITS, uniform[None, :, span]) for span in spans]
    quantised = np.concatenate([values for values, _ in parts], axis=-1)
    delta2 = np.sum([error for _, error in parts], axis=0)
    devices = describe(uploads)
    np.testing.assert_allclose(devices.delta2, delta2, rtol=1e-5)
    np.testing.assert_allclose(devices.vbar2, (cell.vbar**2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(devices.v_vbar, (np.abs(gradients) * cell.vbar).sum(1), rtol=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(8):
        sign = rng.random(4) < 0.7
        modulus = sign & (rng.random(4) < 0.5)
        odds = SimpleNamespace(q_s=Q_S, r_m=R_M, bits=None)
        update = received(form, uploads, Outcome(sign, modulus), odds, cell.state, ROUND)
        scale = devices.weight * aggregation_weight(devices, Q_S, R_M, weights)
        if weights == "normalized":
            scale = scale / max((scale * sign).sum(), 1e-300)
        expected = oracles.simulate_aggregate(gradients, cell.vbar, quantised, scale, sign[None], modulus[None])[0]
        np.testing.assert_allclose(update.gradient, expected, rtol=2e-5, atol=2e-6)
        assert update.rejected == 0


# --- normalized: its defining properties ---------------------------------------------------------------------------

unit = st.floats(0.015625, 1.0, width=32)
vector = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3)


def total(scales: Iterable[float], gradients: Iterable[list[float]], dim: int = 3) -> Sum:
    """The weighted sum of these gradients."""
    found = Sum(dim)
    for weight, gradient in zip(scales, gradients, strict=True):
        found.add(weight, np.array(gradient, np.float32))
    return found


@given(st.lists(st.tuples(unit, vector), min_size=1, max_size=6), st.floats(0.1, 10))
def test_normalized_is_the_weighted_mean_over_the_heard_whatever_the_scale(
    heard: list[tuple[float, list[float]]], factor: float
) -> None:
    scales, gradients = [w for w, _ in heard], [g for _, g in heard]
    expected = np.average(np.array(gradients), axis=0, weights=scales)
    for s in (1.0, factor):
        got = total([s * w for w in scales], gradients).normalized()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    plain = total(scales, gradients).vector
    np.testing.assert_allclose(plain, sum(scales) * expected, rtol=1e-4, atol=1e-4)


def test_nothing_heard_gives_zero() -> None:
    np.testing.assert_array_equal(total([], [], 5).vector, np.zeros(5, np.float32))
    np.testing.assert_array_equal(total([], [], 5).normalized(), np.zeros(5, np.float32))


def test_all_heard_makes_normalized_exact() -> None:
    mean = total([0.25, 0.75], [[1, -2, 3], [-4, 0, 2]]).normalized()
    np.testing.assert_allclose(mean, [0.25 - 3, -0.5, 0.75 + 1.5])


def test_normalized_is_a_consistent_ratio_estimator() -> None:
    """Gradients +1 heard with 0.3 and -1 heard with 0.9: the mean tends to (0.3 - 0.9) / 1.2 as devices are added.

    With one device of a kind the bias (0.1, by hand) is plain to see in 4,000 rounds; with 200 it is gone in 400.
    """
    rng, ratio = np.random.default_rng(3), -0.5
    for copies, rounds, consistent in ((1, 4000, False), (200, 400, True)):
        odds = np.repeat([0.3, 0.9], copies)
        heard = rng.random((rounds, 2 * copies)) < odds
        values = np.repeat([1.0, -1.0], copies)
        draws = [total([0.01] * int(row.sum()), [[v] for v in values[row]], 1).normalized() for row in heard]
        if consistent:
            assert_mean(np.array(draws), ratio)
        else:
            with pytest.raises(AssertionError):
                assert_mean(np.array(draws), ratio)


# --- compensatory moduli -------------------------------------------------------------------------------------------


def means_of(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


ONES, RAMP = np.ones(LAYOUT.size, np.float32), np.arange(1, LAYOUT.size + 1, dtype=np.float32)
LAYER = np.array([2, 2, 2, 2, 5, 5, 5], np.float32)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("zero", "constant")])
def test_before_anything_is_received_the_layer_mean_stands_in(kind: Compensation) -> None:
    np.testing.assert_array_equal(compensatory_modulus(kind, {}, 0, means_of(2, 5), LAYOUT), LAYER)


def test_zero_is_zero_and_layer_ignores_the_past() -> None:
    state = remember("ema", {}, {0: RAMP}, ONES)
    np.testing.assert_array_equal(compensatory_modulus("zero", state, 0, means_of(2, 5), LAYOUT), 0 * ONES)
    np.testing.assert_array_equal(compensatory_modulus("layer", state, 0, means_of(2, 5), LAYOUT), LAYER)


def test_global_is_the_modulus_of_the_last_update() -> None:
    state = remember("global", {}, {0: RAMP}, -RAMP)
    for device in (0, 7):
        np.testing.assert_array_equal(compensatory_modulus("global", state, device, means_of(2, 5), LAYOUT), RAMP)
    assert not (remember("global", state, {}, ONES)["compensation/vector"] - ONES).any()


def test_a_silent_round_does_not_erase_the_global_memory() -> None:
    """|ghat| = 0 would make every later sign packet without modulus count for nothing."""
    state = remember("global", {}, {}, -RAMP)
    np.testing.assert_array_equal(remember("global", state, {}, 0 * RAMP)["compensation/vector"], RAMP)
    assert remember("global", {}, {}, 0 * RAMP) == {}


def test_last_is_kept_per_device() -> None:
    state = remember("last", {}, {3: RAMP}, ONES)
    state = remember("last", state, {4: 2 * RAMP}, ONES)
    np.testing.assert_array_equal(compensatory_modulus("last", state, 3, means_of(2, 5), LAYOUT), RAMP)
    np.testing.assert_array_equal(compensatory_modulus("last", state, 4, means_of(2, 5), LAYOUT), 2 * RAMP)
    np.testing.assert_array_equal(compensatory_modulus("last", state, 5, means_of(2, 5), LAYOUT), LAYER)
    state = remember("last", state, {3: ONES}, ONES)
    np.testing.assert_array_equal(compensatory_modulus("last", state, 3, means_of(2, 5), LAYOUT), ONES)


@pytest.mark.parametrize("kind", ["ema", "scaled_ema"])
def test_ema_moves_a_tenth_towards_the_mean_of_what_was_received(kind: Compensation) -> None:
    state = remember(kind, {}, {0: ONES, 1: 3 * ONES}, ONES)
    np.testing.assert_allclose(state["compensation/vector"], 2 * ONES)
    state = remember(kind, state, {5: 12 * ONES}, ONES)
    np.testing.assert_allclose(state["compensation/vector"], 3 * ONES, rtol=1e-6)
    np.testing.assert_array_equal(remember(kind, state, {}, ONES)["compensation/vector"], state["compensation/vector"])


def test_scaled_ema_has_the_devices_own_mean_per_tensor_and_the_emas_shape() -> None:
    state = remember("scaled_ema", {}, {0: RAMP}, ONES)
    vbar = compensatory_modulus("scaled_ema", state, 0, means_of(20, 0), LAYOUT)
    np.testing.assert_allclose(vbar[:4], RAMP[:4] * 20 / 2.5, rtol=1e-6)
    np.testing.assert_array_equal(vbar[4:], 0.0)
    dead = remember("scaled_ema", {}, {0: 0 * RAMP}, ONES)  # a tensor that never moved: no division by zero
    np.testing.assert_array_equal(compensatory_modulus("scaled_ema", dead, 0, means_of(2, 5), LAYOUT), 0 * RAMP)


@pytest.mark.parametrize("kind", KINDS)
def test_remembering_changes_no_state_in_place(kind: Compensation) -> None:
    state = remember(kind, {}, {0: RAMP.copy()}, RAMP.copy())
    copies = {key: value.copy() for key, value in state.items()}
    remember(kind, state, {0: ONES, 1: ONES}, ONES)
    assert state.keys() == copies.keys()
    for key, value in copies.items():
        np.testing.assert_array_equal(state[key], value)


def test_a_constant_compensation_is_the_mean_over_all_elements() -> None:
    means = means_of(20, 0)
    vbar = compensatory_modulus("constant", {}, 0, means, LAYOUT)
    np.testing.assert_allclose(vbar, LAYOUT.expand(means).mean(), rtol=1e-6)
    assert vbar.dtype == np.float32
    assert not np.allclose(vbar, LAYOUT.expand(means)), "the mean of each tensor is another rule"
