"""Who sends, and with how much of the bandwidth and power."""

from __future__ import annotations

import math

import numpy as np
import pytest

import oracles
from four_devices import (
    LAYOUT,
    fades,
    make_devices,
    make_link,
)
from rounds import format_of
from spfl.allocation.bound import Devices
from spfl.config.schema import CodecConfig, SchemeConfig
from spfl.errors import ConfigError
from spfl.scheme import bias_and_noise
from spfl.schemes import SCHEMES, resolve
from spfl.uplink.format import Format
from spfl.uplink.scheduling import schedule, share_resources


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


@pytest.mark.parametrize("weights", ["unbiased", "plain", "mmse"])
def test_the_squared_error_is_the_cost_without_jensen(weights: str) -> None:
    """Of `sp_fl` with `scheme.objective = error`: bandwidth and power of the bound at theta = 0 and kappa = 1."""
    link, rng = make_link(gain=(3.0, 0.5, 2.0, 0.4), bits=600), np.random.default_rng(6)
    v2 = np.array([1.0, 2.0, 0.5, 3.0])
    devices, found = Devices(np.array([0.1, 0.2, 0.3, 0.4]), v2, 0.4 * v2, 0.3 * v2, 0.1 * v2), {}
    for name, settings in {
        "error": SchemeConfig(name="sp_fl_exact", weights=weights, objective="error"),
        "written out": SchemeConfig(name="sp_fl_exact", weights=weights, theta=0.0, kappa=1.0),
        "bound": SchemeConfig(name="sp_fl_exact", weights=weights),
    }.items():
        form = Format(resolve(settings), settings, LAYOUT, CodecConfig(), 0)
        found[name] = share_resources(form, devices, link, fades(rng, 4))
        assert bias_and_noise(form.scheme, settings) == ((1.0, 1.0) if name == "bound" else (0.0, 1.0))
    np.testing.assert_array_equal(found["error"].beta, found["written out"].beta)
    if weights != "unbiased":  # here all moduli arrive with their signs: unbiased weights have no bias to weigh
        assert not np.array_equal(found["error"].beta, found["bound"].beta)


def test_an_objective_is_refused_where_participation_is_the_objective() -> None:
    with pytest.raises(ConfigError, match=r"scheme\.objective must be absent with sp_fl_plus"):
        resolve(SchemeConfig(name="sp_fl_plus", objective="error"))
