"""What a signal does when it meets code that swallows what it raises, and code that is cleaning up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")

BEGIN = """
import ctypes, os, signal, sys, time
from spfl.cli.signals import signals_as_interrupts
def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
"""
SWALLOWED = """
def callback():
    os.kill(os.getpid(), signal.SIGTERM)
    busy(0.1)
try:
    with signals_as_interrupts():
        ctypes.CFUNCTYPE(None)(callback)()
        print("swallowed")
        busy(10.0)
except KeyboardInterrupt as stop:
    print("raised again", stop.args[0])
"""
CLEANING = """
try:
    with signals_as_interrupts():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            busy(10.0)
        finally:
            busy(2.0)
            print("clean")
except KeyboardInterrupt:
    print("ended")
busy(1.5)
print(signal.getsignal(signal.SIGALRM) is signal.SIG_DFL, sys.unraisablehook is sys.__unraisablehook__)
"""


ENDING = """
import atexit, threading
from spfl.cli import ending
def farewell():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM) if len(sys.argv) > 1 else None
    busy(0.1)
    print("farewell", flush=True)
atexit.register(farewell)
ending.run_app(lambda **_: print("done", flush=True))
"""


@pytest.mark.parametrize(("more", "code", "said"), [([], 0, ["done", "farewell"]), (["x"], 130, ["done"])])
def test_a_signal_while_python_ends_changes_nothing_and_the_third_ends_it(more, code, said):
    command = [sys.executable, "-c", BEGIN + ENDING, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, said, "")


TWICE = """
from spfl.cli import ending
def work(**_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        busy(10.0)
    finally:
        for _ in range(int(sys.argv[1]) - 1):
            os.kill(os.getpid(), signal.SIGINT)
        busy(0.1)
        print("finished", flush=True)
ending.run_app(work)
"""


@pytest.mark.parametrize(("times", "said"), [(2, ["finished"]), (3, [])])
def test_the_second_signal_only_says_so_and_the_third_ends_at_once(times, said):
    command = [sys.executable, "-c", BEGIN + TWICE, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (130, said)
    told = ["", "ending, a moment; once more ends at once"]
    last = ["interrupted"] if times == 2 else ["", "ended at once"]
    assert done.stderr.splitlines() == told + last


AFTER = """
from spfl.cli import ending
def work(**_):
    os.kill(os.getpid(), signal.SIGTERM)
    busy(10.0)
try:
    ending.run_app(work)
except SystemExit as stop:
    os.kill(os.getpid(), signal.SIGINT)
    busy(0.1)
    print("heard no more", flush=True)
    raise
"""


def test_a_second_signal_between_the_command_and_the_end_of_python_is_no_traceback():
    done = subprocess.run([sys.executable, "-c", BEGIN + AFTER], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "heard no more\n")
    assert done.stderr == "terminated\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ctrl_c_is_how_one_ends_to_watch_and_sigterm_is_none(number, code, tmp_path):
    command = [sys.executable, "-m", "spfl", "watch", str(tmp_path / "later")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("waiting for a run")
        watching.send_signal(number)
        assert watching.wait(60) == code


TURNED = """
from spfl.cli import commands, ending
from spfl.errors import MachineError
def work(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        busy(10.0)
    except KeyboardInterrupt:
        raise MachineError("an import that was interrupted, in /site-packages/x.py")
commands.check_resume = work
sys.argv = ["spfl", "run"]
commands.main()
"""


def test_an_error_that_an_interrupt_was_turned_into_is_told_as_the_interrupt():
    done = subprocess.run([sys.executable, "-c", BEGIN + TURNED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "terminated\n")


TELLING = """
from spfl.cli import commands, ending
def cut_off(*_):
    os.kill(os.getpid(), getattr(signal, os.environ["CUT"]))
    busy(10.0)
ending._end = cut_off
commands.main()
"""


@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_that_comes_while_an_error_is_told_has_its_word_and_code_too(name, code, word):
    command = [sys.executable, "-c", BEGIN + TELLING, "report", "/dev/null/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"CUT": name})
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{word}\n")


@pytest.mark.parametrize(
    ("script", "expected"),
    [(SWALLOWED, ["swallowed", "raised again 143"]), (CLEANING, ["clean", "ended", "True True"])],
)
def test_an_interrupt_is_raised_again_where_nobody_handles_it_and_only_there(script, expected):
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""  # no "Exception ignored in"
