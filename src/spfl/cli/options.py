"""Options and arguments that several commands share, with what goes along with them."""

from __future__ import annotations

import itertools
import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from spfl.cli.completion import complete_presets
from spfl.errors import ConfigError


class AtLeast(click.FloatRange):
    """A number that is finite, too: NaN is in every range, since it is not below it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


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
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A configuration of the package, in place of CONFIG.toml: demo, cifar10, cell, paper.",
        autocompletion=complete_presets,
    ),
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


def chosen_path(config_path: Path | None, preset: str | None) -> Path | None:
    """The configuration file that is meant. Raises ConfigError for two, and for a preset that there is not."""
    if preset is None:
        return config_path
    if config_path is not None:
        raise ConfigError(f"give {config_path} or --preset {preset}, not both")
    from spfl.presets import preset_path

    return preset_path(preset)


def check_resume(resume: bool, out: Path | None) -> None:
    """Raises ConfigError for --resume without --out."""
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the folder to go on with")


def new_folder(name: str) -> Path:
    """A folder under runs/ for a command without --out: the name, what the clock says, and a number if it is taken."""
    folder = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    others = (folder.with_name(f"{folder.name}-{count}") for count in itertools.count(2))
    return next(path for path in itertools.chain([folder], others) if not path.exists())
