"""The bound and the device's cost (model.md, section 6) against vectors, grids and Monte Carlo on quadratics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracles
from spfl.allocation.bound import (
    Devices,
    Objective,
    Weights,
    aggregation_weight,
    bias_weight,
    device_cost,
    one_step_bound,
)
from stats import assert_mean_at_most

Array = NDArray[np.float64]
FIXED: list[Weights] = ["unbiased", "mmse", "plain"]  # the weights that are known before reception
BITS, DRAWS = 2, 100_000


def describe(w: Array, gradients: Array, vbar: Array, delta2: Array) -> Devices:
    v = np.abs(gradients)
    return Devices(w, (v**2).sum(1), (vbar**2).sum(1), (v * vbar).sum(1), delta2)


# --- the cost of a device ------------------------------------------------------------------------------------------


@st.composite
def device_and_link(draw: st.DrawFn) -> dict[str, Any]:
    moduli = st.lists(st.floats(0, 10), min_size=3, max_size=3)
    unit = st.floats(0, 1)
    return {
        "w": draw(unit),
        "v": np.array(draw(moduli)),
        "vbar": np.array(draw(moduli)),
        "delta2": draw(st.floats(0, 5)),
        "q_s": draw(st.floats(1e-6, 1)),
        "r_m": draw(unit),
        "theta": draw(unit),
        "kappa": draw(unit),
    }


@given(device_and_link(), st.sampled_from(FIXED), st.floats(1e-3, 10))
def test_cost_equals_its_definition_from_the_vectors(x: dict[str, Any], weights: Weights, common: float) -> None:
    devices = describe(np.array([x["w"]]), x["v"][None], x["vbar"][None], np.array([x["delta2"]]))
    q_s, r_m = np.array([x["q_s"]]), np.array([x["r_m"]])
    options = {"theta": x["theta"], "kappa": x["kappa"]}
    c = common if weights == "plain" else float(aggregation_weight(devices, q_s, r_m, weights, **options)[0])
    cost = device_cost(devices, q_s, r_m, Objective(weights=weights, c=common, **options))[0]
    twin = oracles.device_cost(c=c, **x)
    scale = devices.v2[0] + c * c * (devices.v2[0] + devices.vbar2[0] + devices.delta2[0])
    assert cost == pytest.approx(twin, rel=1e-9, abs=1e-12 * scale)


@given(device_and_link())
def test_mmse_weight_minimises_the_devices_own_cost(x: dict[str, Any]) -> None:
    """On a grid of c around c*, and a little to its sides: no other weight costs less."""
    devices = describe(np.array([x["w"]]), x["v"][None], x["vbar"][None], np.array([x["delta2"]]))
    q_s, r_m = np.array([x["q_s"]]), np.array([x["r_m"]])
    options = {"theta": x["theta"], "kappa": x["kappa"]}
    best = float(aggregation_weight(devices, q_s, r_m, "mmse", **options)[0])
    least = device_cost(devices, q_s, r_m, Objective(weights="mmse", **options))[0]
    grid = np.concatenate([best * np.geomspace(0.01, 100, 41), [best * 0.999, best * 1.001, 0.0]])
    for c in grid:
        assert least <= oracles.device_cost(c=float(c), **x) * (1 + 1e-9) + 1e-9 * devices.v2[0]


def test_mmse_weight_is_strictly_better_off_the_optimum() -> None:
    """A weight wrong by 10 % costs more: the grid test above could not pass with it."""
    x = {"w": 0.2, "v": np.array([1.0, 2, 3]), "vbar": np.full(3, 2.0), "delta2": 0.3, "q_s": 0.6, "r_m": 0.5}
    devices = describe(np.array([0.2]), x["v"][None], x["vbar"][None], np.array([0.3]))
    best = float(aggregation_weight(devices, np.array([0.6]), np.array([0.5]), "mmse")[0])
    least = oracles.device_cost(c=best, theta=1, kappa=1, **x)
    for wrong in (0.9, 1.1):
        assert oracles.device_cost(c=wrong * best, theta=1, kappa=1, **x) > least * 1.001


def test_mmse_weight_tends_to_inverse_probability() -> None:
    """kappa -> 0 and vbar = v: c* -> 1/q_s."""
    v = np.array([[1.0, 2.0, 3.0]])
    devices = describe(np.array([0.1]), v, v, np.zeros(1))
    for q_s in (0.01, 0.3, 1.0):
        c = aggregation_weight(devices, np.array([q_s]), np.array([0.4]), "mmse", kappa=1e-12)
        assert c[0] == pytest.approx(1 / q_s, rel=1e-9)
        assert aggregation_weight(devices, np.array([q_s]), np.array([0.4]), "mmse")[0] < 1 / q_s or q_s == 1.0


def test_weights_known_before_reception() -> None:
    devices = Devices(np.full(3, 1 / 3), np.ones(3), np.ones(3), np.ones(3), np.zeros(3))
    q_s, r_m = np.array([0.0, 0.25, 1.0]), np.full(3, 0.5)
    np.testing.assert_array_equal(aggregation_weight(devices, q_s, r_m, "unbiased"), [0.0, 4.0, 1.0])
    for weights in ("plain", "normalized"):
        np.testing.assert_array_equal(aggregation_weight(devices, q_s, r_m, weights), 1.0)
    assert np.isfinite(aggregation_weight(devices, q_s, r_m, "mmse")).all()


@pytest.mark.parametrize("weights", FIXED)
def test_costs_are_never_nan_and_unheard_devices_cost_their_gradient(weights: Weights) -> None:
    """Moduli as large as float32 allows, and probabilities down to the smallest float64."""
    tiny = [0.0, 5e-324, 1e-310, 1e-151, 1e-149, 1e-12, 1.0]
    q_s, r_m, w, v2 = (a.ravel() for a in np.meshgrid(tiny, [0.0, 0.5, 1.0], [0.0, 0.5], [0.0, 1e-45, 1.0, 1e83]))
    devices = Devices(w, v2, v2 * 0.5, v2 * 0.5, v2)
    for kappa in (0.0, 1e-3, 1.0):
        cost = device_cost(devices, q_s, r_m, Objective(weights=weights, kappa=kappa))
        assert (cost >= 0).all()
        np.testing.assert_array_equal(cost[q_s < 1e-150], (w * v2)[q_s < 1e-150])
        assert np.isfinite(aggregation_weight(devices, q_s, r_m, weights, kappa=kappa)).all()


@given(st.floats(0, 1), st.floats(0, 1))
def test_bias_weight_is_between_jensen_and_uncorrelated(w: float, theta: float) -> None:
    assert w * w <= bias_weight(np.float64(w), theta) * (1 + 1e-12)
    assert bias_weight(np.float64(w), theta) <= w * (1 + 1e-12)


def test_normalized_weights_sum_to_one_or_stay_zero() -> None:
    five = np.ones((4, 3))
    assert Devices(np.array([1.0, 2.0, 5.0]), *five).normalized().weight.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(Devices(np.zeros(3), *five).normalized().weight, 0.0)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_side_information_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="v2 must be finite and >= 0"):
        Devices(np.ones(1), np.array([bad]), np.ones(1), np.ones(1), np.ones(1))


# --- the bound on quadratics -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One round of K = 4 devices on F_k(w) = w'A w / 2 - b_k'w, whose smoothness L is the largest eigenvalue of A."""

    hessian: str  # "scalar": A = L I, where the descent lemma is an equality; "spread": eigenvalues 0.1 .. 2
    kappa: float
    q_s: tuple[float, ...]
    r_m: tuple[float, ...]
    vbar: float  # compensatory modulus in multiples of the mean modulus
    weights: Weights


