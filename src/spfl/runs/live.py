"""`spfl watch`: a live view of runs from their folders alone, so it can start and stop without the runs noticing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from spfl.errors import RunFolderError, printable
from spfl.figures.scores import common, shown, unit
from spfl.files import is_file
from spfl.runs.experiment import SUMMARY, read_config
from spfl.runs.folders import below, in_use
from spfl.runs.jsons import Json
from spfl.runs.metrics import metric_of, read_metrics, score_of
from spfl.runs.past import METRICS
from spfl.terminal import show

if TYPE_CHECKING:
    from rich.table import Table

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 24  # characters of a sparkline
RECENT = 20  # rounds from which the speed is taken
LEAST_NEEDED = ("rounds/s", "moduli", "", "loss", "signs", "left")  # where the terminal is narrow
FEW_COLUMNS, WIDEST = 5, 10**5
SCORE = "score"  # headed by its name where all runs have one
COLUMNS = ("run", "state", "round", SCORE, "", "loss", "signs", "moduli", "rounds/s", "left")


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    name: str
    total: int
    rounds: Sequence[Json]
    state: str  # finished, running, stopped

    @property
    def done(self) -> int:
        return int(self.rounds[-1]["round"]) if self.rounds else 0

    @property
    def metric(self) -> str:
        return metric_of(self.rounds[-1])

    @property
    def scores(self) -> list[float]:
        return [score for values in self.rounds if (score := score_of(values)) is not None]

    @property
    def rounds_per_s(self) -> float | None:
        """Speed of the last rounds; None before the first."""
        recent = [values["seconds"]["total"] for values in self.rounds[-RECENT:]]
        return len(recent) / sum(recent) if sum(recent) > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at the speed of the last rounds, for a run that is under way."""
        speed = self.rounds_per_s
        return (self.total - self.done) / speed if speed and self.state == "running" else None


def read_progress(folder: Path) -> list[Progress]:
    """Every run of a run folder, of a comparison, or of a sweep that keeps its runs; the latest changed last.

    Raises RunFolderError when there is none.
    """
    places = [folder] if is_file(folder / METRICS) else [path.parent for path in folder.glob(f"**/{METRICS}")]
    if not places:
        raise RunFolderError(f"{folder} holds no run that has begun")
    places = [path if path == folder else below(folder, *path.relative_to(folder).parts) for path in places]
    return [_progress(path, folder) for path in sorted(places, key=lambda path: (path / METRICS).lstat().st_mtime)]


def _progress(path: Path, root: Path) -> Progress:
    state = "finished" if is_file(path / SUMMARY) else "running" if in_use(path) else "stopped"
    name = path.name if path == root else str(path.relative_to(root))
    return Progress(name, read_config(path).training.rounds, list(read_metrics(path)), state)


def sparkline(values: Sequence[float], width: int = SPARKS) -> str:
    """Values as blocks from the lowest to the highest, thinned out to `width` of them."""
    step = max(1.0, len(values) / width)
    shown = [values[min(len(values) - 1, int((i + 1) * step) - 1)] for i in range(min(width, len(values)))]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in shown)


def as_table(found: Sequence[Progress], width: int | None = None) -> Table:
    """A row a run. Columns that do not fit into `width` characters are left out, the least needed ones first.

    A long name of a run is folded before that, down to a third of the width.
    """
    left_out: tuple[str, ...] = ()
    short = found if width is None else [replace(p, name=p.name[: min(width // 3, max(4, width - 28))]) for p in found]
    for column in LEAST_NEEDED:
        if width is None or _needs(_table(short, left_out)) <= width:
            break
        left_out = (*left_out, column)
    return _table(found, left_out)


def _needs(table: Table) -> int:
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=WIDEST)
    return Measurement.get(console, console.options, table).minimum


def _table(found: Sequence[Progress], left_out: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in COLUMNS if column not in left_out]
    note = "signs, moduli: packets received a round, mean of the last rounds" if "signs" in shown else None
    table = Table(box=box.SIMPLE_HEAD, caption=note, padding=(0, 1 if len(shown) > FEW_COLUMNS else 0), pad_edge=False)
    metric = common(p.metric for p in found)
    for column in shown:
        left = column in ("run", "state", "")
        heading = f"{metric}{unit(metric)}" if column == SCORE else column
        table.add_column(heading, justify="left" if left else "right", no_wrap=column != "run", overflow="fold")
    for progress in found:
        cells = dict(zip(COLUMNS, _cells(progress, named=progress.metric != metric), strict=True))
        table.add_row(*(Text(cells[column]) for column in shown))  # a name in brackets is no markup
    return table


def _cells(progress: Progress, named: bool) -> list[str]:
    recent, scores = progress.rounds[-RECENT:], progress.scores
    speed, left = progress.rounds_per_s, progress.left_s
    received = [sum(values[key] for values in recent) / len(recent) for key in ("signs_received", "moduli_received")]
    loss = recent[-1]["loss"]
    return [
        printable(progress.name),
        progress.state,
        f"{progress.done}/{progress.total}",
        _latest(progress.metric, scores, named),
        sparkline(scores),
        "-" if loss is None else f"{loss:.3f}",
        *(f"{mean:.1f}" for mean in received),
        f"{speed:.1f}" if speed else "-",
        str(timedelta(seconds=round(left))) if left is not None else "-",
    ]


def _latest(metric: str, scores: Sequence[float], named: bool) -> str:
    """The last score, with its name where the heading does not tell it."""
    last = shown(metric, scores[-1] if scores else None, sign="")
    return f"{metric} {last}" if named and scores else last


def watch(folder: Path, *, every_s: float = 1.0, once: bool = False) -> None:
    """Print the view until no run is under way, or once.

    Waits for a run that has not begun, even for its folder. With `once`, raises RunFolderError when there is nothing to
    see; so does a file in place of a folder.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if once:
        show(console, as_table(_begun(folder), console.width if console.is_terminal else None))
        return
    found = _wait(folder, every_s)
    with Live(as_table(found, console.width), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while in_use(folder) or any(progress.state == "running" for progress in found):
            time.sleep(every_s)
            found = _begun(folder)
            live.update(as_table(found, console.width), refresh=True)


def _begun(folder: Path) -> list[Progress]:
    return [progress for progress in read_progress(folder) if progress.rounds]


def _wait(folder: Path, every_s: float) -> list[Progress]:
    told = False
    while True:
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is not a folder")
        with suppress(RunFolderError):
            if found := _begun(folder):
                return found
        if not told:
            print(f"waiting for a run in {folder}; Ctrl-C ends", file=sys.stderr, flush=True)
            told = True
        time.sleep(every_s)
