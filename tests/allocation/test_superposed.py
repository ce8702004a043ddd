"""Allocation of superposed packets: at the optimum, certified, and never worse than the single packet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective, Weights, device_cost
from spfl.allocation.problem import Limits
from spfl.errors import AllocationError
from spfl.radio.outage import Link, success


def cell(seed: int, devices: int = 2, snr_db: float = 6.0) -> tuple[Devices, Link]:
    g = np.random.default_rng(seed)
    gain = 10 ** (g.normal(snr_db, 4, devices) / 10)
    v2 = g.lognormal(0, 0.5, devices)
    one = np.ones(devices)
    link = Link(float(devices), 1.0, one, gain, one, 0.5 * one, 1.5 * one, multiplex="superposed")
    return Devices(g.dirichlet(3 * one), v2, 0.7 * v2, 0.6 * v2, 0.1 * v2), link


@pytest.mark.parametrize("weights", ["unbiased", "plain"])
def test_two_devices_against_all_allocations_of_a_grid(weights: Weights) -> None:
    """No allocation of a fine grid is below the bound, or better than the solver's by more than a thousandth."""
    objective, limits = Objective(weights=weights), Limits(allow_drop=False) if weights == "unbiased" else Limits()
    alpha = np.concatenate([np.linspace(0.02, 0.98, 97), [0.99, 0.995, 0.999, 1.0]])
    for seed in range(4):
        devices, link = cell(seed)
        best = np.inf
        for share in np.linspace(0.01, 0.99, 99):
            beta = np.array([share, 1 - share])
            odds = success(link, beta, alpha[:, None])
            best = min(best, float(device_cost(devices, odds.q_s, odds.r_m, objective).min(0).sum()))
        exact, alternating = (allocate(devices, link, objective, limits, solver=s) for s in ("exact", "alternating"))
        assert exact.lower_bound <= min(best, exact.objective) * (1 + 1e-9)
        assert exact.objective <= best * (1 + 1e-3)
        assert exact.objective >= best * (1 - 2e-2)
        assert exact.objective <= alternating.objective * (1 + 1e-3)
        assert (np.diff(alternating.history) <= 1e-12 * alternating.history[0]).all()


def test_the_figures_are_those_of_the_powers_sent() -> None:
    devices, link = cell(1, 8)
    for solver in ("exact", "alternating", "uniform"):
        result = allocate(devices, link, solver=solver)
        odds, scheduled = success(link, result.beta, result.alpha), result.beta > 0
        np.testing.assert_allclose(result.q_s[scheduled], odds.q_s[scheduled], rtol=1e-9)
        assert ((result.alpha >= 0) & (result.alpha <= 1)).all()
        assert result.beta.sum() <= 1 + 1e-12


def test_without_a_power_split_it_is_the_single_packet() -> None:
    """At a gap of 1: equal shares, and the best shares, of superposed packets that are equally strong."""
    devices, link = cell(2, 6)
    single = replace(
        link, multiplex="orthogonal", sign_bits=link.sign_bits + link.modulus_bits, modulus_bits=0.0, rho=np.ones(6)
    )
    for solver in ("uniform", "exact"):
        tied = allocate(devices, link, limits=Limits(fixed_alpha=True), solver=solver)
        one = allocate(devices, single, limits=Limits(fixed_alpha=True), solver=solver)
        assert tied.objective == pytest.approx(one.objective, rel=1e-6)
        np.testing.assert_allclose(tied.r_m[tied.beta > 0], 1.0, rtol=1e-9)


def test_one_band_serves_signs_better_than_a_part_of_it() -> None:
    """Scarce bandwidth: superposed signs need a far lower SNR, so more devices are received at a lower cost."""
    devices, link = cell(3, 10, snr_db=0.0)
    apart = replace(link, multiplex="orthogonal")
    assert allocate(devices, link).q_s.sum() > allocate(devices, apart).q_s.sum()
    assert allocate(devices, link).objective < allocate(devices, apart).objective


def test_what_has_no_meaning_in_one_band_is_refused() -> None:
    devices, link = cell(0)
    for limits in (Limits(optimise_rho=True), Limits(max_power=0.9)):
        with pytest.raises(AllocationError, match="superposed packets share their bandwidth"):
            allocate(devices, link, limits=limits)
