"""Allocation: at the optimum (brute force, SLSQP, cvxpy), certified, feasible, and sane at the extremes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize

import oracles
from spfl.allocation import allocator
from spfl.allocation.bound import Devices, Objective, device_cost
from spfl.allocation.problem import Limits
from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.errors import AllocationError
from spfl.radio.outage import Link, success

BANDWIDTH_HZ, NOISE_W_PER_HZ, POWER_W, TAU_S = 10e6, 4e-21, 0.1, 0.1


def allocate(
    devices: Devices, link: Link, solver: str = "exact", start: AllocationResult | None = None, **options
) -> AllocationResult:
    """The solver, with the fields of both bundles as keywords.

    Under unbiased weights everybody is served here, which is the harder problem; test_silence.py has the default.
    """
    if options.get("weights", "unbiased") == "unbiased" and "max_scheduled" not in options:
        options.setdefault("allow_drop", False)
    goal = {key: options.pop(key) for key in ("theta", "kappa", "weights", "c") if key in options}
    return allocator.allocate(devices, link, Objective(**goal), Limits(**options), solver=solver, start=start)


def draw(seed: int, devices: int | None = None) -> tuple[Devices, Link, dict]:
    """A random problem: gains over 60 dB, SNR from hopeless to ample, some of them degenerate."""
    g = np.random.default_rng([4, seed])
    size = int(g.integers(2, 13)) if seed % 25 else 1
    size = devices or size
    median_snr, load = 10 ** (g.uniform(-5, 35) / 10), 10 ** g.uniform(-0.5, 0.8)
    gain = 10 ** (g.uniform(-30, 30, size) / 10) * median_snr * NOISE_W_PER_HZ * BANDWIDTH_HZ / size / POWER_W
    sign_bits = load * BANDWIDTH_HZ * TAU_S / size / 4
    v2 = g.lognormal(0, 1.5, size)
    vbar2 = v2 * g.uniform(0.1, 1.5, size)
    v_vbar = np.sqrt(v2 * vbar2) * g.uniform(0.3, 1, size)
    weight = g.dirichlet(np.full(size, 3.0))
    if seed % 10 == 3:  # ties
        for array in (gain, v2, vbar2, v_vbar):
            array[:] = array[0]
        weight[:] = 1 / size
    if seed % 10 == 4:
        v2[0] = v_vbar[0] = 0
    if seed % 10 == 5:
        gain[-1] = 0
    if seed == 6:
        v2[:] = v_vbar[:] = 0
    rho = None if seed % 3 else np.full(size, g.uniform(0.1, 0.9))
    moduli = np.full(size, 3 * sign_bits + 64)
    link = Link(
        BANDWIDTH_HZ, NOISE_W_PER_HZ, np.full(size, POWER_W), gain, np.full(size, TAU_S), np.full(size, sign_bits),
        moduli, 1.0, ("block", "independent")[seed % 2], rho,
    )  # fmt: skip
    options = {
        "theta": (1.0, 0.5, 0.0)[seed % 3 if seed % 7 else 0],
        "kappa": (1.0, 0.3)[seed % 2],
        "weights": ("unbiased", "unbiased", "mmse", "plain")[(seed // 2) % 4],
    }
    return Devices(weight, v2, vbar2, v_vbar, v2 * g.uniform(0, 0.3, size)), link, options


@cache
def solved(seed: int, solver: str = "exact") -> AllocationResult:
    devices, link, options = draw(seed)
    return allocate(devices, link, solver=solver, **options)


def brute_force(devices: Devices, link: Link, options: dict, result: AllocationResult) -> float:
    """The oracle's optimum, with the cost of the devices that cannot be scheduled added."""
    active = (devices.v2 > 0) & (devices.weight > 0) & ~result.hopeless
    rows = [
        {
            "noise": link.noise_to_signal[k], "l_s": link.sign_load[k], "l_m": link.modulus_load[k],
            "w": devices.weight[k], "v2": devices.v2[k], "vbar2": devices.vbar2[k], "v_vbar": devices.v_vbar[k],
            "delta2": devices.delta2[k], "c": 1.0, "fading": link.fading, **options,
        }
        for k in np.flatnonzero(active)
    ]  # fmt: skip
    droppable = options["weights"] != "unbiased" or result.status == AllocationStatus.OVERLOADED
    found = oracles.allocation_optimum(rows, link.split[active], droppable) if rows else 0.0
    return found + float(result.cost[~active].sum())


