"""The error of the mean over the received, and the common weight at which the cost of devices is that error."""

from typing import Any

import numpy as np
import pytest

from spfl.allocation.bound import Devices, Objective, common_weight, device_cost


def test_common_weight_minimises_the_cost_of_all_devices() -> None:
    rng = np.random.default_rng(5)
    v2 = rng.uniform(1, 3, 7)
    devices = Devices(rng.dirichlet(np.ones(7)), v2, 1.5 * v2, 0.9 * v2, 0.1 * v2)
    q_s, r_m = rng.random(7), rng.random(7)
    best = common_weight(devices, q_s, r_m)

    def total(c: float) -> float:
        return float(device_cost(devices, q_s, r_m, Objective(theta=0.0, kappa=1.0, weights="plain", c=c)).sum())

    grid = np.linspace(0.5, 1.5, 401) * best
    assert grid[np.argmin([total(c) for c in grid])] == pytest.approx(best, rel=0.003)
    assert common_weight(devices, np.zeros(7), r_m) == 1.0


def test_first_order_error_of_the_normalised_mean() -> None:
    """The objective ranks allocations as the true squared error of the mean over the received does (Monte Carlo)."""
    rng = np.random.default_rng(7)
    devices, dim = 60, 40
    signal = rng.standard_normal(dim)
    noise = rng.uniform(1.0, 4.0, devices)
    weight = np.full(devices, 1 / devices)

    def true_error(q: Any, r: Any) -> float:
        errors = []
        for _ in range(2000):
            g = signal / 10 + np.sqrt(noise)[:, None] * rng.standard_normal((devices, dim))
            received = rng.random(devices) < q
            exact = rng.random(devices) < r
            sign_error = np.sqrt(0.57 * noise)[:, None] * rng.standard_normal((devices, dim))
            x = g + np.where(exact[:, None], 0, sign_error)
            a = weight * received
            errors.append(np.sum((a @ x / a.sum() - weight @ g) ** 2))
        return float(np.mean(errors))

    def objective(q: Any, r: Any) -> float:
        v2 = dim * noise
        five = Devices(weight, v2, 1.57 * v2, v2, 0 * v2)
        c = common_weight(five, q, r)
        return float(device_cost(five, q, r, Objective(theta=0.0, kappa=1.0, weights="plain", c=c)).sum())

    full = np.ones(devices)
    options = [(0.2 * full, full), (0.3 * full, 0.5 * full), (0.5 * full, 0 * full), (0.8 * full, 0.5 * full)]
    true, ours = [true_error(*o) for o in options], [objective(*o) for o in options]
    assert np.argsort(true).tolist() == np.argsort(ours).tolist()
