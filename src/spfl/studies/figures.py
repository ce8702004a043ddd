"""All figures and tables that a study's axes allow, remade from its results.parquet alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spfl.figures.drawing import MARKERS, MARKS, draw_legend, draw_line, finish_score_axes, wrapped
from spfl.figures.looks import Look
from spfl.figures.saving import save_figure
from spfl.figures.scores import factor, unit
from spfl.figures.style import SCREEN, FigureStyle
from spfl.runs.folders import below, write_atomically
from spfl.runs.jsons import Json, dump_json
from spfl.studies.panels import Panels, study_panels
from spfl.studies.recorded import read_any_study
from spfl.studies.statistics import (
    ENOUGH_SEEDS,
    SIGNIFICANT,
    check_target,
    choose_reference,
    drawn_half,
    paired_table,
    score_table,
    tables_text,
    target_table,
)
from spfl.studies.study import Study, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """A series in a figure: its number among all, its look, and its words."""

    number: int
    look: Look
    text: str


@dataclass(frozen=True)
class Drawing:
    """What all figures of a study share: how they look, which series there are, in which order."""

    study: Study
    style: FigureStyle = SCREEN

    def lines(self, without: str = "") -> dict[str, Line]:
        """Every series of the study, those of one colour in every figure, in the order asked for."""
        labels = self.style.arranged(self.study.series(self.study.rows, without))
        looks = self.style.looks(labels)
        return {label: Line(i, looks[label], self.style.text(label)) for i, label in enumerate(labels)}


TABLE_MD, TABLE_JSON = "table.md", "table.json"


def make_figures(
    folder: Path,
    out: Path | None = None,
    *,
    reference: str | None = None,
    target: float | None = None,
    suffix: str = "png",
    style: FigureStyle = SCREEN,
) -> list[Path]:
    """Write figures and tables of a sweep or comparison into `out` (FOLDER/figures) and return their paths.

    `reference` names the series that the others are compared with (sp_fl_plus or sp_fl, if there is one), `target` the
    score whose cost is asked for (a tenth worse than the reference's). Raises RunFolderError or ConfigError.
    """
    study = read_any_study(folder)
    check_target(study, target)
    style.check(list(study.series(study.rows)))
    chosen = choose_reference(study, reference)
    out = out or below(folder, "figures")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _figures(Drawing(study, style), chosen):
        save_figure(figure, out / f"{name}.{suffix}", style)
        paths.append(out / f"{name}.{suffix}")
    metric = study.score.metric
    tables = {
        metric: score_table(study),
        "reference": chosen,
        "paired": paired_table(study, chosen) if chosen else [],
        "target": target_table(study, target, chosen),
    }
    write_atomically(out / TABLE_JSON, dump_json(tables, indent=2).encode() + b"\n")
    write_atomically(out / TABLE_MD, tables_text(tables, study.part, metric).encode())
    return [*paths, out / TABLE_MD, out / TABLE_JSON]


def _figures(drawing: Drawing, reference: str | None) -> Iterator[tuple[str, Figure]]:
    for panels in study_panels(drawing.study):
        yield from ((page.name, panels_figure(drawing, page)) for page in panels.pages())
    if reference and (table := paired_table(drawing.study, reference)):
        yield "paired_differences", forest_figure(table, reference, drawing)


# --- lines --------------------------------------------------------------------------------------------------


def panels_figure(drawing: Drawing, page: Panels) -> Figure:
    """Small multiples on common axes, a slice each, a line a series, with one legend below."""
    with drawing.style.applied():
        figure = _page(drawing, page)
        draw_legend(figure, page.kind, fixed=drawing.style.height_in is not None)
    return figure


def _page(drawing: Drawing, page: Panels) -> Figure:
    from matplotlib.figure import Figure

    study, every, columns = drawing.study, drawing.lines(page.without), min(3, len(page.panels))
    lines = -(-len(page.panels) // columns)
    wide, high = (6.4, 4.6) if len(page.panels) == 1 else (0.6 + 3.2 * columns, 1.2 + 2.5 * lines)
    figure = Figure(figsize=drawing.style.size(wide, high, columns), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (title_, series) in zip(grid, page.panels, strict=False):
        for label in [label for label in every if label in series]:
            line, (x, mean, edges) = every[label], series[label]
            marks = (0, 1) if page.without else _marks(line.number, len(x))
            draw_line(axes, line.look, (x, mean), line.text, edges, marks)
        axes.set_title(wrapped(title_, figure.get_figwidth() / columns))
        _finish_x(axes, page)
    for axes in grid[len(page.panels) :]:
        axes.remove()
    for i, axes in enumerate(grid[: len(page.panels)]):
        finish_score_axes(axes, study.part.capitalize(), study.score.metric)
        axes.set_ylabel("" if i % columns else axes.get_ylabel())
        bottom = i + columns >= len(page.panels)
        axes.set_xlabel(axes.get_xlabel() if bottom else "")
        axes.tick_params(labelbottom=bottom)
    return figure


def _marks(number: int, length: int) -> tuple[int, int]:
    """(first, every): which points of a curve have a marker; those of several curves are set off."""
    step = max(1, length // MARKS)
    return number * step // 4 % step, step


def _finish_x(axes: Axes, page: Panels) -> None:
    axes.set_xlabel(page.xlabel)
    if page.log:
        axes.set_xscale("log")
        if page.without:
            axes.minorticks_off()
    if page.ticks:
        axes.set_xticks(list(page.ticks), list(page.ticks.values()))


# --- paired differences -------------------------------------------------------------------------------------


def forest_figure(table: Sequence[Json], reference: str, drawing: Drawing) -> Figure:
    """Paired differences with 95 % intervals: a panel a series, a row a slice; or all in one, if there is one slice.

    Each series has the colour and marker of the other figures. Full markers are differences that the test shows,
    hollow ones the rest. Intervals need three seeds.
    """
    from matplotlib.figure import Figure

    every, metric = drawing.lines(), drawing.study.score.metric
    labels = [label for label in every if label in {row["series"] for row in table}]
    places = list(dict.fromkeys(tuple(row["slice"].items()) for row in table))  # the slices, in order
    one = len(places) == 1
    names = [every[label].text for label in labels] if one else [title(place) for place in places]
    columns = 1 if one else min(4, len(labels))
    lines = 1 if one else -(-len(labels) // columns)
    wide = 0.075 * max(map(len, names)) + (4.8 if one else 2.2 * columns)
    high = 1.1 + lines * (0.6 + 0.28 * len(names))
    with drawing.style.applied():
        figure = Figure(figsize=drawing.style.size(wide, high, columns), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for i, label in enumerate(labels):
            axes = grid[0 if one else i]
            for row in (row for row in table if row["series"] == label):
                y = i if one else places.index(tuple(row["slice"].items()))
                _difference(axes, every[label].look, y, row, factor(metric))
            if not one:
                axes.set_title(every[label].text)
        for i, axes in enumerate(grid[: 1 if one else len(labels)]):
            axes.tick_params(labelbottom=one or i + columns >= len(labels))
            axes.axvline(0.0, color="black", linewidth=0.8, zorder=1)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
        for axes in grid[len(labels) :]:
            axes.remove()
        of = drawing.style.text(reference)
        what = f"{metric.capitalize()} of {of} minus that of the other" + (" (points)" if unit(metric) else "")
        figure.legend([], [], loc="outside lower center", title=what)  # it stands above the label below all panels
        figure.supxlabel(_forest_note(table))
    return figure


def _forest_note(table: Sequence[Json]) -> str:
    intervals = (
        "95 % interval over common seeds" if any(row["n"] >= 3 for row in table) else "too few seeds for intervals"
    )
    return f"{intervals}; full marker: p < {SIGNIFICANT:g}, n ≥ {ENOUGH_SEEDS}"


def _difference(axes: Axes, look: Look, y: int, row: Json, scale: float) -> None:
    full = row["verdict"] != "not shown"
    from matplotlib import rcParams

    half = scale * drawn_half(row)
    axes.errorbar(
        scale * row["difference"],
        y,
        xerr=half,
        color=look.colour,
        linestyle="none",
        elinewidth=rcParams["lines.linewidth"],
        marker=MARKERS[look.marker],
        markerfacecolor=look.colour if full else "white",
        capsize=2,
    )
