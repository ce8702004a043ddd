"""Trackers get every round, offline; a missing or failing one costs a line and never a run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import types
from contextlib import contextmanager

import pytest

from spfl.config.schema import build_config
from spfl.errors import ConfigError
from spfl.runs import trackers
from spfl.runs.trackers import check_trackers, tracking

SMALL = ["--set=data.devices=6", "--set=model.name=softmax", "--set=training.rounds=3", "--set=training.eval_every=2"]


def run_with(tracker, folder, **environment):
    """In a process of its own, since the trackers' own imports warn."""
    command = [sys.executable, "-m", "spfl", "run", *SMALL, "--out", folder, "--tracker", tracker]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rounds = run_with("tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (r["round"], pytest.approx(r["loss"])) for r in rounds
    ]
    assert [e.step for e in events.Scalars("test_accuracy")] == [2, 3]
    assert "seconds/gradients" in events.Tags()["scalars"]


def test_mlflow(tmp_path):
    pytest.importorskip("mlflow")
    database = tmp_path / "m.db"
    rounds = run_with("mlflow", tmp_path / "run", MLFLOW_TRACKING_URI=f"sqlite:///{database}")
    with sqlite3.connect(database) as found:
        losses = found.execute("select step, value from metrics where key = 'loss' order by step").fetchall()
        parameters = dict(found.execute("select key, value from params").fetchall())
        (status,) = found.execute("select status from runs").fetchone()
    found.close()
    assert losses == [(r["round"], pytest.approx(r["loss"])) for r in rounds]
    assert parameters["model.name"] == "softmax"
    assert status == "FINISHED"


def test_wandb_is_called_as_documented(monkeypatch, tmp_path):
    """A stand-in for the package, which is not installed here: init, log with a step, finish."""
    told = []

    class Run:
        def log(self, numbers, step):
            told.append((step, numbers))

        def finish(self):
            told.append("finished")

    def init(**about):
        told.append(about)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    config = build_config({"seed": 3})
    with tracking(["wandb"], config, tmp_path) as track:
        track({"round": 1, "loss": 0.5, "test_accuracy": None, "seconds": {"total": 2}})
    assert told[0]["project"] == "spfl"
    assert told[0]["config"]["seed"] == 3
    assert told[1:] == [(1, {"round": 1.0, "loss": 0.5, "seconds.total": 2.0}), "finished"]


def test_unknown_and_missing_trackers(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord' \(did you mean 'tensorboard'\?\)"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package mlflow: pip install 'spfl\[mlflow\]'"):
        check_trackers(["mlflow"])


def test_a_failing_tracker_is_left_alone(monkeypatch, tmp_path):
    calls = []

    @contextmanager
    def broken(config, folder):
        def log(round_, numbers):
            calls.append(round_)
            raise ConnectionError("gone")

        yield log

    monkeypatch.setitem(trackers.TRACKERS, "wandb", broken)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    with tracking(["wandb"], build_config({}), tmp_path) as track:
        with pytest.warns(UserWarning, match="tracker wandb failed and is left alone from now on: gone"):
            track({"round": 1})
        track({"round": 2})
    assert calls == [1]
