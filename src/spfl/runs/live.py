"""`spfl watch`: a live view of runs from their folders alone, so it can start and stop without the runs noticing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from spfl.errors import RunFolderError, printable
from spfl.files import is_file
from spfl.runs.experiment import SUMMARY, read_config
from spfl.runs.folders import below, in_use
from spfl.runs.jsons import Json
from spfl.runs.metrics import read_metrics
from spfl.runs.past import METRICS
from spfl.terminal import show

if TYPE_CHECKING:
    from rich.table import Table

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 24  # characters of a sparkline
RECENT = 20  # rounds from which the speed is taken
COLUMNS = ("run", "state", "round", "accuracy %", "", "loss", "signs", "moduli", "rounds/s", "left")


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
    def accuracy(self) -> list[float]:
        return [values["test_accuracy"] for values in self.rounds if values["test_accuracy"] is not None]

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


def as_table(found: Sequence[Progress]) -> Table:
    """A row a run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, caption="signs, moduli: packets received a round, mean of the last rounds")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("run", "state", "") else "right", no_wrap=True)
    for progress in found:
        table.add_row(*map(Text, _cells(progress)))  # a name in brackets is no markup
    return table


def _cells(progress: Progress) -> list[str]:
    recent, accuracy = progress.rounds[-RECENT:], progress.accuracy
    speed, left = progress.rounds_per_s, progress.left_s
    received = [sum(values[key] for values in recent) / len(recent) for key in ("signs_received", "moduli_received")]
    loss = recent[-1]["loss"]
    return [
        printable(progress.name),
        progress.state,
        f"{progress.done}/{progress.total}",
        f"{100 * accuracy[-1]:.1f}" if accuracy else "-",
        sparkline(accuracy),
        "-" if loss is None else f"{loss:.3f}",
        *(f"{mean:.1f}" for mean in received),
        f"{speed:.1f}" if speed else "-",
        str(timedelta(seconds=round(left))) if left is not None else "-",
    ]


def watch(folder: Path, *, every_s: float = 1.0, once: bool = False) -> None:
    """Print the view until no run is under way, or once. Raises RunFolderError when there is nothing to see."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    found = [progress for progress in read_progress(folder) if progress.rounds]
    if once:
        show(console, as_table(found))
        return
    with Live(as_table(found), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while any(progress.state == "running" for progress in found):
            time.sleep(every_s)
            found = [progress for progress in read_progress(folder) if progress.rounds]
            live.update(as_table(found), refresh=True)