def conventional(devices: Devices, link: Link, options: dict) -> float:
    """The objective at beta = 1/K, alpha = rho = L_s / (L_s + L_m)."""
    rho = link.proportional_rho()
    chances = success(link, 1 / devices.size, rho, rho)
    return float(device_cost(devices, chances.q_s, chances.r_m, Objective(**options)).sum())


def assert_consistent(devices: Devices, link: Link, options: dict, result: AllocationResult) -> None:
    """Feasible, finite, and the printed figures are those of the printed allocation."""
    assert result.beta.sum() <= 1 + 1e-12
    assert ((result.beta >= 0) & (result.alpha >= 0) & (result.alpha <= 1)).all()
    chances = success(link, result.beta, result.alpha, result.rho)
    scheduled = result.beta > 0
    np.testing.assert_allclose(result.q_s[scheduled], chances.q_s[scheduled], rtol=1e-12)
    assert (result.q_s[~scheduled] == 0).all()
    cost = device_cost(devices, result.q_s, result.r_m, Objective(**options))
    np.testing.assert_allclose(result.cost, cost, rtol=1e-12)
    assert result.objective == pytest.approx(cost.sum(), rel=1e-12)
    assert np.isfinite(result.objective)


def check_against_brute_force(seed: int) -> None:
    devices, link, options = draw(seed)
    result = solved(seed)
    assert_consistent(devices, link, options, result)
    reference = brute_force(devices, link, options, result)
    assert result.objective <= reference * (1 + 1e-3) + 1e-300
    assert result.objective >= result.lower_bound
    assert reference >= result.lower_bound * (1 - 1e-12)  # the bound holds for every feasible point
    # the reference lies on a grid: where the cost is steep it may be worse, but not by much
    assert result.objective >= reference * (1 - 5e-3) - 1e-300


@pytest.mark.parametrize("seed", range(60))
def test_exact_is_at_the_brute_force_optimum(seed: int) -> None:
    check_against_brute_force(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 200))
def test_exact_is_at_the_brute_force_optimum_on_all_instances(seed: int) -> None:
    check_against_brute_force(seed)


@pytest.mark.parametrize("solver", ["exact", "alternating"])
def test_never_worse_than_uniform_nor_the_conventional_point(solver: str) -> None:
    for seed in range(200):
        devices, link, options = draw(seed)
        objective = solved(seed, solver).objective
        assert objective <= solved(seed, "uniform").objective * (1 + 1e-9) + 1e-300, seed
        if link.fading == "block" and seed % 3:
            assert objective <= conventional(devices, link, options) * (1 + 1e-9) + 1e-300, seed


def test_alternating_is_mostly_close_to_exact_and_never_better_than_its_bound() -> None:
    """At most one instance in twenty loses more than 1 %."""
    loss = np.zeros(200)
    for seed in range(200):
        exact, alternating = solved(seed), solved(seed, "alternating")
        assert alternating.objective >= exact.lower_bound
        loss[seed] = alternating.objective / exact.objective - 1 if exact.objective else 0.0
    assert (loss <= 0.01).mean() >= 0.95
    assert loss.max() > 0.1  # it does get stuck: a proof is worth having


@pytest.mark.parametrize("seed", range(0, 200, 5))
def test_alternating_never_increases_and_stays_feasible(seed: int) -> None:
    devices, link, options = draw(seed)
    result = solved(seed, "alternating")
    assert_consistent(devices, link, options, result)
    if result.history:
        assert (np.diff(result.history) <= 0).all()
        assert result.history[-1] == pytest.approx(result.objective - _passive(devices, result), rel=1e-9, abs=1e-300)


def _passive(devices: Devices, result: AllocationResult) -> float:
    """The cost of devices outside the problem."""
    return float(result.cost[result.hopeless | (devices.v2 == 0)].sum())


@pytest.mark.parametrize("weights", ["unbiased", "mmse", "plain"])
@pytest.mark.parametrize(("size", "gap"), [(20, 1e-2), (200, 1e-3), (1000, 1e-3)])
def test_gap_shrinks_with_devices(size: int, gap: float, weights: str) -> None:
    for seed in (1, 2, 7):
        devices, link, options = draw(seed, size)
        result = allocate(devices, link, **options | {"weights": weights})
        assert 0 <= result.gap <= gap
        assert result.objective >= result.lower_bound


