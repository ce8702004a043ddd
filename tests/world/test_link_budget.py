"""The link budget against the formulas of the model by hand, and against what arrives in runs."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from spfl.cli import commands as cli
from spfl.training import train
from spfl.world.link_budget import link_budget
from spfl.world.world import World


@pytest.fixture(name="world")
def _world(digits, small_config):
    return World.build(small_config(data={"devices": 9, "cohort_size": 6}), digits)


def test_the_budget_is_that_of_the_model_by_hand(world):
    budget, channel = link_budget(world), world.config.channel
    gain = world.radio.cell(1).gain
    power, noise = 10 ** ((channel.power_dbm - 30) / 10), 10 ** ((channel.noise_dbm_per_hz - 30) / 10)
    snr = power * gain / (noise * channel.bandwidth_hz / 6)
    np.testing.assert_allclose(budget.snr_db, 10 * np.log10(snr))
    rate = budget.single_bits / (budget.share_hz * budget.tau_s)
    np.testing.assert_allclose(budget.single, np.exp(-(2**rate - 1) / snr), rtol=1e-9)
    assert budget.share_hz == pytest.approx(channel.bandwidth_hz / 6)
    assert budget.tau_s == pytest.approx(channel.symbols_per_parameter * 6 * budget.parameters / channel.bandwidth_hz)
    assert np.median(budget.snr_db) == pytest.approx(6.0, abs=1.5)
    np.testing.assert_allclose(budget.joules, power * budget.tau_s)


def test_packets_arrive_in_runs_as_often_as_the_budget_says(digits, small_config):
    changes = {"training": {"rounds": 400, "eval_every": 400, "batch_size": 1}, "scheme": {"name": "single_packet"}}
    world = World.build(small_config(**changes), digits)
    budget = link_budget(world)
    counted = np.mean([record.outcome.sign for record in train(world)], axis=0)
    error = np.sqrt(np.maximum(budget.single * (1 - budget.single), 1e-4) / 400)
    assert (np.abs(counted - budget.single) <= 5 * error).all()
    assert not (np.abs(counted - budget.modulus[::-1]) <= 5 * error).all()


def test_the_command_prints_a_table_or_json_and_draws(tmp_path, capsys, monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["spfl", "link", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        return capsys.readouterr().out

    text = call("--set", "data.devices=3", "--set", "model.name=softmax", "--out", str(tmp_path / "link.png"))
    assert "on average arrive" in text
    assert (tmp_path / "link.png").stat().st_size > 1000
    told = json.loads(call("--set", "data.devices=3", "--set", "model.name=softmax", "--json"))
    assert [row["snr_db"] for row in told["devices"]] == sorted((r["snr_db"] for r in told["devices"]), reverse=True)
    assert math.isclose(told["mean_single"], np.mean([row["single"] for row in told["devices"]]))
