"""`spfl verify` and `spfl archive`: run what a folder holds again and compare; make a folder for an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spfl.cli.options import AtLeast, DataDir, OwnCode, a_path
from spfl.errors import printable

if TYPE_CHECKING:
    from spfl.runs.verification import Verdict
    from spfl.studies.archive import Sample, StudyVerdict


def verify_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A run folder, finished or not; a sweep's, or an archive of one.", parser=a_path
        ),
    ],
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(help="Threads for gradients; 0 = all cores. Never changes results.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(
            click_type=AtLeast(0), metavar="REL", help="Relative tolerance, for another machine; 0 asks for equal bits."
        ),
    ] = 0.0,
    points: Annotated[
        int, typer.Option(min=0, metavar="K", help="Of a sweep: points to run again, chosen at random.")
    ] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Chooses the same points again.")] = None,
    own_code: OwnCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Run a folder's configuration again, and compare all that its files hold; writes nothing.

    Of a sweep or an archive, compare all checksums and run some points again.

    Exit code 1 at the first difference, which is told with its round and field.

    Example: `spfl verify runs/first/sp_fl-0`
    """
    from spfl.cli.progress import progress_bars
    from spfl.data.sources import load_dataset
    from spfl.files import is_file
    from spfl.runs.experiment import check_own_code, read_config
    from spfl.runs.verification import verify
    from spfl.studies.archive import Sample as Chosen

    if is_file(folder / "plan.toml"):
        _verify_study(folder, Chosen(points, seed), tolerance, data_dir, own_code, as_json)
        return
    config = read_config(folder)
    if not own_code:
        check_own_code(folder, config)
    with progress_bars() as bar:
        verdict = verify(
            folder,
            load_dataset(config.data, data_dir),
            workers=workers,
            tolerance=tolerance,
            progress=bar(f"{folder}", config.training.rounds),
        )
    open_end = "" if verdict.finished else "; the run is not finished"
    _tell(folder, verdict, f"{verdict.rounds} rounds, {_how(tolerance)}{open_end}", as_json)


def _verify_study(
    folder: Path, sample: Sample, tolerance: float, data_dir: Path | None, own_code: bool, as_json: bool
) -> None:
    from spfl.studies.archive import verify_study

    verdict = verify_study(
        folder,
        sample,
        tolerance=tolerance,
        data_dir=data_dir,
        own_code=own_code,
        progress=lambda point: typer.echo(f"again: {printable(point)}", err=True),
    )
    files = f"{verdict.files} files as they were, " if verdict.files else "no checksums, "
    again = f"{len(verdict.points)} of its points again, {_how(tolerance)}" if verdict.points else "no point run again"
    _tell(folder, verdict, f"{files}{again}", as_json)


def _how(tolerance: float) -> str:
    return "the same bits" if tolerance == 0 else f"equal within {tolerance:g}"


def _tell(folder: Path, verdict: Verdict | StudyVerdict, same: str, as_json: bool) -> None:
    """Print a verdict, `same` when there is no difference; exit code 1 when there is one."""
    from spfl.runs.jsons import dump_json

    if as_json:
        print(dump_json(vars(verdict) | {"folder": str(folder), "same": verdict.difference is None}, indent=2))
    elif verdict.difference:
        print(printable(f"{folder} differs: {verdict.difference}"))
    else:
        print(f"{folder}: {same}")
    if verdict.difference:
        raise typer.Exit(1)


def archive_command(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP_DIR", help="Folder of a finished sweep.", parser=a_path)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder, or FILE.zip; SWEEP_DIR-archive if left out.", parser=a_path),
    ] = None,
) -> None:
    """Make a folder of a sweep that can go to an archive as it is: plan, configurations, results, versions, checksums.

    `spfl verify` accepts it and runs some of its points again.

    Example: `spfl archive runs/study --out study.zip`
    """
    from spfl.studies.archive import archive

    print(archive(folder, out))