def cell(size: int = 6, **changes) -> tuple[Devices, Link]:
    """A benign problem: everybody can be received well."""
    k = np.arange(size)
    v2 = 1 + 0.3 * k
    devices = Devices(np.full(size, 1 / size), v2, 0.8 * v2, 0.8 * v2, 0.05 * v2)
    gain = 10 ** ((20 - 2.0 * k) / 10) * NOISE_W_PER_HZ * BANDWIDTH_HZ / size / POWER_W
    bits = BANDWIDTH_HZ * TAU_S / size / 4
    link = Link(
        BANDWIDTH_HZ, NOISE_W_PER_HZ, np.full(size, POWER_W), gain, np.full(size, TAU_S), np.full(size, bits),
        np.full(size, 3 * bits),
    )  # fmt: skip
    return devices, replace(link, **changes)


@pytest.mark.parametrize("fading", ["block", "independent"])
def test_kkt_residuals(fading: str) -> None:
    """At the optimum every device's worth of band is lambda, and no power split is worth more (finite differences)."""
    devices, link = cell(fading=fading)
    result = allocate(devices, link)

    def cost(beta, alpha):
        chances = success(link, beta, alpha)
        return device_cost(devices, chances.q_s, chances.r_m)

    h = 1e-5
    worth = (cost(result.beta * (1 - h), result.alpha) - cost(result.beta * (1 + h), result.alpha)) / (
        2 * h * result.beta
    )
    np.testing.assert_allclose(worth, result.multiplier, rtol=1e-3)
    assert result.beta.sum() == pytest.approx(1, abs=1e-6)  # complementary slackness
    for factor in (1 - 1e-3, 1 + 1e-3):
        assert (cost(result.beta, np.minimum(result.alpha * factor, 1)) >= result.cost * (1 - 1e-9)).all()


def test_slsqp_agrees_on_a_convex_special_case() -> None:
    """Fixed powers and signs only: e / q_s is convex in the share."""
    devices, link = cell(modulus_bits=0.0, rho=1.0)
    ours = allocate(devices, link, fixed_alpha=True)

    def objective(beta):
        chances = success(link, beta, 1.0)
        return device_cost(devices, chances.q_s, chances.r_m).sum()

    start = np.full(6, 1 / 6)
    found = minimize(
        objective, start, method="SLSQP", bounds=[(0.02, 1)] * 6, options={"ftol": 1e-14, "maxiter": 500},
        constraints={"type": "eq", "fun": lambda b: 1 - b.sum()},
    )  # fmt: skip
    assert ours.objective == pytest.approx(found.fun, rel=1e-6)
    assert ours.lower_bound <= found.fun * (1 + 1e-9)
    np.testing.assert_allclose(ours.beta, found.x, atol=1e-4)


def test_cvxpy_agrees_on_a_convex_special_case() -> None:
    """The same case as a cone programme: x / noise + beta >= beta exp(rate / beta), the perspective of exp."""
    cvxpy = pytest.importorskip("cvxpy")
    devices, link = cell(modulus_bits=0.0, rho=1.0)
    ours = allocate(devices, link, fixed_alpha=True)
    beta, rate = cvxpy.Variable(6), link.sign_load * np.log(2)
    x = cvxpy.Variable(6)
    cone = cvxpy.ExpCone(rate, beta, x / link.noise_to_signal + beta)
    weight2 = devices.weight**2
    cost = (
        cvxpy.sum(cvxpy.multiply(weight2 * (devices.v2 + devices.delta2), cvxpy.exp(x))) - (weight2 * devices.v2).sum()
    )
    found = cvxpy.Problem(cvxpy.Minimize(cost), [cone, cvxpy.sum(beta) <= 1]).solve(solver="CLARABEL")
    assert ours.objective == pytest.approx(found, rel=1e-5)


def test_one_device_takes_the_band() -> None:
    devices, link = cell(1)
    for solver in ("exact", "alternating", "uniform"):
        assert allocate(devices, link, solver=solver).beta == pytest.approx([1.0])


