"""Worker processes: the bits of one process, and a clear end when one of them is lost."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import spfl
from spfl import training
from spfl.config.schema import Config
from spfl.custom import Custom
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, WorkerError
from spfl.fleet import workers as processes
from spfl.fleet.processes import ProcessFleet
from spfl.fleet.threads import ThreadFleet
from spfl.runs.experiment import run_experiment
from spfl.runs.jsons import dump_json
from spfl.runs.metrics import metrics
from spfl.tasks import _TASKS
from spfl.world.world import World

Build = Callable[..., Config]
CASES: list[dict[str, Any]] = [
    {"scheme": {"name": "sp_fl"}},
    {"scheme": {"name": "sp_fl_plus_1"}, "training": {"local_steps": 2}},
    {"scheme": {"name": "top_k"}},  # error feedback: what a device keeps goes back and forth
    {"scheme": {"name": "single_packet"}, "channel": {"downlink": "stale", "downlink_power_dbm": -20.0}},
    {"scheme": {"name": "sp_fl_normalized"}, "data": {"devices": 9, "cohort_size": 3}},
]


def rounds(config: Config, digits: Dataset) -> tuple[list[bytes], Any]:
    records = list(training.run(config, digits))
    return [dump_json(metrics(record)).partition(', "seconds"')[0].encode() for record in records], records[-1].server


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["scheme"]["name"])
def test_the_bits_do_not_depend_on_the_number_of_processes(case: Any, digits: Dataset, small_config: Build) -> None:
    config = small_config(workers=2, **case)
    lines, server = rounds(config, digits)
    for count in (2, 4):  # four: more processes than threads, and than devices of the smallest cohort
        again, after = rounds(config.model_copy(update={"processes": count}), digits)
        assert again == lines
        np.testing.assert_array_equal(after.weights, server.weights)
        assert after.memory.keys() == server.memory.keys()
        for key, value in server.memory.items():
            np.testing.assert_array_equal(after.memory[key], value)


@pytest.mark.slow
def test_where_processes_cannot_be_forked(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, _ = rounds(small_config(), digits)
    monkeypatch.setattr(processes, "METHOD", "spawn")
    assert rounds(small_config().model_copy(update={"processes": 2}), digits)[0] == lines


def test_a_lambda_where_processes_cannot_be_forked_is_one_line(
    digits: Dataset, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "METHOD", "spawn")
    world = World.build(
        small_config().model_copy(update={"processes": 2}), digits, Custom(loss=lambda a, b: F.cross_entropy(a, b))
    )
    with pytest.raises(ConfigError, match=r"processes must be 0 with a part of your own .* not as a lambda"):
        training.open_fleet(world)


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression", "next_token"])
def test_every_task_reaches_a_process_that_is_spawned(task: str, digits: Dataset) -> None:
    found = _TASKS[task](digits)  # type: ignore[index]
    again = pickle.loads(pickle.dumps(found))
    outputs, labels = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    whole = labels if task in ("classification", "next_token") else F.one_hot(labels, 3).float()
    assert again.totals(outputs, whole) == found.totals(outputs, whole)


def test_a_process_that_is_killed_ends_the_run_and_the_others(digits: Dataset, small_config: Build) -> None:
    world = World.build(small_config().model_copy(update={"processes": 2}), digits)
    server = world.start()
    with training.open_fleet(world) as fleet:
        assert isinstance(fleet, ProcessFleet)
        fleet.uploads(server, range(6), 1)
        alive = [member._process for member in fleet._members]
        os.kill(alive[0].pid or 0, signal.SIGKILL)
        alive[0].join()
        fleet.uploads(server, range(6), 2)  # between two rounds: replaced
        fleet._members[1].give = lambda request: os.kill(alive[1].pid or 0, signal.SIGKILL)  # type: ignore[method-assign]
        with pytest.raises(WorkerError, match="a worker process was lost: the process ended with exit code -9"):
            fleet.uploads(server, range(6), 3)
    assert not any(member._process.is_alive() for member in fleet._members)


AFTER_THREADS = """
import torch
torch.set_num_threads(4)
large = torch.ones(4_000_000)
(large + 1).sum(), large.reshape(2000, 2000) @ large.reshape(2000, 2000)
from spfl.fleet import workers
def work(item):
    ones = torch.ones(4_000_000)
    return float((ones + item).sum()), float((ones.reshape(2000, 2000)[:8] @ ones.reshape(2000, 2000)).sum())
if __name__ == "__main__":
    print(*(answer for _, answer in workers.map_processes(work, [1, 1], 2)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked there")
def test_a_process_does_not_wait_for_threads_of_pytorch_that_the_fork_has_left_behind() -> None:
    command = [sys.executable, "-c", AFTER_THREADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["(8000000.0,", "32000000.0)"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell of its threads there")
def test_no_thread_outlives_a_fleet_in_which_a_fork_could_meet_it(digits: Dataset, small_config: Build) -> None:
    """A thread that Python has joined may still hold a lock of MKL's: a process forked then waited for it for ever."""
    world = World.build(small_config(workers=4), digits)
    for _ in range(20):
        with ThreadFleet(world) as fleet:
            fleet.uploads(world.start(), range(6), 1)
        assert fleet._native_ids
        assert not any(os.path.exists(f"/proc/self/task/{number}") for number in fleet._native_ids)


def test_our_own_error_in_a_process_is_the_one_that_is_raised(digits: Dataset) -> None:
    config = {"data": {"devices": 4}, "training": {"rounds": 2}}
    with pytest.raises(ConfigError, match="module must be a network") as alone:
        spfl.compare(config, ["sp_fl"], module=len, dataset=digits)
    with pytest.raises(ConfigError) as several:
        spfl.compare(config, ["sp_fl"], module=len, dataset=digits, workers=2)
    assert str(several.value) == str(alone.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'modul'"):
        spfl.compare(config, ["sp_fl"], modul=len, workers=2)


def test_a_fault_in_a_process_is_told_with_its_traceback(digits: Dataset, small_config: Build) -> None:
    world = World.build(small_config().model_copy(update={"processes": 2}), digits)
    with ProcessFleet(world) as fleet, pytest.raises(WorkerError, match="was lost: IndexError") as raised:
        fleet.uploads(world.start(), [0, 99], 1)
    assert "Traceback" in "".join(raised.value.__notes__)


def test_a_run_goes_on_with_another_number_of_processes(digits: Dataset, small_config: Build, tmp_path: Any) -> None:
    config = small_config(training={"rounds": 4})
    whole = run_experiment(config, digits, tmp_path / "whole")

    def stop(values: Any) -> None:
        if values["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, digits, tmp_path / "parts", checkpoint_every=1, progress=stop)
    more = config.model_copy(update={"processes": 3})
    assert run_experiment(more, digits, tmp_path / "parts", existing="resume")["digest"] == whole["digest"]
