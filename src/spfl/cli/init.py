"""`spfl init`: a folder to begin in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import a_path


def init_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or one to add the files to.", parser=a_path)
    ],
) -> None:
    """Write the configurations and examples of the documentation into a folder: a place to begin.

    Example: `spfl init study`
    """
    from spfl.presets import write_project

    for path in write_project(folder):
        print(path)
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    typer.echo(f"to begin: {there}spfl run configs/demo.toml; parts of your own: examples/plugin.py", err=True)
