"""Options and arguments that several commands share, with what goes along with them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from spfl.errors import ConfigError


def a_path(text: str | Path) -> Path:
    """A path of the command line. Raises ConfigError for an empty one, which would be the working directory."""
    if not str(text).strip():
        raise ConfigError("a path must not be empty; write . for the folder you are in")
    return Path(text)


ConfigPath = Annotated[
    Path | None, typer.Argument(metavar="CONFIG.toml", help="Defaults when left out.", parser=a_path)
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of datasets (DIR/cifar10/*.parquet); else SPFL_DATA_DIR.", parser=a_path),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Output folder; a new one under runs/ when left out.", parser=a_path),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")]


OwnCode = Annotated[
    bool,
    typer.Option("--own-code", help="Run the Python code that the folder's configuration names (docs/own-parts.md)."),
]


def check_resume(resume: bool, out: Path | None) -> None:
    """Raises ConfigError for --resume without --out."""
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the folder to go on with")


def new_folder(name: str) -> Path:
    """A folder under runs/ for a command without --out: the name, and what the clock says."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
