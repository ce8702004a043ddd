"""A run that ended without an error, and in which something is wrong, says so and what to change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import spfl
from spfl.cli import commands as cli
from spfl.runs.health import RULES, Course, findings, grouped


def rounds(count=40, **columns):
    """Rounds of a run that is well, with some values replaced: lists, one value a round."""
    loss = [2.3 * 0.95**t for t in range(count)]
    well = {"loss": loss, "test_accuracy": [0.5] * count, "signs_received": [8] * count, "side_bits": [64] * count,
            "status": ["optimal"] * count}  # fmt: skip
    told = well | columns
    return [
        {"round": t + 1, **{k: v[t] for k, v in told.items() if k != "status"}, "solver": {"status": told["status"][t]}}
        for t in range(count)
    ]


def table(received):
    """Columns of the allocation table for (round, device) truth values: everybody is scheduled in each round."""
    count, devices = received.shape
    return np.tile(np.arange(devices), count), received.ravel()


def test_a_run_that_is_well_has_no_finding():
    device, received = table(np.ones((40, 5), np.bool_))
    assert findings(Course(rounds(), 10, device, received)) == {}
    assert findings(Course([], 10)) == {}


@pytest.mark.parametrize(
    ("rule", "columns", "words"),
    [
        ("silence", {"signs_received": [0] * 5 + [8] * 35}, "nobody was received in 5 of 40 rounds: raise"),
        ("overload", {"status": ["overloaded"] * 30 + ["optimal"] * 10}, "not serve all scheduled devices in 30 of 40"),
        ("lost loss", {"loss": [2.0] * 39 + [None]}, "not finite in 1 of 40 rounds, first in round 40: lower"),
        ("lost loss", {"loss": [2.0] * 38 + [float("nan")] * 2}, "not finite in 2 of 40 rounds, first in round 39"),
        ("lost loss", {"loss": [2.0] * 2 + [None] * 38, "signs_received": [8] * 2 + [0] * 38}, "in round 3: lower"),
        ("grown loss", {"loss": [2.3 * 1.01**t for t in range(40)]}, "the training loss grew from 2.33 to 3.34: lower"),
        ("chance", {"test_accuracy": [0.5] * 20 + [0.1] * 20}, "accuracy 10.0% is that of chance among 10 classes"),
    ],
)  # fmt: skip
def test_each_rule_has_one_line_with_what_to_change(rule, columns, words):
    found = findings(Course(rounds(**columns), 10))
    assert found.keys() == {rule}
    assert words in found[rule]
    assert "\n" not in found[rule]


@pytest.mark.parametrize(
    "columns",
    [
        {"signs_received": [0] * 4 + [8] * 36},
        {"status": ["overloaded"] * 4 + ["optimal"] * 36},
        {"loss": [2.3] * 40},
        {"loss": [2.3] * 38 + [None] * 2, "side_bits": [64] * 38 + [0] * 2},
        {"test_accuracy": [None] * 39 + [0.13]},
    ],
)
def test_what_is_within_bounds_is_not_told(columns):
    assert findings(Course(rounds(**columns), 10)) == {}


def test_a_device_that_is_never_received_is_named():
    got = np.ones((40, 12), np.bool_)
    got[:, [3, 7]] = False
    told = findings(Course(rounds(), 10, *table(got)))["unreceived"]
    assert told.startswith("2 of 12 devices were never received (device 3, 7), so nothing was learned from their data")
    got[:, :] = False
    assert "(device 0, 1, 2, 3, 4, 5, 6, 7, ...)" in findings(Course(rounds(), 10, *table(got)))["unreceived"]
    assert "unreceived" not in findings(Course(rounds(), 10, *table(got[:9])))  # too seldom scheduled to say


def test_short_runs_are_not_judged_by_loss_or_accuracy():
    worse = rounds(10, loss=[2.3 * 1.1**t for t in range(10)], test_accuracy=[0.1] * 10)
    assert findings(Course(worse, 10)) == {}


def test_lines_of_many_runs_are_one_a_rule():
    found = {"a": {"silence": "nobody"}, "b": {}, "c": {"silence": "nobody", "chance": "coin"}}
    assert grouped(found) == ["a: nobody (and 1 more of 3 runs: silence)", "c: coin"]
    assert grouped({"a": {}}) == []


def test_every_rule_is_tried_here():
    text = Path(__file__).read_text()
    assert [name for name in RULES if f'"{name}"' not in text] == []


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spfl", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        return capsys.readouterr()

    return run


STARVED = ["--set", "data.devices=4", "--set", "model.name=softmax", "--set", "channel.median_snr_db=-40"]
SHORT = [*STARVED, "--set", "training.rounds=3"]


def test_run_compare_sweep_and_report_say_the_same(call):
    line = "nobody was received in 3 of 3 rounds"
    assert f"warning: {line}" in call("run", *SHORT, "--out", "r").err
    assert line in spfl.Run.load("r").health["silence"]
    assert line in json.loads(call("run", *SHORT, "--out", "j", "--json").out)["health"]["silence"]
    assert "health" not in json.loads(Path("r/summary.json").read_text())  # it is told anew by every version
    told = call("compare", *SHORT, "--schemes", "error_free,sp_fl", "--out", "c").err
    assert f"warning: sp_fl, seed 0: {line}" in told
    call("report", "c")
    assert f"sp_fl, seed 0: {line}" in Path("c/report.html").read_text()
    Path("s.toml").write_text('[[grid]]\nseed = [0, 1]\n"scheme.name" = "sp_fl"\n')
    for keep in ([], ["--keep-runs"]):
        told = call("sweep", "s.toml", *SHORT, "--workers", "1", "--out", f"s{len(keep)}", *keep).err
        assert f"warning: sp_fl, seed = 0: {line}" in told
        assert "(and 1 more of 2 runs: silence)" in told
