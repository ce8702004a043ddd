"""The error of the mean over the received about the mean of the given gradients, simulated (model.md, section 9)."""

from __future__ import annotations

import numpy as np
import pytest


def first_order(gradients: np.ndarray, weight: np.ndarray, q: np.ndarray, noise: np.ndarray) -> float:
    """model.md, section 9: squared bias and variance of the ratio, to first order."""
    h = gradients - weight @ gradients
    bias = np.square((weight * q) @ h).sum()
    variance = (weight**2 * q * ((1 - q) * np.square(h).sum(1) + noise)).sum()
    return float((bias + variance) / (weight @ q) ** 2)


def heuristic(gradients: np.ndarray, weight: np.ndarray, q: np.ndarray, noise: np.ndarray) -> float:
    """What `sp_fl_plus_1` takes in its place."""
    return float((weight**2 * q * (np.square(gradients).sum(1) + noise)).sum() / (weight @ q) ** 2)


@pytest.mark.parametrize(("devices", "least", "within"), [(5, 0.9, 1.0), (20, 0.7, 0.15), (100, 0.7, 0.1)])
def test_the_error_is_the_displayed_one_and_the_heuristic_is_not(devices: int, least: float, within: float) -> None:
    rng, dim = np.random.default_rng(devices), 6
    gradients = rng.standard_normal((devices, dim)) + rng.standard_normal(dim)
    weight, q = rng.dirichlet(np.full(devices, 3.0)), rng.uniform(least, 1.0, devices)
    noise = rng.uniform(0.0, 1.0, devices)
    draws = 20_000
    received = rng.random((draws, devices)) < q
    received[~received.any(1), 0] = True
    sigma = np.sqrt(noise / dim)
    errors = np.zeros(draws)
    for i in range(draws):
        on = received[i]
        x = gradients[on] + sigma[on, None] * rng.standard_normal((int(on.sum()), dim))
        mean = weight[on] @ x / weight[on].sum()
        errors[i] = np.square(mean - weight @ gradients).sum()
    expected = first_order(gradients, weight, q, noise)
    assert errors.mean() == pytest.approx(expected, rel=within)
    assert heuristic(gradients, weight, q, noise) > 1.5 * errors.mean()


def test_exact_packets_that_all_arrive_leave_no_error() -> None:
    rng = np.random.default_rng(0)
    gradients, weight = rng.standard_normal((7, 3)), rng.dirichlet(np.ones(7))
    assert first_order(gradients, weight, np.ones(7), np.zeros(7)) == pytest.approx(0.0, abs=1e-12)
    assert heuristic(gradients, weight, np.ones(7), np.zeros(7)) > 0.1
