"""A whole local deployment by its command, killed, hung up or ended: nothing listens, runs or keeps a key afterwards.

SuperLink, SuperNodes and the server app are real, on loopback; tests/flower/test_keeper.py tries the keeper by itself.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of processes"),
]
PATIENCE_S = 400.0
MARK = "SPFL_TEST_TRIAL"  # every process of a trial carries it, the keeper too
SETTINGS = ["data.devices=4", "training.rounds=500", "training.eval_every=500", "workers=1", "model.name=softmax"]


@dataclass
class Trial:
    """A command at a terminal of its own, and what it has started."""

    folder: Path
    owner: subprocess.Popen
    terminal: int
    mark: str
    shown: bytes = b""

    def until(self, condition, seconds=PATIENCE_S):
        """Wait for it, and read what the terminal shows: a full one would hold the command."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            self.read()
            assert time.monotonic() < end, self.shown[-2000:].decode(errors="replace")
            time.sleep(0.1)
        return found

    def read(self):
        with contextlib.suppress(OSError):  # closed, or nothing there
            while part := os.read(self.terminal, 4096):
                self.shown += part

    def ended(self):
        self.until(lambda: self.owner.poll() is not None)
        return self.owner.returncode

    def processes(self):
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process):
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        return False

    def ports(self):
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
                found |= {connection.laddr.port for connection in listening}
        return found

    def named(self, word):
        return [p for p in self.processes() if word in " ".join(p.cmdline())]

    def secrets(self):
        return [path for path in (self.folder / "tmp").rglob("*") if path.name in ("server.key", "node-0", "node-1")]

    def rounds(self):
        metrics = self.folder / "out" / "metrics.jsonl"
        return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def started(folder, rounds=500):
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    master, slave = pty.openpty()
    mark = uuid.uuid4().hex
    settings = [*SETTINGS, f"training.rounds={rounds}"]
    words = ["--engine", "deploy", "--nodes", "2", "--out", str(folder / "out")]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *words, *(part for each in settings for part in ("--set", each))],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {MARK: mark, "TMPDIR": str(folder / "tmp")},
        start_new_session=True,
    )
    os.close(slave)
    os.set_blocking(master, False)
    return Trial(folder, owner, master, mark)


OWN_TERMINAL = """
import fcntl, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from spfl.cli.commands import main
sys.argv = ["spfl", "flower", "run", *sys.argv[1:]]
main()
"""


@pytest.fixture
def trial(tmp_path):
    found = started(tmp_path)
    yield found
    for process in found.processes():
        process.kill()
    found.owner.wait()
    with contextlib.suppress(OSError):
        os.close(found.terminal)


def nobody_listens(ports):
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port


MOMENTS = {
    "while it starts": lambda trial: trial.named("flower-superlink"),
    "while nodes start": lambda trial: trial.named("flower-supernode"),
    "in its rounds": lambda trial: trial.rounds() >= 1,
}
WAYS = {"kill -9": -signal.SIGKILL, "a closed terminal": 129, "SIGTERM": 143}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_of_a_deployment_outlives_its_command(trial, moment, way):
    trial.until(lambda: MOMENTS[moment](trial))
    before, ports = trial.processes(), trial.ports()
    assert len(before) > (6 if moment == "in its rounds" else 2)
    if way == "a closed terminal":
        os.close(trial.terminal)
    else:
        os.kill(trial.owner.pid, -WAYS[way] if WAYS[way] < 0 else signal.SIGTERM)
    assert trial.ended() == WAYS[way]
    trial.until(lambda: not trial.processes())
    assert not [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    nobody_listens(ports)
    assert trial.secrets() == []


def test_the_next_command_names_what_is_left_when_the_keeper_was_killed_too(trial, tmp_path):
    trial.until(lambda: trial.rounds() >= 1)
    (guard,) = trial.named("keeper.py")
    guard.kill()
    os.kill(trial.owner.pid, signal.SIGKILL)
    trial.owner.wait()
    left = [process.pid for process in trial.processes() if "keeper.py" not in " ".join(process.cmdline())]
    assert left
    again = started(tmp_path / "again", rounds=1)  # another place for temporary files: as another user's
    assert again.ended() == 0
    said = " ".join(again.shown.decode(errors="replace").split())
    assert "a run of Flower that was killed has left processes" in said
    lasting = [
        process.pid for process in trial.processes() if process.pid in left
    ]  # a client app ends with its message
    assert len(lasting) >= 6
    assert [pid for pid in lasting if str(pid) not in said] == []
    nobody_listens(again.ports())
    assert again.processes() == []
