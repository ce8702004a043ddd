"""kill -9 at every file event, and again while it starts over: the end must not show it, and no folder is lost.

A file event is what Python's audit hooks tell of a path below the folder: an open, a rename, a removal, a folder made.
One process imports everything and forks a child for each life. A child is killed at its n-th event; then another one
at an event that moves on, which begins over or goes on; the last ends by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from small_runs import assert_same_run, make_config
from spfl.config.files import to_toml
from spfl.runs.comparison import compare
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import read_results, sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

ZYGOTE = """
import json, logging, os, shutil, signal, sys, warnings
from pathlib import Path
from spfl.runs import folders
from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.report.page import write_report
from spfl.runs.comparison import compare
from spfl.runs.experiment import run_experiment
from spfl.runs.verification import verify
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

kind, source, template, out, step, lives = *sys.argv[1:2], *map(Path, sys.argv[2:5]), *map(int, sys.argv[5:7])
digits, folders.PATIENCE_S = load_dataset("digits"), 30.0
os.fsync = lambda file: None  # a kill loses nothing that a power cut would, and this is half of the time
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

def live(folder):
    if kind == "run":
        run_experiment(load_config(source), digits, folder, existing="resume", checkpoint_every=2)
    elif kind == "overwrite":
        run_experiment(load_config(source), digits, folder, existing="overwrite", checkpoint_every=2)
    elif kind == "compare":
        compare(load_config(source), ["sp_fl"], [0, 1], digits, folder, existing="resume", checkpoint_every=2)
    elif kind == "sweep":
        sweep(load_points(source), folder, processes=1, resume=True, keep_runs=True)
    elif kind == "flower":
        from spfl.flower.engines import run_flower
        from spfl.flower.settings import FlowerConfig, Settings
        server = FlowerConfig(wait_s=0, out=str(folder), resume=folder.exists(), checkpoint_every=2)
        run_flower(Settings(**load_config(source).model_dump(), flower=server), "inprocess", 2)
    elif kind == "verify":
        assert verify(folder, digits).difference is None
    else:
        write_report(folder)

def life(folder, kill_at):
    count, told = 0, os.path.join(str(folder.parent), "count")
    child = os.fork()
    if child == 0:
        def hook(event, arguments):
            nonlocal count
            if event in EVENTS and (event != "open" or str(folder) in str(arguments[0]) or ".tmp" in str(arguments[0])):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        try:
            live(folder)
        except BaseException as error:
            print(kill_at, type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        with open(told, "w") as file:
            file.write(str(count))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(1)
    return code == 0

def fresh(number):
    folder = out / str(number) / "folder"
    folder.parent.mkdir(parents=True)
    if template.name != "none":
        shutil.copytree(template, folder)
    return folder

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)  # what Flower tells of each round
live(fresh("warm"))  # here, not in a child: what is compiled and loaded once, every child then has
life(fresh("count"), 0)
events = int((out / "count" / "count").read_text())
kills = number = 0
for first in range(1, events + 1, step):
    folder, ended = fresh(number), False
    number += 1
    for again in range(lives):
        kill_at = first if again == 0 else 1 + (first * (7 * again + 3)) % events
        ended = life(folder, kill_at)
        kills += not ended
    life(folder, 0)
print(json.dumps({"events": events, "folders": number, "kills": kills}))
"""
SWEEP = '[base]\ndata.devices = 4\nmodel.name = "softmax"\ntraining.rounds = 4\n[[grid]]\nseed = [0, 1]\n'


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """What each kind of command leaves when nobody kills it, and its source."""
    folder = tmp_path_factory.mktemp("whole")
    config = make_config(training__rounds=6, workers=1)
    (folder / "c.toml").write_text(to_toml(config))
    short = make_config(training__rounds=2, workers=1)
    (folder / "short.toml").write_text(to_toml(short))
    (folder / "other.toml").write_text(to_toml(make_config(training__rounds=5, seed=3, workers=1)))
    run_experiment(config, digits, folder / "run")
    run_experiment(make_config(training__rounds=5, seed=3, workers=1), digits, folder / "overwrite")
    compare(short, ["sp_fl"], [0, 1], digits, folder / "compare")
    (folder / "s.toml").write_text(SWEEP)
    sweep(load_points(folder / "s.toml"), folder / "sweep", processes=1, keep_runs=True)
    return folder


SOURCES = {"sweep": "s.toml", "overwrite": "other.toml", "compare": "short.toml"}
TEMPLATES = {"overwrite": "run", "verify": "run", "report": "run"}
LIVES = {"run": 8, "overwrite": 8, "compare": 3, "sweep": 8, "verify": 8, "report": 8, "flower": 3}


def killed(kind, made, tmp_path, step, lives):
    """Kill and go on; returns the counts and the folders."""
    source, template = made / SOURCES.get(kind, "c.toml"), made / TEMPLATES.get(kind, "none")
    command = [sys.executable, "-c", ZYGOTE, kind, *map(str, (source, template, tmp_path / "cut", step, lives))]
    single = os.environ | {"OMP_NUM_THREADS": "1"}  # threads of OpenMP do not survive a fork
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False, env=single)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    counts = json.loads(done.stdout)
    return counts, [tmp_path / "cut" / str(number) / "folder" for number in range(counts["folders"])]


def check(kind, folder, made):
    if kind in ("run", "overwrite"):
        runs = [(folder, made / kind)]
    elif kind == "flower":  # the bytes of a run without Flower
        runs = [(folder, made / "run")]
    elif kind == "compare":
        runs = [(folder / name, made / kind / name) for name in ("sp_fl-0", "sp_fl-1")]
        assert (folder / "table.json").exists()
    elif kind == "sweep":
        points = load_points(made / "s.toml")
        runs = [(folder / "runs" / p.key, made / kind / "runs" / p.key) for p in points]
        assert [row["status"] for row in read_results(folder)].count("done") == len(points)
    else:
        runs = [(folder, made / "run")]
    for run, whole in runs:
        assert_same_run(run, whole)
        left = {path.name for path in run.iterdir()} - {path.name for path in whole.iterdir()}
        assert left <= {"report.html"}


@pytest.mark.parametrize(("kind", "step"), [("run", 14), ("overwrite", 14), ("report", 7), ("flower", 80)])
def test_killed_at_some_events_and_again(kind, step, made, tmp_path):
    counts, folders = killed(kind, made, tmp_path, step, lives=2)
    assert counts["kills"] > counts["folders"]
    for folder in folders:
        check(kind, folder, made)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIVES)
def test_killed_at_every_event_and_again(kind, made, tmp_path, capsys):
    counts, folders = killed(kind, made, tmp_path, step=1, lives=LIVES[kind])
    for folder in folders:
        check(kind, folder, made)
    with capsys.disabled():
        print(f"\n{kind}: {counts['kills']} kills at {counts['events']} file events, 0 of {len(folders)} folders lost")
