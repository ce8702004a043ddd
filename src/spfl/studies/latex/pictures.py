"""The figures of a study as pgfplots pictures, whose numbers stand in them: the paper sets their text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spfl.arrays import Floats
from spfl.figures.drawing import MARKS
from spfl.figures.scores import SHARES, factor, unit
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.jsons import Json
from spfl.studies.latex.pens import Pen, declared, pens
from spfl.studies.panels import Panels, Points
from spfl.studies.statistics import ENOUGH_SEEDS, SIGNIFICANT, drawn_half
from spfl.studies.study import Study, title

MOST_ENTRIES, MOST_AXES = 4, 3  # of a legend and of a group, in a row
TEXT_CM = {2: 6.5, 3: 4.2}  # width of an axis in a row of so many
LETTER_CM = 0.17  # about the width of a small letter
TEMPLATE = r"""% Made by spfl export. Needs, before \begin{{document}}:
% \usepackage{{pgfplots}} \usepgfplotslibrary{{groupplots}} \pgfplotsset{{compat=1.16}}
{declared}
\begin{{{place}}}[t]
\centering
\begin{{tikzpicture}}
\begin{{groupplot}}[group style={{group size={across} by {down}, horizontal sep={apart}cm,
  vertical sep=1.9cm, {edges}}}, width={width}, height={height:.3g}cm,
  {axes}, every x tick scale label/.style={{at={{(rel axis cs:1,0)}}, anchor=south west}},
  grid=major, grid style={{black!13}},
  legend style={{font=\small, draw=none, legend columns={columns},
  /tikz/every even column/.append style={{column sep=2mm}}}}, every axis plot/.append style={{thick}}]
{body}
\end{{groupplot}}
\end{{tikzpicture}}
{legend}
\caption{{{caption}}}
\label{{fig:{name}}}
\end{{{place}}}
"""


def panels_tex(study: Study, page: Panels, style: FigureStyle = SCREEN) -> str:
    """A figure of lines: an axis a panel, a line a series, with the band of the other figures."""
    drawn, legend = pens(study.series(study.rows, page.without), style), f"spfl:{page.name.replace('_', '-')}"
    shown = {label: pen for label, pen in drawn.items() if any(label in lines for _, lines in page.panels)}
    labels = f"xlabel={{{tex_text(page.xlabel)}}}, ylabel={{{tex_text(page.ylabel)}}}"
    narrow = TEXT_CM.get(min(len(page.panels), MOST_AXES))
    labels += f", xlabel style={{text width={narrow}cm, align=center}}" if narrow else ""
    axes = [labels, *_x_axis(page), *_limits(page, study.score.metric in SHARES)]
    return TEMPLATE.format(
        declared=declared(shown.values()),
        **_layout(len(page.panels), page.name),
        edges="xlabels at=edge bottom, ylabels at=edge left",
        axes=", ".join(axes),
        columns=min(len(shown), MOST_ENTRIES),
        body="\n".join(_axis(panel, shown, page.scale, "" if i else legend) for i, panel in enumerate(page.panels)),
        legend=f"\n\\pgfplotslegendfromname{{{legend}}}",
        caption=tex_text(_caption(page)),
    )


def _layout(axes: int, name: str) -> dict[str, Any]:
    """How so many axes stand in a figure: several side by side take both columns of a page."""
    across = min(axes, MOST_AXES)
    width = rf"{0.95 / across:.3g}\textwidth" if across > 1 else r"\columnwidth"
    size = {"across": across, "down": -(-axes // across), "width": width, "height": 5.5, "apart": 1}
    return {"place": "figure*" if across > 1 else "figure", "name": name.replace("_", "-"), **size}


def _x_axis(page: Panels) -> Iterator[str]:
    if page.log:
        yield "xmode=log"
    if page.ticks:
        words = ", ".join(f"{{{tex_text(word)}}}" for word in page.ticks.values())
        yield f"xtick={{{', '.join(f'{place:g}' for place in page.ticks)}}}, xticklabels={{{words}}}"


def _limits(page: Panels, share: bool) -> Iterator[str]:
    """Common limits of all panels; shares end at none and all."""
    lines = [points for _, lines in page.panels for points in lines.values()]
    low, high = _padded([page.scale * part for line in lines for part in (line.mean, *(line.edges or ()))])
    yield f"ymin={max(low, 0.0) if share else low:.6g}, ymax={min(high, page.scale) if share else high:.6g}"
    first, last = _padded([np.log10(line.x[line.x > 0]) if page.log else line.x for line in lines])
    yield "xmin={:.6g}, xmax={:.6g}".format(*((10**first, 10**last) if page.log else (first, last)))


def _padded(values: Sequence[Floats]) -> tuple[float, float]:
    """The range of all values and a twentieth on either side; something around a single one."""
    every = np.concatenate(values)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _caption(page: Panels) -> str:
    shown, against = (re.sub(r" \([^)]*\)$", "", label) for label in (page.ylabel, page.xlabel))
    against = against if against[:2].isupper() else against[:1].lower() + against[1:]
    kind = f" ({page.kind})." if page.kind.startswith("n =") else f". {page.kind[:1].upper()}{page.kind[1:]}."
    return f"{shown} against {against}{kind}"


def _axis(panel: tuple[str, Mapping[str, Points]], drawn: Mapping[str, Pen], scale: float, legend: str) -> str:
    """The lines of one panel; the one that is given a name for it has the legend of all."""
    name, lines = panel
    told = [rf"\nextgroupplot[title={{{tex_text(name)}}}" + (f", legend to name={{{legend}}}]" if legend else "]")]
    for label, pen in drawn.items():
        if label in lines:
            told += _line(pen, lines[label], scale)
        elif legend:
            told.append(rf"\addlegendimage{{{pen.options}}}")
        told += [rf"\addlegendentry{{{tex_text(pen.text)}}}"] if legend else []
    return "\n".join(told)


def _line(pen: Pen, points: Points, scale: float) -> Iterator[str]:
    """A line with its marks, and before it the band as one closed polygon, which has no entry in the legend."""
    if points.edges and np.isfinite(points.edges).all():
        low, high = (scale * edge for edge in points.edges)
        x = np.concatenate([points.x, points.x[::-1]])
        area = f"draw=none, fill={pen.colour}, fill opacity=0.15, forget plot"
        yield rf"\addplot[{area}] table {{{_rows(x, np.concatenate([high, low[::-1]]))}}};"
    step = len(points.x) // MARKS
    marks = f", mark repeat={step}" if step > 1 else ""
    yield rf"\addplot[{pen.options}{marks}] table {{{_rows(points.x, scale * points.mean)}}};"


def _rows(*columns: Sequence[float] | np.ndarray) -> str:
    return "\n" + "\n".join(" ".join(f"{value:.6g}" for value in row) for row in zip(*columns, strict=True)) + "\n"


# --- paired differences -------------------------------------------------------------------------------------


def differences_tex(study: Study, table: Sequence[Json], reference: str, style: FigureStyle = SCREEN) -> str:
    """Paired differences with their intervals, as `figures.forest_figure`: an axis a series, a row a setting."""
    every, metric = pens(study.series(study.rows), style), study.score.metric
    shown = {label: pen for label, pen in every.items() if label in {row["series"] for row in table}}
    places = list(dict.fromkeys(tuple(row["slice"].items()) for row in table))
    one = len(places) == 1
    names = [pen.text for pen in shown.values()] if one else [title(place) for place in places]
    axes = [("", list(shown))] if one else [(pen.text, [label]) for label, pen in shown.items()]
    body = []
    for name, labels in axes:
        body += [rf"\nextgroupplot[title={{{tex_text(name)}}}]", r"\draw[black, thin] (0, -0.5) -- (0, ROWS);"]
        for label in labels:
            rows = [row for row in table if row["series"] == label]
            at = [labels.index(label) if one else places.index(tuple(row["slice"].items())) for row in rows]
            body += _differences(shown[label], rows, at, factor(metric))
    of = f"{metric.capitalize()} of {style.text(reference)} minus that of the other"
    layout = _layout(len(axes), "differences") | {"height": 0.4 + 0.5 * len(names), "apart": 0.5}
    beside = LETTER_CM * max(map(len, names)) + 0.5 * layout["across"]
    layout["width"] = rf"{{(\linewidth - {beside:.3g}cm) / {layout['across']}}}"
    words = ", ".join(f"{{{tex_text(name)}}}" for name in names)
    ticks = ", ".join(map(str, range(len(names))))
    axis = f"ymin=-0.5, ymax={len(names) - 0.5}, y dir=reverse, ytick={{{ticks}}}, yticklabels={{{words}}}"
    ends = [row["difference"] + side * drawn_half(row) for row in table for side in (-1, 1)]
    low, high = _padded([factor(metric) * np.array([0.0, *ends])])
    axis += f", xmin={low:.6g}, xmax={high:.6g}"
    label = tex_text("Points" if unit(metric) else "Difference")
    return TEMPLATE.format(
        declared=declared(shown.values()),
        **layout,
        edges="xlabels at=edge bottom, yticklabels at=edge left",
        axes=f"scale only axis, xlabel={{{label}}}, {axis}, yticklabel style={{font=\\small}}",
        columns=1,
        body="\n".join(body).replace("ROWS", f"{len(names) - 0.5}"),
        legend="",
        caption=tex_text(f"{of}; {_intervals(table)}."),
    )


def _intervals(table: Sequence[Json]) -> str:
    enough = any(row["n"] >= 3 for row in table)
    told = "with the 95 % interval over common seeds" if enough else "too few seeds for intervals"
    return f"{told}. Full markers: p < {SIGNIFICANT:g}, n ≥ {ENOUGH_SEEDS}"


def _differences(pen: Pen, rows: Sequence[Json], at: Sequence[int], scale: float) -> Iterator[str]:
    """The full markers of a series, and the hollow ones."""
    for full in (True, False):
        chosen = [(row, y) for row, y in zip(rows, at, strict=True) if (row["verdict"] != "not shown") == full]
        halves = [scale * drawn_half(row) for row, _ in chosen]
        told = _rows([scale * row["difference"] for row, _ in chosen], [y for _, y in chosen], halves)
        bars = "error bars/.cd, x dir=both, x explicit, error bar style={solid}"
        if chosen:
            yield (
                rf"\addplot[only marks, {pen.colour}, {pen.mark(size_pt=2.2, hollow=not full)}, {bars}] "
                rf"table [x index=0, y index=1, x error index=2] {{{told}}};"
            )
