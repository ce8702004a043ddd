"""`spfl verify`: run a folder's configuration again and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import DataDir, a_path
from spfl.errors import printable


def verify_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder, finished or not.", parser=a_path)],
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(help="Threads for gradients; 0 = all cores. Never changes results.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(min=0, metavar="REL", help="Relative tolerance, for another machine; 0 asks for equal bits."),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Run a folder's configuration again, and compare all that its files hold; writes nothing.

    Exit code 1 at the first difference, which is told with its round and field.

    Example: `spfl verify runs/first/sp_fl-0`
    """
    from spfl.cli.progress import progress_bars
    from spfl.data.sources import load_dataset
    from spfl.runs.experiment import read_config
    from spfl.runs.jsons import dump_json
    from spfl.runs.verification import verify

    config = read_config(folder)
    with progress_bars() as bar:
        verdict = verify(
            folder,
            load_dataset(config.data, data_dir),
            workers=workers,
            tolerance=tolerance,
            progress=bar(f"{folder}", config.training.rounds),
        )
    if as_json:
        print(dump_json(vars(verdict) | {"folder": str(folder), "same": verdict.difference is None}, indent=2))
    elif verdict.difference:
        print(printable(f"{folder} differs: {verdict.difference}"))
    else:
        how = "the same bits" if tolerance == 0 else f"equal within {tolerance:g}"
        print(f"{folder}: {verdict.rounds} rounds, {how}" + ("" if verdict.finished else "; the run is not finished"))
    if verdict.difference:
        raise typer.Exit(1)