def test_equal_devices_get_equal_shares() -> None:
    devices, link = cell()
    same = Devices(*(np.full(6, getattr(devices, f)[0]) for f in ("weight", "v2", "vbar2", "v_vbar", "delta2")))
    result = allocate(same, replace(link, gain=np.full(6, link.gain[0])))
    np.testing.assert_allclose(result.beta, 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(result.alpha, result.alpha[0], rtol=1e-4)


@pytest.mark.parametrize("solver", ["exact", "alternating", "uniform"])
def test_devices_without_gradient_weight_or_gain_get_no_band(solver: str) -> None:
    devices, link = cell()
    v2, weight, gain = devices.v2.copy(), devices.weight.copy(), link.gain.copy()
    v2[0], weight[1], gain[2] = 0, 0, 0
    result = allocate(replace(devices, v2=v2, weight=weight), replace(link, gain=gain), solver=solver)
    assert (result.beta[:3] == 0).all()
    assert (result.beta[3:] > 0).all()
    np.testing.assert_array_equal(result.hopeless, [False, False, True, False, False, False])
    np.testing.assert_allclose(result.cost[:3], [0, 0, weight[2] * v2[2]])


@pytest.mark.parametrize("solver", ["exact", "alternating", "uniform"])
def test_nobody_to_schedule(solver: str) -> None:
    devices, link = cell()
    idle = allocate(replace(devices, v2=np.zeros(6)), link, solver=solver)
    assert (idle.status, idle.objective, idle.beta.sum()) == (AllocationStatus.TRIVIAL, 0.0, 0.0)
    deaf = allocate(devices, replace(link, power_w=0.0), solver=solver)
    assert deaf.hopeless.all()
    assert deaf.objective == pytest.approx((devices.weight * devices.v2).sum())


@pytest.mark.parametrize("weights", ["unbiased", "mmse", "plain", "normalized"])
@pytest.mark.parametrize("solver", ["exact", "alternating", "uniform"])
def test_extremes_give_numbers(solver: str, weights: str) -> None:
    """Outage exponents up to 1e300, loads up to 1e4 bit per symbol, gains from nothing to absurd."""
    g = np.random.default_rng(1)
    for scale in (1e-300, 1e-30, 1e-3, 1.0, 1e30, 1e280):
        for load in (1e-6, 1.0, 40.0, 1e4):
            devices, link = cell()
            bits = load * BANDWIDTH_HZ * TAU_S * g.uniform(0.5, 2, 6)
            hard = replace(link, gain=link.gain * scale, sign_bits=bits, modulus_bits=3 * bits)
            result = allocate(devices, hard, solver=solver, weights=weights)
            for array in (result.beta, result.alpha, result.q_s, result.r_m):
                assert np.isfinite(array).all()
            assert not np.isnan(result.cost).any()
            assert solver == "uniform" or np.isfinite(result.objective)
            assert result.beta.sum() <= 1 + 1e-12


def test_overloaded_band_drops_somebody_and_says_so() -> None:
    """Each device can succeed with the whole band, all of them together cannot."""
    devices, link = cell()
    heavy = np.full(6, BANDWIDTH_HZ * TAU_S)
    crowded = replace(link, sign_bits=heavy, modulus_bits=3 * heavy)
    for solver in ("exact", "alternating"):
        result = allocate(devices, crowded, solver=solver)
        assert result.status == AllocationStatus.OVERLOADED
        assert 0 < (result.beta > 0).sum() < 6
        assert result.objective <= allocate(devices, crowded, solver="uniform").objective


def test_constraints_hold() -> None:
    devices, link = cell()
    free = allocate(devices, link)
    served = allocate(devices, link, min_success=0.97)
    assert (served.q_s >= 0.97 * (1 - 1e-9)).all()
    assert served.objective >= free.objective
    deaf = replace(link, gain=np.where(np.arange(6) == 2, 0.0, link.gain))
    for weights in ("unbiased", "plain"):
        served = allocate(devices, deaf, min_success=0.9, weights=weights)
        assert (np.delete(served.q_s, 2) >= 0.9 * (1 - 1e-9)).all()
        assert served.hopeless[2]
    few = allocate(devices, link, max_scheduled=3)
    assert (few.beta > 0).sum() <= 3
    assert few.objective >= few.lower_bound
    capped = allocate(devices, link, max_share=0.2)
    assert (capped.beta <= 0.2 * (1 + 1e-12)).all()
    even = allocate(devices, link, max_power=0.5)
    assert even.alpha == pytest.approx(np.full(6, 0.5))


@pytest.mark.parametrize("solver", ["exact", "alternating"])
def test_max_scheduled_picks_the_best_set(solver: str) -> None:
    """Against every subset of two or less of six devices, in the exact solver's own optimum of each."""
    devices, link = cell()
    result = allocate(devices, link, max_scheduled=2, solver=solver)
    best = np.inf
    for i in range(6):
        for j in range(i, 6):
            weight = np.where(np.isin(np.arange(6), [i, j]), devices.weight, 0.0)
            pair = allocate(replace(devices, weight=weight), link)
            left_out = (devices.weight * devices.v2)[weight == 0].sum()
            best = min(best, pair.objective + left_out)
    assert result.objective <= best * (1 + 1e-3)
    assert (result.beta > 0).sum() <= 2


def test_ablations() -> None:
    devices, link = cell()
    full, no_power = allocate(devices, link), allocate(devices, link, fixed_alpha=True)
    no_band, neither = allocate(devices, link, fixed_beta=True), allocate(devices, link, solver="uniform")
    np.testing.assert_allclose(no_power.alpha, link.split)
    np.testing.assert_allclose(no_band.beta, 1 / 6)
    assert full.objective < no_power.objective < neither.objective
    assert full.objective < no_band.objective < neither.objective


def test_free_rho_is_never_worse() -> None:
    for seed in (1, 3, 8, 12):
        devices, link, options = draw(seed)
        free = allocate(devices, link, optimise_rho=True, **options)
        assert free.objective <= solved(seed).objective * (1 + 1e-6)
        assert free.objective >= free.lower_bound
        assert_consistent(devices, link, options, free)


@pytest.mark.parametrize("seed", [2, 12, 14, 22, 26, 32])
def test_free_rho_against_random_search(seed: int) -> None:
    """Two devices: no sampled and locally improved point is below the bound, or better than the solver's."""
    devices, link, options = draw(seed, 2)
    free = allocate(devices, link, optimise_rho=True, **options)

    def objective(point: np.ndarray) -> float:
        share = np.clip(point[0], 1e-9, 1 - 1e-9)
        alpha, rho = np.clip(point[1:3], 1e-6, 1 - 1e-9), np.clip(point[3:], 1e-6, 1 - 1e-9)
        chances = success(link, np.array([share, 1 - share]), alpha, rho)
        if options["weights"] == "unbiased" and chances.q_s.min() < 1e-12:
            return np.inf  # nobody may be dropped
        return float(device_cost(devices, chances.q_s, chances.r_m, Objective(**options)).sum())

    points = np.random.default_rng(seed).random((6000, 5))
    starts = sorted(points, key=objective)[:6]
    found = min(minimize(objective, start, method="Nelder-Mead", options={"maxfev": 2000}).fun for start in starts)
    assert found >= free.lower_bound * (1 - 1e-9)
    assert free.objective <= found * (1 + 1e-6)


def test_warm_start_ends_at_the_same_optimum() -> None:
    devices, link = cell(20)
    cold = allocate(devices, link)
    moved = replace(devices, v2=devices.v2 * 1.05, vbar2=devices.vbar2 * 1.02)
    for solver in ("exact", "alternating"):
        warm, fresh = allocate(moved, link, start=cold, solver=solver), allocate(moved, link, solver=solver)
        assert warm.objective == pytest.approx(fresh.objective, rel=1e-6)


def test_same_input_same_bits() -> None:
    devices, link, options = draw(2, 5000)  # enough for several threads
    first, second = allocate(devices, link, **options), allocate(devices, link, **options)
    assert first.beta.tobytes() == second.beta.tobytes()
    assert first.lower_bound == second.lower_bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "solver must be one of"),
        ({"weights": "fair"}, "weights must be one of"),
        ({"theta": 1.5}, r"theta must lie in \[0, 1\], got 1.5"),
        ({"kappa": float("nan")}, "kappa must lie in"),
        ({"c": 0.0}, "c must be"),
        ({"max_scheduled": 0}, "max_scheduled must be >= 1, got 0"),
        ({"max_share": 0.0}, "max_share must be"),
        ({"max_power": 0.4}, "max_power must be"),
        ({"min_success": [0.5, 0.5]}, "min_success must be a number or 6 numbers"),
        ({"min_success": 0.999999}, "min_success"),
        ({"optimise_rho": True, "solver": "alternating"}, "optimise_rho"),
    ],
)
def test_malformed_problems_are_named(options: dict, message: str) -> None:
    devices, link = cell()
    with pytest.raises(AllocationError, match=message):
        allocate(devices, link, **options)


def test_sizes_must_agree() -> None:
    with pytest.raises(AllocationError, match="same size, got 5 and 6"):
        allocate(cell(5)[0], cell(6)[1])
