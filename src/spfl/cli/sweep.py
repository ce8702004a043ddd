"""`spfl sweep`: a study over grids of configurations."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spfl.cli.completion import complete_key
from spfl.cli.options import DataDir, Out, a_path, check_resume, new_folder
from spfl.cli.signals import resumable
from spfl.errors import ConfigError, printable

if TYPE_CHECKING:
    from spfl.studies.points import Point


def sweep_command(
    sweep_path: Annotated[
        Path, typer.Argument(metavar="SWEEP.toml", help="Tables [base], [rates] and [[grid]].", parser=a_path)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key at every point.", autocompletion=complete_key),
    ] = None,
    data_dir: DataDir = None,
    out: Out = None,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each; 0 = one a core; one on a GPU.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Run only what results.jsonl does not hold yet.")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Find the best training.rate of each scheme.")] = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep every run folder, in DIR/runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run the grids of a sweep file in parallel processes; a row a point, mean and spread over seeds.

    With --tune, on a held-out part of the training data: prints a table [rates] to paste into other sweep files.
    Exit code 1 if a point failed; the others are run all the same.

    Example: `spfl sweep configs/sweep_demo.toml --out runs/study`
    """
    check_resume(resume, out)
    from spfl.runs.folders import write_atomically, writing
    from spfl.runs.jsons import dump_json
    from spfl.studies import tables, tuning
    from spfl.studies.points import load_points
    from spfl.studies.runner import sweep

    points = load_points(sweep_path, overrides or [])
    if tune:
        tuning.check_tunable([point.config for point in points], {key for point in points for key in point.settings})
    folder = out or new_folder(sweep_path.stem)
    with resumable(folder), _progress(points) as progress:
        rows = sweep(
            points,
            folder,
            source=sweep_path,
            data_dir=data_dir,
            processes=workers,
            resume=resume,
            keep_runs=keep_runs,
            progress=progress,
        )
    if tune:
        tuned = tuning.tune(rows)
        rates = tuning.rates_text(tuned)
        with writing(folder):
            write_atomically(folder / tables.RATES, rates.encode())
        print(printable(rates), end="")
    elif as_json:
        print(dump_json({"folder": str(folder), "rows": rows}, indent=2))
    else:
        print(printable(tables.summary_text(rows)))
        print(f"results: {folder / tables.TABLE}\nsummary: {folder / tables.SUMMARY}")
    for line in tables.health_lines(rows):
        typer.echo(f"warning: {line}", err=True)
    _exit_if_failed(rows, folder)
    if tune and (without := [one.scheme for one in tuned if one.best is None]):
        raise ConfigError(f"--tune: no rate of {', '.join(without)} trained; try smaller ones")


def _exit_if_failed(rows: list[dict[str, Any]], folder: Path) -> None:
    failed = [row for row in rows if row["error"]]
    if failed:
        text = f"{len(failed)} of {len(rows)} points failed, see {folder}; the first: {failed[0]['error']}"
        print(f"error: {text}", file=sys.stderr)
        raise typer.Exit(1)


@contextmanager
def _progress(points: list[Point]) -> Iterator[Callable[[Point, dict[str, Any], bool], None]]:
    """Yields what to call with each point that is there: a bar on a terminal, else a line a point, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console, began = Console(stderr=True), time.monotonic()
    left, run, done = sum(point.config.training.rounds for point in points), 0, 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    # No refreshing from a thread: a process forked while that thread holds a lock would wait for it for ever.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(points))

        def advance(point: Point, row: dict[str, Any], new: bool) -> None:
            nonlocal left, run, done
            rounds = point.config.training.rounds
            done, left, run = done + 1, left - rounds, run + (rounds if new else 0)
            eta = str(timedelta(seconds=round((time.monotonic() - began) * left / run))) if run else "-"
            note = f"eta {eta}  {_describe(row)}"
            if console.is_terminal:
                bar.update(task, completed=done, description=note, refresh=True)
            elif new:
                print(f"{done}/{len(points)}  {note}", file=sys.stderr, flush=True)

        yield advance


def _describe(row: dict[str, Any]) -> str:
    from spfl.figures.scores import shown
    from spfl.runs.metrics import metric_in
    from spfl.studies.tables import settings_text

    if row["error"]:
        return f"{settings_text(row)}: {row['error']}"
    metric = metric_in(row)
    return f"{settings_text(row)}: {shown(metric, row[f'{metric}_last'])}"
