"""What a report is made of: sections of panels of figures, tables and listings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass
class PageTable:
    """Text cells; columns of numbers are set to the right. `bar` is a column of percentages drawn as bars as well."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bar: int | None = None


@dataclass
class Panel:
    """Figures and a table that belong together; several panels of a section are tabs."""

    name: str = ""
    figures: list[go.Figure] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    listings: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class PageSection:
    """A heading, a sentence that says how to read it, and its panels."""

    title: str
    note: str
    panels: list[Panel]
    findings: Sequence[str] = ()  # what is wrong, a line each


RESULTS_NOTE = (
    "The score: mean over the evaluations of the last quarter of the rounds, then over n seeds; ± is the standard "
    "deviation over seeds. Sign arrives: mean probability that a sign packet (or the single packet) gets through. "
    "Payload: packets sent, received or not."
)
