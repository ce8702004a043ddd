"""One-dimensional numerics against functions whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit

from spfl.allocation.solvers import Status, minimise, newton, price, solve_positive


@njit
def cubic(x, args):
    return x**3 - args, 3 * x**2


@njit
def flat_then_steep(x, args):
    return math.tanh(args * x), args / math.cosh(args * x) ** 2


@njit
def wrong_slope(x, args):
    return x - args, -1.0


@njit
def parabola(x, args):
    return (x - args) ** 2


@njit
def kink(x, args):
    return abs(x - args) + 0.1 * x


@njit
def cliff(x, args):
    return math.inf if x < args else x


@pytest.mark.parametrize("target", [1e-9, 1.0, 7.5, 999.0])
def test_newton_finds_the_root(target: float) -> None:
    found = newton(cubic, target, 0.0, 10.0, 5.0)
    assert found.status == Status.CONVERGED
    assert found.value == pytest.approx(target ** (1 / 3), rel=1e-9)


def test_newton_is_safe_where_plain_newton_diverges() -> None:
    found = newton(flat_then_steep, 50.0, -1.0, 3.0, 2.0)  # the slope at 2 is 0 to rounding
    assert abs(found.value) < 1e-10
    assert newton(wrong_slope, 0.3, 0.0, 1.0, 0.9).value == pytest.approx(0.3, abs=1e-11)


def test_newton_names_a_root_outside_the_bracket() -> None:
    low, high = newton(cubic, -1.0, 0.0, 1.0, 0.5), newton(cubic, 8.0, 0.0, 1.0, 0.5)
    assert (low.value, low.status) == (0.0, Status.NO_SIGN_CHANGE)
    assert (high.value, high.status) == (1.0, Status.NO_SIGN_CHANGE)


def test_newton_reports_its_limit() -> None:
    assert newton(flat_then_steep, 1e6, -1.0, 3.0, 2.0, 1e-15, 5).status == Status.ITERATION_LIMIT


@pytest.mark.parametrize("function", [parabola, kink])
@pytest.mark.parametrize("centre", [-0.9, 0.0, 0.123, 0.9999])
def test_minimise_smooth_and_kinked(function, centre: float) -> None:
    found = minimise(function, centre, -1.0, 1.0, 0.5, 1e-9)
    assert found.value == pytest.approx(centre, abs=1e-6)
    assert found.iterations < 60


def test_minimise_takes_an_end_and_survives_infinity() -> None:
    assert minimise(parabola, 2.0, 0.0, 1.0, 0.5).value == 1.0
    assert minimise(cliff, 0.4, 0.0, 1.0, 0.8).value == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize("answer", [1e-12, 3e-4, 1.0, 2e9])
@pytest.mark.parametrize("start", [1e-6, 1.0, 1e6])
def test_price_of_a_smooth_demand(answer: float, start: float) -> None:
    found = price(lambda p: 1e300 if p == 0 else answer / p - 1.0, start)
    assert found.value == pytest.approx(answer, rel=1e-9)
    assert found.iterations < 120


def test_price_ends_on_the_feasible_side_of_a_jump() -> None:
    found = price(lambda p: 0.5 if p < 0.7 else -0.25, 1.0)
    assert found.value >= 0.7
    assert found.value == pytest.approx(0.7, rel=1e-9)


def test_price_is_zero_when_the_demand_fits_for_free() -> None:
    assert price(lambda p: -0.1 - p, 1.0).value == 0.0
    assert price(lambda p: -0.1, 0.0) == (0.0, Status.CONVERGED, 1)


def test_price_reports_a_demand_that_never_fits() -> None:
    assert price(lambda p: 1.0, 1.0).status == Status.NO_SIGN_CHANGE


def test_price_stops_within_the_slack() -> None:
    calls = []

    def excess(p: float) -> float:
        calls.append(p)
        return 1.0 / p - 1.0

    found = price(excess, 100.0, slack=1e-3)
    assert -1e-3 <= 1.0 / found.value - 1.0 <= 0.0
    assert len(calls) == found.iterations


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_solve_positive_solves_or_refuses(n):
    rng = np.random.default_rng(n)
    for _ in range(50):
        half, right, out = rng.normal(size=(n, n)), rng.normal(size=n), np.empty(n)
        matrix = half @ half.T + 0.1 * np.eye(n)
        skew = rng.normal(size=(n, n)) * 0.01
        assert solve_positive(matrix + skew - skew.T, right, out)
        np.testing.assert_allclose(matrix @ out, right, rtol=1e-9, atol=1e-9)
        assert not solve_positive(matrix - (np.linalg.eigvalsh(matrix)[0] + 0.01) * np.eye(n), right, out)
