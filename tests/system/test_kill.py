"""kill -9 at random moments of a run and of a sweep, again and again: the end must not show it.

One process imports everything and forks a child for each life, so that a life costs no start-up. A child resumes the
folder; it is killed after a random part of the time that a whole run takes, or ends by itself, and a new folder begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from small_runs import assert_same_run, make_config
from spfl.config.files import to_toml
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import read_results, sweep

ZYGOTE = """
import os, random, signal, sys, time
from pathlib import Path
from spfl.runs import folders
from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

kind, source, out, kills, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
rng, digits = random.Random(seed), load_dataset("digits")
folders.PATIENCE_S = 30.0

def live(folder):
    if kind == "run":
        run_experiment(load_config(source), digits, folder, existing="resume", checkpoint_every=3)
    else:
        sweep(load_points(source), folder, processes=2, resume=True, keep_runs=True)

def life(folder, seconds):
    child = os.fork()
    if child == 0:
        try:
            live(folder)
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL

life(out / "warm", 60.0)
began = time.monotonic()
life(out / "clock", 60.0)
whole, killed, number = time.monotonic() - began, 0, 0
while killed < kills:
    if life(out / str(number), rng.uniform(0.0, 1.1 * whole)):
        number += 1
    else:
        killed += 1
life(out / str(number), 60.0)
print(number + 1, killed)
"""


def kill_loop(kind, source, out, kills, seed):
    """Folders 0, 1, ... below `out`, each finished in spite of kills; returns them."""
    command = [sys.executable, "-c", ZYGOTE, kind, str(source), str(out), str(kills), str(seed)]
    single = os.environ | {"OMP_NUM_THREADS": "1"}  # threads of OpenMP do not survive a fork
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=single)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    folders, killed = map(int, done.stdout.split())
    assert killed == kills
    return [out / str(number) for number in range(folders)]


def killed_runs(digits, tmp_path, kills, seed):
    config = make_config(training__rounds=30, scheme__compensation="last", scheme__error_feedback=True)
    run_experiment(config, digits, tmp_path / "whole")
    (tmp_path / "c.toml").write_text(to_toml(config))
    folders = kill_loop("run", tmp_path / "c.toml", tmp_path / "cut", kills, seed)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    for folder in folders:
        assert_same_run(folder, tmp_path / "whole")
        assert sorted(path.name for path in folder.iterdir()) == names
    return len(folders)


def killed_sweeps(tmp_path, kills, seed):
    source = tmp_path / "s.toml"
    source.write_text(
        '[base]\ndata.devices = 4\nmodel.name = "softmax"\ntraining.rounds = 12\n[[grid]]\nseed = [0, 1, 2, 3]\n'
    )
    points = load_points(source)
    sweep(points, tmp_path / "whole", processes=1, keep_runs=True)
    folders = kill_loop("sweep", source, tmp_path / "cut", kills, seed)
    for folder in folders:
        assert timeless(folder) == timeless(tmp_path / "whole")
        assert len(read_results(folder)) == len(points)  # nothing run twice
        for point in points:
            assert_same_run(folder / "runs" / point.key, tmp_path / "whole" / "runs" / point.key)
    return len(folders)


def timeless(folder):
    """The rows of a sweep by key, without wall-clock."""
    clocks = ("wall_s", "seconds_per_round")
    rows = [{k: v for k, v in row.items() if k not in clocks} for row in read_results(folder)]
    return json.dumps(sorted(rows, key=lambda row: row["key"]), sort_keys=True)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_run_killed_at_random_moments(digits, tmp_path):
    assert killed_runs(digits, tmp_path, kills=4, seed=7) < 15


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_sweep_killed_at_random_moments(tmp_path):
    assert killed_sweeps(tmp_path, kills=2, seed=11) < 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_fifty_kills(digits, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "s").mkdir()
    killed_runs(digits, tmp_path / "r", kills=30, seed=1)
    killed_sweeps(tmp_path / "s", kills=20, seed=2)
