"""`spfl report`: an HTML page of a run, a comparison or a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a run, a comparison or a sweep, finished or not.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page to write; DIR/report.html when left out.")
    ] = None,
) -> None:
    """Write one HTML page with everything: it needs no network and no other file, so it can be sent by mail.

    Example: `spfl report runs/first`
    """
    from spfl.report import write_report

    print(write_report(folder, out))