GOOD, BAD, MIXED = (0.95, 0.9, 0.99, 0.97), (0.2, 0.1, 0.3, 0.15), (0.9, 0.3, 0.6, 0.99)
CASES = [
    Case(hessian, kappa, q_s, r_m, vbar, weights)
    for hessian in ("scalar", "spread")
    for kappa, q_s, r_m, vbar in [
        (1.0, BAD, BAD, 1.0),
        (1.0, GOOD, MIXED, 1.0),
        (0.3, MIXED, GOOD, 1.0),
        (0.3, MIXED, BAD, 3.0),
        (0.05, BAD, MIXED, 0.0),
    ]
    for weights in FIXED
]
SMOOTHNESS = 2.0


@dataclass(frozen=True)
class Measured:
    """Monte Carlo of one case, and all that enters its bounds."""

    change: Array  # F(w - eta ghat) - F(w) of every draw
    gradient2: float
    mean2: float
    bias2: float
    variance: float
    jensen: float  # sum_k J_k, theta = 1
    rate: float

    def exact(self, **changes: float) -> float:
        terms = {name: getattr(self, name) for name in ("gradient2", "mean2", "bias2", "variance")} | changes
        return one_step_bound(rate=self.rate, smoothness=SMOOTHNESS, **terms)

    def by_costs(self) -> float:
        """The bound that the allocator minimises: bias and variance replaced by sum_k J_k."""
        return self.exact(bias2=self.jensen, variance=0.0)


