"""`spfl report` and `spfl watch`: a page of what a folder holds, and a live view of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import AtLeast, a_path
from spfl.cli.signals import Terminated


def report_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of a run, a comparison or a sweep, finished or not.", parser=a_path),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page to write; DIR/report.html when left out.", parser=a_path)
    ] = None,
) -> None:
    """Write one HTML page with everything: it needs no network and no other file, so it can be sent by mail.

    Example: `spfl report runs/first`
    """
    from spfl.report.page import write_report

    print(write_report(folder, out))


def watch_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder of a run, a comparison, or a sweep that keeps its runs.", parser=a_path
        ),
    ],
    every_s: Annotated[
        float, typer.Option("--every", metavar="SECONDS", click_type=AtLeast(0.1), help="Between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
) -> None:
    """Watch runs in the terminal: the score, packets received, speed, time left. Ends when none is under way.

    It waits for a run that has not begun. On a narrow terminal it leaves columns out.

    It reads the folders only, so it can be started and stopped (Ctrl-C) at any time, from anywhere.

    Example: `spfl watch runs/first`
    """
    from spfl.runs.live import watch

    try:
        watch(folder, every_s=every_s, once=once)
    except KeyboardInterrupt as stop:
        if once or isinstance(stop, Terminated):
            raise
        raise typer.Exit(0) from None  # Ctrl-C is how one ends to watch
