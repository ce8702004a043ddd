"""Baselines of others, each held to what its paper says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rounds import format_of
from spfl import training
from spfl.allocation.bound import Devices
from spfl.allocation.equal_outage import equal_outage
from spfl.packets.layout import Layout
from spfl.radio.outage import Link, success
from spfl.schemes import SCHEMES
from spfl.uplink.scheduling import schedule
from spfl.world.world import World

LAYOUT = Layout(("w",), ((64,),))


def make_link(gain: Any) -> Link:
    size = len(gain)
    return Link(
        1e6, 1e-6, np.ones(size), np.asarray(gain, float), np.full(size, 1e-3), np.full(size, 300.0), np.zeros(size)
    )


def make_devices(size: int) -> Devices:
    return Devices(*(np.ones(size) for _ in range(5))).normalized()


def test_equal_outage_is_equal_and_uses_all_of_the_bandwidth() -> None:
    link = make_link([3.0, 1.0, 0.2, 0.05])
    beta, alpha = equal_outage(make_devices(4), link)
    q = success(link, beta, alpha).q_s
    assert beta.sum() == pytest.approx(1.0, abs=1e-6)
    assert q.max() - q.min() < 1e-4
    assert (np.diff(beta) > 0).all()  # a far device needs more


def test_equal_outage_leaves_out_who_cannot_send() -> None:
    beta, _ = equal_outage(make_devices(3), make_link([1.0, 0.0, 1.0]))
    assert beta[1] == 0
    assert beta[0] == pytest.approx(0.5, abs=1e-6)


def test_the_fair_schedule_ranks_by_the_gain_over_its_mean(small_config: Any, digits: Any) -> None:
    scheme, config = SCHEMES["schedule_fair"], format_of(SCHEMES["schedule_fair"], LAYOUT, scheduled=1).settings
    chosen = schedule(scheme, config, make_devices(3), np.array([0.5, 2.0, 1.0]), np.ones(3, np.bool_))
    assert chosen.tolist() == [False, True, False]
    runs = list(training.train(World.build(small_config(scheme={"name": "schedule_fair", "scheduled": 2}), digits)))
    assert all((r.allocation.beta > 0).sum() == 2 for r in runs)


def test_an_analogue_mean_without_noise_is_the_mean_of_who_takes_part(small_config: Any, digits: Any) -> None:
    channel = {"median_snr_db": 60.0, "symbols_per_parameter": 50.0, "shadowing_db": 0.0}
    training_ = {"rounds": 4, "eval_every": 4, "batch_size": 16}
    worlds = {
        name: World.build(small_config(scheme={"name": name}, channel=channel, training=training_), digits)
        for name in ("analog_mean", "error_free")
    }
    ends = {name: list(training.train(world)) for name, world in worlds.items()}
    assert all(r.outcome.sign.all() for r in ends["analog_mean"])
    a, b = (ends[name][-1].server.weights for name in ("analog_mean", "error_free"))
    np.testing.assert_allclose(a, b, atol=3e-3 * np.abs(b).max())
    noisy = small_config(scheme={"name": "analog_mean"}, channel=channel | {"median_snr_db": 0.0}, training=training_)
    *_, last = training.train(World.build(noisy, digits))
    assert not np.allclose(last.server.weights, b, atol=3e-3 * np.abs(b).max())


def test_gomore_leaves_the_model_where_a_device_was_lost(small_config: Any, digits: Any) -> None:
    """Weights are not divided by what was received, so a lost device keeps its share of the old model."""
    assert SCHEMES["gomore"] == replace(
        SCHEMES["single_packet"], name="gomore", weights="plain", source=SCHEMES["gomore"].source,
        summary=SCHEMES["gomore"].summary,
    )  # fmt: skip
