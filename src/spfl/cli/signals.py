"""How a command ends when it is told to: Ctrl-C and SIGTERM alike leave a folder to go on with, and say so."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: whoever handles Ctrl-C handles this."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises `Terminated` in the main thread; elsewhere it is left as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(*_: object) -> None:
    raise Terminated


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C (exit code 130) or SIGTERM (143)."""
    try:
        yield
    except KeyboardInterrupt as stop:
        word, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        what = f"; go on with --resume --out {folder}" if folder.exists() else " before the first round"
        print(f"{word}{what}", file=sys.stderr)
        raise typer.Exit(code) from None
