"""How a command ends when it is told to: after Ctrl-C, SIGTERM and SIGHUP alike a folder can be gone on with."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

PATIENCE = 3  # the signal that is not waited for any more
SWALLOWED_S = 1.0  # after which an interrupt that nobody is handling counts as swallowed
asked: list[KeyboardInterrupt] = []  # what the signal that came raised, wherever it went
SIGNALS = {name: code for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)) if hasattr(signal, name)}


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, whose exit code it carries, arrived: whoever handles Ctrl-C handles this."""


@contextmanager
def signals_as_interrupts(*, ends: bool = False) -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` in the main thread, Ctrl-C KeyboardInterrupt, once.

    The second only says so, so that what is being written is finished; the third ends the process at once, as if it
    were killed: folders are whole then, too. Where SIGHUP is ignored (nohup), it stays so.
    In another thread than the main one, signals are left as they are.

    A signal may meet code that swallows what it raises, such as a callback of the compiler: where nobody is handling
    the interrupt a second later, it is raised again. With `ends` the process is over afterwards, and signals
    change nothing any more (`calm_end`): what came of one would have nobody to tell it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def handle(number: int, _: Any) -> None:
        nonlocal count
        count += 1
        name = signal.Signals(number).name
        if os.getpid() != mine:  # a forked process that has not got to its own rules yet
            os._exit(SIGNALS[name])
        if count == 1:
            interrupt(name)
        _say("ending, a moment; once more ends at once" if count < PATIENCE else "ended at once")
        if count >= PATIENCE:
            os._exit(SIGNALS[name])

    def interrupt(name: str) -> None:
        def again(*_: Any) -> None:
            if not _being_handled():
                interrupt(name)

        if hasattr(signal, "setitimer"):
            before.setdefault("SIGALRM", signal.signal(signal.SIGALRM, again))
            signal.setitimer(signal.ITIMER_REAL, SWALLOWED_S)
        asked[:] = [KeyboardInterrupt() if name == "SIGINT" else Terminated(SIGNALS[name])]
        raise asked[0]

    asked.clear()
    mine, shown = os.getpid(), sys.unraisablehook
    heeded = [name for name in SIGNALS if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN]
    before = {name: signal.signal(getattr(signal, name), handle) for name in heeded}
    sys.unraisablehook = lambda found: None if issubclass(found.exc_type, KeyboardInterrupt) else shown(found)
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = shown
        if ends:
            calm_end()
        for name, handler in before.items():
            if name == "SIGALRM" or not ends:
                signal.signal(getattr(signal, name), handler)


def calm_end() -> None:
    """While Python ends (threads joined, libraries taken down), a signal changes nothing; the third ends it at once.

    Libraries' own farewells would be interrupted with tracebacks.
    """
    count = 0

    def handle(number: int, _: Any) -> None:
        nonlocal count
        count += 1
        if count >= PATIENCE:
            os._exit(SIGNALS[signal.Signals(number).name])

    for name in SIGNALS:
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), handle)


def _being_handled() -> bool:
    """Whether the code that a signal stopped is handling an interrupt, or what came of one."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _say(text: str) -> None:
    """By the system's own call: the streams may be in the middle of a word."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def exit_code(stop: KeyboardInterrupt) -> tuple[str, int]:
    """The word and the exit code of an end by signal."""
    return ("terminated", int(stop.args[0])) if isinstance(stop, Terminated) else ("interrupted", 130)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C (exit code 130), SIGTERM (143) or SIGHUP (129)."""
    try:
        yield
    except KeyboardInterrupt as stop:
        word, code = exit_code(stop)
        what = f"; go on with --resume --out {folder}" if folder.exists() else " before the first round"
        print(f"{word}{what}", file=sys.stderr)
        raise typer.Exit(code) from None
