"""The curves of a study as LaTeX: a pgfplots picture whose numbers stand in it, so that the paper sets its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spfl.arrays import Floats
from spfl.figures.drawing import band, band_kind
from spfl.figures.looks import Look
from spfl.figures.scores import axis_label, factor
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.jsons import Json
from spfl.studies.study import Study, title

DASHES = {"solid": "solid", "dashed": "dashed", "dashdot": "dashdotted", "dotted": "dotted", "long": "loosely dashed"}
MARKS = {"circle": "*", "square": "square*", "diamond": "diamond*", "triangle": "triangle*", "plus": "+", "cross": "x"}
MARKS |= {"down": "triangle*", "left": "triangle*", "right": "triangle*", "star": "star", "pentagon": "pentagon*"}
TURNED = {"left": 90, "down": 180, "right": 270}  # degrees
LEGEND, MOST_ENTRIES, MOST_AXES = "spfl:legend", 4, 3  # the last two in a row
TEMPLATE = r"""% Made by spfl export. Needs, before \begin{{document}}:
% \usepackage{{pgfplots}} \usepgfplotslibrary{{groupplots}} \pgfplotsset{{compat=1.16}}
{colours}
\begin{{{place}}}[t]
\centering
\begin{{tikzpicture}}
\begin{{groupplot}}[group style={{group size={across} by {down}, horizontal sep=1cm,
  vertical sep=1.9cm, xlabels at=edge bottom, ylabels at=edge left}}, width={width}, height=5.5cm,
  xlabel={{Communication round}}, ylabel={{{label}}}, grid=major, grid style={{black!13}},
  legend style={{font=\small, draw=none, legend columns={columns},
  /tikz/every even column/.append style={{column sep=2mm}}}}, every axis plot/.append style={{thick}}]
{axes}
\end{{groupplot}}
\end{{tikzpicture}}

\pgfplotslegendfromname{{{legend}}}
\caption{{{part} {metric} against rounds: {kind}.}}
\label{{fig:curves}}
\end{{{place}}}
"""


class Pen(NamedTuple):
    """What draws a series: the name of its colour in the file, its look, and its text in the legend."""

    colour: str
    look: Look
    text: str

    @property
    def options(self) -> str:
        turned = TURNED.get(self.look.marker, 0)
        mark = f"mark={MARKS[self.look.marker]}, mark options={{solid, rotate={turned}}}, mark size=1.5pt"
        return f"{self.colour}, {DASHES[self.look.dash]}, {mark}"


def curves_tex(study: Study, style: FigureStyle = SCREEN) -> str:
    """Score against rounds, an axis for each setting: a line a series, with the band of the other figures."""
    slices = study.slices()
    kind = band_kind(len(m) for rows in slices.values() for m in study.series(rows).values())
    labels = style.arranged(study.series(study.rows))
    looks = style.looks(labels)
    pens = {label: Pen(f"spfl{place}", looks[label], style.text(label)) for place, label in enumerate(labels)}
    across = min(len(slices), MOST_AXES)
    return TEMPLATE.format(
        colours="\n".join(rf"\definecolor{{{pen.colour}}}{{HTML}}{{{_hex(pen.look)}}}" for pen in pens.values()),
        place="figure*" if across > 1 else "figure",
        across=across,
        down=-(-len(slices) // across),
        width=rf"{0.95 / across:.3g}\textwidth" if across > 1 else r"\columnwidth",
        part=study.part.capitalize(),
        metric=tex_text(study.score.metric),
        label=tex_text(axis_label(study.score.metric, study.part.capitalize())),
        columns=min(len(labels), MOST_ENTRIES),
        legend=LEGEND,
        axes="\n".join(
            _axis(title(setting), study, rows, pens, kind, first=number == 0)
            for number, (setting, rows) in enumerate(slices.items())
        ),
        kind=tex_text(kind),
    )


def _axis(name: str, study: Study, rows: Sequence[Json], pens: Mapping[str, Pen], kind: str, *, first: bool) -> str:
    """The lines of one setting; the first axis has the legend of all."""
    found = study.series(rows)
    drawn = [rf"\nextgroupplot[title={{{tex_text(name)}}}" + (f", legend to name={LEGEND}]" if first else "]")]
    for label, pen in pens.items():
        if label in found:
            x, score = study.curves(found[label], "round")
            drawn += _line(pen, _table(x, factor(study.score.metric) * score, kind))
        elif first:
            drawn.append(rf"\addlegendimage{{{pen.options}}}")
        drawn += [rf"\addlegendentry{{{tex_text(pen.text)}}}"] if first else []
    return "\n".join(drawn)


def _table(x: Floats, score: Floats, kind: str) -> list[tuple[float, ...]]:
    """(round, mean, lower edge, upper edge) of each evaluation; without edges for one seed."""
    edges = band(score, kind) or ()
    return list(zip(x.tolist(), score.mean(0).tolist(), *(edge.tolist() for edge in edges), strict=True))


def _line(pen: Pen, points: list[tuple[float, ...]]) -> list[str]:
    """A line with its marks, and before it the band as one closed polygon, which has no entry in the legend."""
    drawn = []
    if len(points[0]) == 4:
        around = [(p[0], p[3]) for p in points] + [(p[0], p[2]) for p in reversed(points)]
        area = f"draw=none, fill={pen.colour}, fill opacity=0.15, forget plot"
        drawn.append(rf"\addplot[{area}] table {{{_rows(around)}}};")
    return [*drawn, rf"\addplot[{pen.options}] table {{{_rows([p[:2] for p in points])}}};"]


def _rows(points: Sequence[tuple[float, ...]]) -> str:
    return "\n" + "\n".join(" ".join(f"{value:.6g}" for value in point) for point in points) + "\n"


def _hex(look: Look) -> str:
    """RRGGBB of a colour; names of colours are matplotlib's."""
    if look.colour.startswith("#") and len(look.colour) == 7:
        return look.colour[1:].upper()
    from matplotlib.colors import to_hex

    return to_hex(look.colour)[1:].upper()
