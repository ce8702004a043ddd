"""Nothing of a federation outlives its owner, however that one ends; what is left all the same is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from spfl.flower import deployment, keeper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of processes")
SLEEPER = [sys.executable, "-c", "import time; time.sleep(120)"]

OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from spfl.flower.deployment import _start_keeper
home = Path(sys.argv[1])
guard = _start_keeper(home)
sleeper = subprocess.Popen(sys.argv[2:], env=os.environ | {"FLWR_HOME": str(home)}, start_new_session=True)
print(sleeper.pid, guard.pid, flush=True)
time.sleep(120)
"""


def gone(pid, seconds=30.0):
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_what_an_owner_started_ends_with_it_and_its_keys_are_removed(number, tmp_path):
    if number != signal.SIGKILL and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup")
    home = tmp_path / "home"
    home.mkdir()
    (home / "node-0.key").write_text("secret")
    command = [sys.executable, "-c", OWNER, str(home), *SLEEPER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        sleeper, guard = map(int, owner.stdout.readline().split())
        assert [process.pid for process in keeper.carrying(str(home))] == [sleeper]
        os.killpg(owner.pid, number)  # what a terminal sends goes to all of its session
        assert gone(sleeper)
        assert gone(guard)
    assert not home.exists()


def test_the_next_start_names_what_a_killed_owner_has_left(tmp_path):
    home = tmp_path / f"{deployment.PREFIX}x" / "home"
    home.mkdir(parents=True)
    (home / deployment.OWNER).write_text('{"pid": 2147483647, "began": 1.0}')
    with subprocess.Popen(SLEEPER, env=os.environ | {"FLWR_HOME": str(home)}) as sleeper:
        lines = [line for line in deployment.left_behind() if str(home) in line]
        (home / deployment.OWNER).write_text(
            f'{{"pid": {os.getpid()}, "began": {psutil.Process().create_time()}}}'  # alive: a run beside this one
        )
        beside = [line for line in deployment.left_behind() if str(home) in line]
        sleeper.kill()
    assert lines == [
        f"a run of Flower that was killed has left processes {sleeper.pid} in {home}; end them with: kill {sleeper.pid}"
    ]
    assert beside == []
