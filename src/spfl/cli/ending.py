"""The one place where every fault of every command becomes one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import typer
from typer.core import TyperGroup

from spfl.cli.completion import complete_after_equals
from spfl.cli.signals import asked, exit_code, signals_as_interrupts
from spfl.cli.streams import steady_streams
from spfl.errors import SpflError, plain_errors, printable

DEBUG = "SPFL_DEBUG"
ORDER = (
    "init", "info", "config", "link", "run", "compare", "watch", "plot", "report", "sweep", "figures", "export",
    "verify", "archive", "allocate", "radio", "flower",
)  # fmt: skip


class Commands(TyperGroup):
    """A group of commands whose faults are told: 2 for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM."""

    def main(self, *args: Any, **options: Any) -> Any:
        complete_after_equals()
        try:
            return super().main(*args, **options)
        except SystemExit as stop:  # typer makes a silent 130 of every interrupt that came outside of `told`
            unsaid = getattr(stop.__context__, "__cause__", None)
            if isinstance(unsaid, KeyboardInterrupt):
                raise unsaid from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return sorted(super().list_commands(ctx), key=lambda name: (*ORDER, name).index(name))

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
        _end(*exit_code(stop))
    except SpflError as error:
        if asked:  # what came of the interrupt is no error of the user's
            _end(*exit_code(asked[0]))
        _end(f"error: {error}", 2)
    except click.NoSuchOption as error:
        meant = meant_option(error.option_name)
        if meant is None:
            _end(_usage(error), 2)
        _end(f"error: there is no {error.option_name}{meant}", 2)
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            raise
        _end(_usage(error), 2)
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except SystemExit as stop:  # of a plugin, a network or a dataset: our commands end by `typer.Exit`
        _end(f"error: code of your own ended the program with exit code {stop.code}", 2)
    except Exception as error:
        if asked:  # an interrupted import fails in many ways
            _end(*exit_code(asked[0]))
        if os.environ.get(DEBUG):
            traceback.print_exc()
        if (damaged := _damaged_folder(sys.argv[1:])) is not None:
            _end(f"error: {damaged}", 2)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        _end(f"error: {text} (not foreseen: a fault of spfl; {DEBUG}=1 shows where)", 1)
    except BaseException as error:  # such as the cancellation of a task: nothing of ours raises one
        _end(f"error: code of your own ended the program by {type(error).__name__}", 2)


def _damaged_folder(words: Iterable[str]) -> str | None:
    """What is wrong with a folder that the command line names, where its own digests tell so: then no fault of ours."""
    from spfl.runs.damage import damage

    places = (Path(word.rpartition("=")[2]) for word in words)
    with suppress(Exception):  # a look at what went wrong is not to go wrong itself
        return next((found for place in places if place.is_dir() and (found := damage(place))), None)
    return None


def _usage(error: click.UsageError) -> str:
    where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    if "Did you mean" in error.message:  # typer says so, and click from 8.4 on would say it again
        vars(error)["possibilities"] = None
    return f"error: {' '.join(error.format_message().split()).rstrip('.')}{where}"


def meant_option(name: str) -> str | None:
    """For an option that there is not, but that names a key of the configuration: how the key is set."""
    if name == "--seed":
        return "; name one or several by --seeds, such as --seeds 4 or 0-4"
    if name == "--seeds":
        return "; one run has one --seed, and spfl compare takes several --seeds"
    from spfl.config.files import keys_that_end

    keys = keys_that_end(name.lstrip("-").replace("-", "_"))
    return f"; write {' or '.join(f'--set {key}=...' for key in keys)}" if keys else None


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
    with signals_as_interrupts(ends=True), _words_come_last():
        try:
            app(prog_name="spfl")  # however it was started
        except KeyboardInterrupt as stop:  # one that came before a command began, or while it ended
            word, code = exit_code(stop)
            print(word, file=sys.stderr)
            raise SystemExit(code) from None


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
