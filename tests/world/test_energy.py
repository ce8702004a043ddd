"""Joules and seconds: against arithmetic by hand, for every kind of uplink, and through to the files and figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from spfl.runs.experiment import run_experiment
from spfl.schemes import resolve
from spfl.studies.figures import make_figures
from spfl.studies.points import load_points
from spfl.studies.runner import sweep
from spfl.training import run
from spfl.units import dbm_to_watt
from spfl.world.energy import clocks_hz
from spfl.world.world import World

DEVICE = {"cycles_per_sample": 2e4, "cpu_hz": 2e9, "cpu_spread": 4.0, "amplifier_efficiency": 0.5}
POWER_W = dbm_to_watt(10.0)


def first(small_config, digits, name, **sections):
    config = small_config(scheme={"name": name}, **sections)
    return World.build(config, digits), next(run(config, digits))


@pytest.mark.parametrize("name", ["single_packet", "sp_fl_uniform", "sign_mean", "top_k", "retransmit"])
def test_every_packet_scheme_sends_with_its_whole_power_all_the_time(name, small_config, digits):
    """Power times time is what equal resources mean: no scheme may look cheap by an error of the account."""
    channel = {"side_information": "reliable"}  # else one device has no chance
    world, record = first(small_config, digits, name, channel=channel)
    assert record.spent.joules == pytest.approx(np.full(6, POWER_W * world.radio.tau_s), rel=1e-12)
    assert record.spent.round_s == pytest.approx(world.radio.tau_s)


def test_a_modulus_packet_that_is_not_sent_saves_its_power(small_config, digits):
    world, record = first(small_config, digits, "sp_fl_uniform")
    alpha = np.array([0.1, 0.4, 1.0, 0.5, 0.5, 0.5])
    rho = np.array([0.3, 0.3, 0.3, 1.0, 0.3, 0.3])
    beta = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.0])
    allocation = replace(record.allocation, alpha=alpha, rho=rho, beta=beta)
    fade = world.radio.fades(world.cohort(1), 1)[0]
    spent = world.spent(record.cohort, world.radio.link(record.cohort, 1), allocation, record.outcome, fade)
    assert spent.joules == pytest.approx(POWER_W * world.radio.tau_s * np.array([1, 1, 1, 0.5, 1, 0]), rel=1e-12)
    assert (spent.uplink_s > 0).tolist() == [True] * 5 + [False]


def test_an_analogue_uplink_inverts_the_channel_within_its_power(small_config, digits):
    world, record = first(small_config, digits, "over_the_air")
    link, fade = world.radio.link(record.cohort, 1), world.radio.fades(world.cohort(1), 1)[0]
    power_w = record.spent.joules / world.radio.tau_s
    sent = record.outcome.sign
    assert sent.sum() > 0
    received = (power_w * link.gain * fade)[sent]
    assert received == pytest.approx(np.full(sent.sum(), received[0]))
    assert (power_w <= POWER_W * (1 + 1e-12)).all()
    assert (power_w[~sent] == 0).all()


def test_computing_by_cycles(small_config, digits):
    """C D / f seconds, kappa C D f^2 joules; a batch larger than a device's data counts the data."""
    world, record = first(small_config, digits, "single_packet", device=DEVICE, training={"batch_size": 300})
    samples = np.array([min(300, len(part)) for part in world.parts])
    assert samples.min() < 300
    clock = clocks_hz(world.config.device, 6, 0)
    assert record.spent.compute_s == pytest.approx(2e4 * samples / clock)
    joules = 1e-28 * 2e4 * samples * clock**2 + POWER_W * world.radio.tau_s / 0.5
    assert record.spent.joules == pytest.approx(joules)
    assert record.spent.round_s == pytest.approx((2e4 * samples / clock).max() + world.radio.tau_s)


def test_clocks_are_log_uniform_between_their_bounds(small_config):
    device = small_config(device=DEVICE).device
    clocks = clocks_hz(device, 20_000, 3)
    assert 0.5e9 <= clocks.min() < 0.51e9
    assert 1.98e9 < clocks.max() <= 2e9
    assert np.median(clocks) == pytest.approx(1e9, rel=0.03)


def test_the_account_changes_nothing_that_is_learned(small_config, digits):
    free, paid = (list(run(small_config(device=d), digits))[-1] for d in ({}, DEVICE))
    assert free.server.weights.tobytes() == paid.server.weights.tobytes()
    assert free.spent.joules.sum() < paid.spent.joules.sum()


def test_the_account_reaches_the_files(small_config, digits, tmp_path):
    config = small_config(device=DEVICE)
    summary = run_experiment(config, digits, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "run/allocation.parquet").to_pydict()
    assert sum(line["joules"] for line in lines) == pytest.approx(summary["joules"])
    assert sum(table["joules"]) == pytest.approx(summary["joules"])
    assert sum(line["round_s"] for line in lines) == pytest.approx(summary["round_s"])
    assert max(table["latency_s"]) <= lines[0]["round_s"] * (1 + 1e-12)


def test_a_study_draws_accuracy_against_joules_and_seconds(tmp_path):
    (tmp_path / "study.toml").write_text(
        "[base]\n'training.rounds' = 3\n'training.eval_every' = 1\n'model.name' = 'softmax'\n"
        "'device.cycles_per_sample' = 1e5\n[[grid]]\nseed = [0, 1]\n'scheme.name' = ['single_packet', 'sign_mean']\n"
    )
    rows = sweep(load_points(tmp_path / "study.toml"), tmp_path / "out", processes=1)
    for row in rows:
        assert row["curve_joules"] == pytest.approx(row["joules_per_round"] * np.arange(1, 4))
        assert row["curve_seconds"] == pytest.approx(row["round_s_per_round"] * np.arange(1, 4))
    names = {path.name for path in make_figures(tmp_path / "out", tmp_path / "figures")}
    assert {"accuracy_vs_joules.png", "accuracy_vs_seconds.png"} <= names


def test_ideal_is_charged_like_a_packet(small_config, digits):
    world, record = first(small_config, digits, "error_free")
    assert resolve(world.config.scheme).uplink == "ideal"
    assert record.spent.joules == pytest.approx(np.full(6, POWER_W * world.radio.tau_s))
