"""What draws a series in pgfplots: its colour, dash and marker, those of the other figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spfl.figures.looks import Look
from spfl.figures.style import FigureStyle

DASHES = {"solid": "solid", "dashed": "dashed", "dashdot": "dashdotted", "dotted": "dotted", "long": "loosely dashed"}
MARKS = {"circle": "*", "square": "square*", "diamond": "diamond*", "pentagon": "pentagon*"}
MARKS |= dict.fromkeys(("triangle", "left", "down", "right"), "triangle*")
TURNED = {"left": 90, "down": 180, "right": 270, "cross": 45}  # degrees
OWN = {"plus": "spfl plus", "cross": "spfl plus", "star": "spfl star"}  # pgfplots has strokes for these, no areas
PLUS = [(1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3), (-1, -3), (-1, -1), (-3, -1), (-3, 1), (-1, 1), (-1, 3)]


class Pen(NamedTuple):
    """A series: the name of its colour in the file, its look, and its text in the legend."""

    colour: str
    look: Look
    text: str

    def mark(self, *, size_pt: float = 1.5, hollow: bool = False) -> str:
        """The options of its marker; a hollow one is white within."""
        turned, fill = TURNED.get(self.look.marker, 0), ", fill=white, line width=0.5pt" if hollow else ""
        name = OWN.get(self.look.marker) or MARKS[self.look.marker]
        return f"mark={name}, mark options={{solid, rotate={turned}{fill}}}, mark size={size_pt:g}pt"

    @property
    def options(self) -> str:
        return f"{self.colour}, {DASHES[self.look.dash]}, {self.mark()}"


def pens(labels: Iterable[str], style: FigureStyle) -> dict[str, Pen]:
    """A pen for each series, in the order asked for."""
    arranged = style.arranged(labels)
    looks = style.looks(arranged)
    return {label: Pen(f"spfl{place}", looks[label], style.text(label)) for place, label in enumerate(arranged)}


def declared(every: Iterable[Pen]) -> str:
    """The colours and markers of these pens, for the head of a picture."""
    found = list(every)
    lines = [rf"\definecolor{{{pen.colour}}}{{HTML}}{{{_hex(pen.look)}}}" for pen in found]
    own = {OWN[pen.look.marker] for pen in found if pen.look.marker in OWN}
    shapes = {"spfl plus": [(x / 3, y / 3) for x, y in PLUS], "spfl star": _star()}
    return "\n".join([*lines, *(_shape(name, shapes[name]) for name in sorted(own))])


def _shape(name: str, corners: Sequence[tuple[float, float]]) -> str:
    """A marker of one's own: a polygon whose corners are in parts of the size of a mark."""
    at = [rf"\pgfpoint{{{x:.3f}\pgfplotmarksize}}{{{y:.3f}\pgfplotmarksize}}" for x, y in corners]
    path = rf"\pgfpathmoveto{{{at[0]}}}" + "".join(rf"\pgfpathlineto{{{point}}}" for point in at[1:])
    return rf"\pgfdeclareplotmark{{{name}}}{{{path}\pgfpathclose\pgfusepathqfillstroke}}"


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (0.5 + i / 5) for i in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for i, a in enumerate(angles) for r in [0.5 if i % 2 else 1.3]]


def _hex(look: Look) -> str:
    """RRGGBB of a colour; names of colours are matplotlib's."""
    if look.colour.startswith("#") and len(look.colour) == 7:
        return look.colour[1:].upper()
    from matplotlib.colors import to_hex

    return to_hex(look.colour)[1:].upper()