@cache
def measure(case: Case) -> Measured:
    rng = np.random.default_rng(20)
    dim, w_k = 6, np.array([0.1, 0.2, 0.3, 0.4])
    a = np.diag(np.full(dim, SMOOTHNESS) if case.hessian == "scalar" else np.linspace(0.1, SMOOTHNESS, dim))
    point, targets = rng.normal(size=dim), rng.normal(size=(4, dim)) * 1.5
    gradients = point @ a - targets
    gradient, rate = w_k @ gradients, case.kappa / SMOOTHNESS
    q_s, r_m = np.array(case.q_s), np.array(case.r_m)
    v = np.abs(gradients)
    vbar = np.repeat(case.vbar * v.mean(axis=1, keepdims=True), dim, axis=1)
    quantised, delta2 = oracles.quantise_draws(gradients, BITS, rng.random((DRAWS, 4, dim)))
    devices = describe(w_k, gradients, vbar, delta2)
    c = aggregation_weight(devices, q_s, r_m, case.weights, kappa=case.kappa)
    sign = rng.random((DRAWS, 4)) < q_s
    modulus = sign & (rng.random((DRAWS, 4)) < r_m)
    ghat = oracles.simulate_aggregate(gradients, vbar, quantised, w_k * c, sign, modulus)
    change = -rate * ghat @ gradient + rate**2 / 2 * np.einsum("nd,de,ne->n", ghat, a, ghat, optimize=True)
    m = r_m[:, None] * v + (1 - r_m[:, None]) * vbar
    expected = (w_k * c * q_s) @ (np.where(gradients >= 0, 1, -1) * m)
    second = r_m * (devices.v2 + delta2) + (1 - r_m) * devices.vbar2
    variance = (w_k**2 * c**2 * (q_s * second - q_s**2 * (m**2).sum(1))).sum()
    jensen = device_cost(devices, q_s, r_m, Objective(theta=1.0, kappa=case.kappa, weights=case.weights)).sum()
    return Measured(
        change,
        float(gradient @ gradient),
        float(expected @ expected),
        float(((expected - gradient) ** 2).sum()),
        float(variance),
        float(jensen),
        rate,
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_step_bound_holds(case: Case) -> None:
    """10^5 draws: the mean change of F is at most the exact-bias bound, and that at most the bound by costs."""
    run = measure(case)
    assert_mean_at_most(run.change, run.exact())
    assert run.exact() <= run.by_costs() * (1 + 1e-12) + 1e-12
    if case.hessian == "scalar":  # the descent lemma is an equality, so the bound is one too
        assert_mean_at_most(-run.change, -run.exact())


def test_a_wrong_bound_is_found_out() -> None:
    """Each twin passes the true bound's test nowhere near everywhere: halved, without bias, variance or quantiser."""
    twins = {
        "halved": lambda run: run.exact() / 2,
        "half the cost": lambda run: run.exact(bias2=run.jensen / 2, variance=0.0),
        "no bias": lambda run: run.exact(bias2=0.0),
        "no variance": lambda run: run.exact(variance=0.0),
        "95 % of the variance": lambda run: run.exact(variance=0.95 * run.variance),
        "second term counted twice": lambda run: run.exact(gradient2=run.gradient2 + run.mean2),
    }
    for name, twin in twins.items():
        caught = 0
        for case in CASES:
            run = measure(case)
            try:
                assert_mean_at_most(run.change, twin(run))
            except AssertionError:
                caught += 1
        assert caught >= 1, name


def test_uncorrelated_biases_need_theta_one_to_be_safe() -> None:
    """theta = 0 is exact for orthogonal biases, too small for equal ones; Jensen is safe (model.md, section 6)."""
    w, eye = np.full(4, 0.25), np.eye(4)
    for biases, safe_at_zero in ((eye, True), (np.ones((4, 4)), False)):
        true, squares = ((w @ biases) ** 2).sum(), (biases**2).sum(1)
        assert true <= bias_weight(w, 1.0) @ squares + 1e-12
        assert (true <= bias_weight(w, 0.0) @ squares + 1e-12) == safe_at_zero
    assert ((w @ eye) ** 2).sum() == pytest.approx(bias_weight(w, 0.0) @ (eye**2).sum(1))


def test_sampling_noise_is_not_a_constant_of_the_bound() -> None:
    """With minibatch gradients g, E||mu - grad F||^2 is not E||mu - g||^2 plus the sampling variance (docs/model.md).

    One parameter, minibatch gradients +-1 about grad F = 0, only signs arrive, vbar = 3: the first is 9, the second
    4 + 1. What always holds is Young's inequality, 2 E||mu - g||^2 + 2 sigma^2.
    """
    g = np.array([1.0, -1.0])
    mu = 3.0 * np.sign(g)  # E ghat given the minibatch: unbiased weights, r_m = 0
    true, seen, sigma2 = (mu**2).mean(), ((mu - g) ** 2).mean(), (g**2).mean()
    assert true > seen + sigma2
    assert true <= 2 * seen + 2 * sigma2


def test_bound_refuses_a_step_that_is_too_long() -> None:
    terms = {"gradient2": 1.0, "mean2": 1.0, "bias2": 0.0, "variance": 0.0}
    assert one_step_bound(rate=0.5, smoothness=2.0, **terms) == pytest.approx(-0.25)
    for rate in (0.51, 0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must lie in"):
            one_step_bound(rate=rate, smoothness=2.0, **terms)


def test_devices_are_values() -> None:
    devices = Devices(np.ones(1), np.ones(1), np.ones(1), np.ones(1), np.ones(1))
    assert devices.size == replace(devices, weight=np.full(1, 0.5)).size == 1
