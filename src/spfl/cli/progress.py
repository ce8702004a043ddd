"""Progress on stderr, for the commands that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[dict[str, Any]], None]]]:
    """Yields a function that adds a bar (title, rounds) on stderr and returns what to call after each round."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from spfl.figures.scores import shown
    from spfl.runs.metrics import metric_of, score_of

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[note]}")
    with Progress(
        *[TextColumn(c, markup=False) if isinstance(c, str) else c for c in columns], console=Console(stderr=True)
    ) as bars:

        def add(title: str, rounds: int) -> Callable[[dict[str, Any]], None]:
            task = bars.add_task(title, total=rounds, note="")

            def advance(values: dict[str, Any]) -> None:
                bars.update(task, completed=values["round"])
                if (score := score_of(values)) is not None:
                    metric = metric_of(values)
                    bars.update(task, note=f"test {metric} {shown(metric, score)}")

            return advance

        yield add
