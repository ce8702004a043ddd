"""The curves of a study as LaTeX: a pgfplots picture whose numbers stand in it, so that the paper sets its text."""

from __future__ import annotations

from collections.abc import Sequence

from spfl.arrays import Floats
from spfl.figures.drawing import band, band_kind
from spfl.figures.looks import Look
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.studies.study import Study, curves, title

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
  xlabel={{Communication round}}, ylabel={{{part} accuracy (\%)}}, grid=major, grid style={{black!13}},
  legend style={{font=\small, draw=none, legend columns={columns},
  /tikz/every even column/.append style={{column sep=2mm}}}}, every axis plot/.append style={{thick}}]
{axes}
\end{{groupplot}}
\end{{tikzpicture}}

\pgfplotslegendfromname{{{legend}}}
\caption{{{part} accuracy against rounds: {kind}.}}
\label{{fig:curves}}
\end{{{place}}}
"""


def curves_tex(study: Study, style: FigureStyle = SCREEN) -> str:
    """Accuracy against rounds, an axis for each setting: a line a series, with the band of the other figures."""
    slices = study.slices()
    kind = band_kind(len(m) for rows in slices.values() for m in study.series(rows).values())
    labels = style.arranged(study.series(study.rows))
    looks = style.looks(labels)
    axes = []
    for number, (setting, rows) in enumerate(slices.items()):
        found = study.series(rows)
        legend = "" if number else f", legend to name={LEGEND}"
        axes.append(rf"\nextgroupplot[title={{{tex_text(title(setting))}}}{legend}]")
        for place, label in enumerate(labels):
            if label in found:
                x, accuracy = curves(found[label], "round")
                axes += _line(looks[label], f"spfl{place}", _table(x, 100 * accuracy, kind))
            entry = rf"\addlegendentry{{{tex_text(style.text(label))}}}"
            axes += [entry] if not number and label in found else []
    colours = [rf"\definecolor{{spfl{place}}}{{HTML}}{{{_hex(looks[label])}}}" for place, label in enumerate(labels)]
    across = min(len(slices), MOST_AXES)
    width = rf"{0.95 / across:.3g}\textwidth" if across > 1 else r"\columnwidth"
    return TEMPLATE.format(
        colours="\n".join(colours), place="figure*" if across > 1 else "figure", across=across, down=-(-len(slices) // across), width=width, part=study.part.capitalize(),
        columns=min(len(labels), MOST_ENTRIES), legend=LEGEND, axes="\n".join(axes),
        kind=tex_text(kind),
    )  # fmt: skip


def _table(x: Floats, accuracy: Floats, kind: str) -> list[tuple[float, ...]]:
    """(round, mean, lower edge, upper edge) of each evaluation; without edges for one seed."""
    edges = band(accuracy, kind) or ()
    return list(zip(x.tolist(), accuracy.mean(0).tolist(), *(edge.tolist() for edge in edges), strict=True))


def _line(look: Look, colour: str, points: list[tuple[float, ...]]) -> list[str]:
    """A line with its marks, and before it the band as one closed polygon, which has no entry in the legend."""
    drawn = []
    if len(points[0]) == 4:
        around = [(p[0], p[3]) for p in points] + [(p[0], p[2]) for p in reversed(points)]
        drawn.append(rf"\addplot[draw=none, fill={colour}, fill opacity=0.15, forget plot] table {{{_rows(around)}}};")
    mark = f"mark={MARKS[look.marker]}, mark options={{solid, rotate={TURNED.get(look.marker, 0)}}}, mark size=1.5pt"
    options = f"{colour}, {DASHES[look.dash]}, {mark}"
    return [*drawn, rf"\addplot[{options}] table {{{_rows([p[:2] for p in points])}}};"]


def _rows(points: Sequence[tuple[float, ...]]) -> str:
    return "\n" + "\n".join(" ".join(f"{value:.6g}" for value in point) for point in points) + "\n"


def _hex(look: Look) -> str:
    """RRGGBB of a colour; names of colours are matplotlib's."""
    if look.colour.startswith("#") and len(look.colour) == 7:
        return look.colour[1:].upper()
    from matplotlib.colors import to_hex

    return to_hex(look.colour)[1:].upper()
