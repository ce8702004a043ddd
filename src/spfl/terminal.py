"""Tables in the terminal: cells as they are, and no digit cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spfl.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDEST = 10**5  # columns that no table needs


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers stand to the right.

    In a file or a pipe it is as wide as it must be. On a terminal, text wraps; where not even that is enough, lines
    run over the edge of the terminal, and nothing is left out. Cells are never read as markup.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        number = all(is_number(row[i]) for row in rows)
        table.add_column(Text(column), justify="right" if number else "left", no_wrap=number or i == 0)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(markup=False, highlight=False)
    show(console, table)


def show(console: Console, table: Table) -> None:
    """Print a table at the width that it needs: see `print_table`."""
    from rich.measure import Measurement

    needs = Measurement.get(console, console.options.update(width=WIDEST, max_width=WIDEST), table)
    if console.is_terminal:
        console.width = max(console.width, needs.minimum)
        console.print(table)
        return
    console.width = needs.maximum
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()), file=console.file)


def is_number(text: str) -> bool:
    """Whether a cell holds a number, or the dash that stands for none."""
    return text == "-" or text.rstrip("%").strip().lstrip("+-").replace(".", "", 1).isdecimal()
