"""Ends a federation whose owner is gone: `python keeper.py HOME` waits for the end of its standard input.

The owner holds the other end of that pipe, so it closes however the owner ends, `kill -9` and a lost terminal included.
Then every process that carries FLWR_HOME=HOME is killed, and the folder with its keys is removed. This file stands
alone, so that it starts in no time; it carries no FLWR_HOME itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

import psutil

LOOKS, LOOK_S = 10, 0.5  # what was being started while the owner died appears a little later


def carrying(home: str) -> list[psutil.Process]:
    """The processes that carry this FLWR_HOME, but for the one that asks."""
    return [process for process in psutil.process_iter() if home_of(process) == home]


def home_of(process: psutil.Process) -> str:
    """The FLWR_HOME of a process; empty without one, and for one of another user, or one that is gone."""
    try:
        return str(process.environ().get("FLWR_HOME", "")) if process.pid != os.getpid() else ""
    except (psutil.Error, OSError):
        return ""


def kill(processes: list[psutil.Process], seconds: float) -> None:
    """SIGKILL to all, and wait for their end."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=seconds)


def keep(home: str) -> None:
    """Wait for the owner's end, then leave nothing of the federation."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.stdin.buffer.read()
    for _ in range(LOOKS):
        kill(carrying(home), LOOK_S)
        time.sleep(LOOK_S)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    keep(sys.argv[1])
