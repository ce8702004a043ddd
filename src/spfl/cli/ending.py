"""The one place where every fault of every command becomes one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
import typer
from typer.core import TyperGroup

from spfl.cli.signals import exit_code, signals_as_interrupts
from spfl.cli.streams import steady_streams
from spfl.errors import SpflError, plain_errors, printable

DEBUG = "SPFL_DEBUG"


class Commands(TyperGroup):
    """A group of commands whose faults are told: 2 for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM."""

    def invoke(self, ctx: click.Context) -> Any:
        with told():
            return super().invoke(ctx)


@contextmanager
def told() -> Iterator[None]:
    """Say what went wrong, in one line, and end with its exit code."""
    try:
        with plain_errors():
            yield
    except KeyboardInterrupt as stop:
        word, code = exit_code(stop)
        _end(word, code)
    except SpflError as error:
        _end(f"error: {error}", 2)
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        _end(f"error: {text} (not foreseen: a fault of spfl; {DEBUG}=1 shows where)", 1)


def _end(line: str, code: int) -> None:
    print(printable(line), file=sys.stderr)
    raise typer.Exit(code) from None


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning in one line, wherever it comes from."""
    with suppress(OSError, UnicodeError):
        print(printable(f"warning: {message}"), file=sys.stderr)


def run_app(app: typer.Typer) -> None:
    """Run the command line that this process was given, and exit."""
    warnings.showwarning = show_warning
    with signals_as_interrupts(), _words_come_last():
        app(prog_name="spfl")  # however it was started


@contextmanager
def _words_come_last() -> Iterator[None]:
    """Steady streams around a command: what they could not print changes its exit code only when all else went well."""
    ended: SystemExit | None = None
    try:
        with steady_streams():
            try:
                yield
            except SystemExit as stop:
                ended = stop
    except SpflError as error:
        with suppress(OSError, ValueError):
            print(printable(f"error: {error}"), file=sys.stderr)
        ended = ended if ended is not None and ended.code else SystemExit(2)
    if ended is not None:
        raise ended
