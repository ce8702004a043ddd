"""All figures and tables that a study's axes allow, remade from its results.parquet alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spfl.errors import ConfigError
from spfl.figures.drawing import (
    LABELS,
    MARKERS,
    MARKS,
    band,
    band_kind,
    draw_legend,
    draw_line,
    finish_score_axes,
    wrapped,
)
from spfl.figures.looks import Look
from spfl.figures.saving import save_figure
from spfl.figures.scores import SHARES, factor, unit
from spfl.figures.style import SCREEN, FigureStyle
from spfl.runs.folders import below, write_atomically
from spfl.runs.jsons import Json, dump_json
from spfl.studies.recorded import read_any_study
from spfl.studies.statistics import (
    ENOUGH_SEEDS,
    SIGNIFICANT,
    choose_reference,
    paired_table,
    score_table,
    tables_text,
    target_table,
)
from spfl.studies.study import Setting, Study, short, title, typeset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Rows = Sequence[Json]


@dataclass(frozen=True)
class Line:
    """A series in a figure: its number among all, its look, and its words."""

    number: int
    look: Look
    text: str


DrawSeries = Callable[["Axes", Line, Rows], None]


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
PANELS = 9  # in one figure


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
    metric = study.score.metric
    if target is not None and not (0 <= target <= 1 if metric in SHARES else math.isfinite(target)):
        raise ConfigError(f"--target must be {'in [0, 1]' if metric in SHARES else 'finite'}, got {target:g}")
    style.check(list(study.series(study.rows)))
    chosen = choose_reference(study, reference)
    out = out or below(folder, "figures")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _figures(Drawing(study, style), chosen):
        save_figure(figure, out / f"{name}.{suffix}", style)
        paths.append(out / f"{name}.{suffix}")
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
    study, metric = drawing.study, drawing.study.score.metric
    yield from numbered(f"{metric}_vs_rounds", curve_figures(drawing, "round", "Communication round"))
    yield from numbered(f"{metric}_vs_payload", curve_figures(drawing, "payload_bits", "Payload sent (Mbit)", 1e-6))
    for column, label in (("joules", "Energy of all devices (J)"), ("seconds", "Time: computing and uplink (s)")):
        if all(row.get(f"curve_{column}") and row[f"curve_{column}"][-1] > 0 for row in study.rows):
            yield from numbered(f"{metric}_vs_{column}", curve_figures(drawing, column, label))
    for axis in study.axes():
        yield from numbered(f"{metric}_vs_{short(axis)}", axis_figures(drawing, axis))
    if reference and (table := paired_table(study, reference)):
        yield "paired_differences", forest_figure(table, reference, drawing)


def numbered(name: str, figures: Iterable[Figure]) -> Iterator[tuple[str, Figure]]:
    """`name` for one figure, `name_1`, `name_2`, ... for several."""
    every = list(figures)
    return ((f"{name}_{i}" if len(every) > 1 else name, figure) for i, figure in enumerate(every, 1))


# --- lines --------------------------------------------------------------------------------------------------


def curve_figures(drawing: Drawing, x: str, xlabel: str, scale: float = 1.0) -> Iterator[Figure]:
    """Score against a column of the curves, a panel a slice, a line a series: mean and band over seeds."""
    study = drawing.study
    kind = band_kind(len(m) for rows in study.slices().values() for m in study.series(rows).values())

    def draw(axes: Axes, line: Line, rows: Rows) -> None:
        along, score = study.curves(rows, x)
        step = max(1, len(along) // MARKS)
        every = (line.number * step // 4 % step, step)
        draw_line(axes, line.look, (scale * along, score.mean(0)), line.text, band(score, kind), every)

    def finish(every: Sequence[Axes]) -> None:
        ends = [float(np.asarray(line.get_xdata())[-1]) for axes in every for line in axes.lines]
        for axes in every:
            axes.set_xlabel(xlabel)
            if max(ends) > 4 * min(ends):
                axes.set_xscale("log")

    return _panels(drawing, study.slices(), draw, finish, kind)


def axis_figures(drawing: Drawing, axis: str) -> Iterator[Figure]:
    """Score against a swept number, a panel a slice of all else, a line a series: mean and band over seeds."""
    study = drawing.study
    kept: dict[Setting, list[Json]] = {}
    for setting, rows in study.slices(axis).items():
        groups = study.series(rows, axis).values()
        along = [row for members in groups if len({row[axis] for row in members} - {None}) > 1 for row in members]
        if along:
            kept[setting] = [row for row in along if row[axis] is not None]
    kind = band_kind(
        len([row for row in members if row[axis] == value])
        for rows in kept.values()
        for members in study.series(rows, axis).values()
        for value in {row[axis] for row in members}
    )

    values = [value for value in study.values(axis) if value is not None]
    places = dict(zip(values, _places(values), strict=True))

    def draw(axes: Axes, line: Line, rows: Rows) -> None:
        x = sorted({row[axis] for row in rows})
        seeds = [np.array([[study.last(row)] for row in rows if row[axis] == value]) for value in x]
        bands = [band(s, kind) for s in seeds]
        low, high = (np.array([b[side][0] if b else np.nan for b in bands]) for side in (0, 1))
        mean = np.array([s.mean() for s in seeds])
        draw_line(axes, line.look, (np.array([places[value] for value in x]), mean), line.text, (low, high))

    def finish(every: Sequence[Axes]) -> None:
        for axes in every:
            _number_axis(axes, axis, places)

    return _panels(drawing, kept, draw, finish, kind, axis)


def _places(values: Sequence[float]) -> list[float]:
    """Where values stand on an axis: IID data, of infinite concentration, a step beyond the largest finite one."""
    finite = [value for value in values if np.isfinite(value)]
    return [value if np.isfinite(value) else 3.0 * finite[-1] for value in values]


def _number_axis(axes: Axes, key: str, places: Mapping[float, float]) -> None:
    axes.set_xlabel(LABELS.get(key, key))
    first, last = min(places.values()), max(places.values())
    if not key.endswith(("_db", "_dbm")) and first > 0 and last >= 8 * first:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(places) <= 8:
        axes.set_xticks(list(places.values()), [typeset(value) for value in places])


def _panels(
    drawing: Drawing,
    slices: Mapping[Setting, Rows],
    draw: DrawSeries,
    finish: Callable[[Sequence[Axes]], None],
    kind: str,
    without: str = "",
) -> Iterator[Figure]:
    """Small multiples on common axes, a slice each, with one legend; several figures if they are many."""
    items = list(slices.items())
    for start in range(0, len(items), PANELS):
        with drawing.style.applied():
            figure = _page(drawing, items[start : start + PANELS], draw, finish, without)
            draw_legend(figure, kind, fixed=drawing.style.height_in is not None)
        yield figure


def _page(
    drawing: Drawing,
    page: Sequence[tuple[Setting, Rows]],
    draw: DrawSeries,
    finish: Callable[[Sequence[Axes]], None],
    without: str,
) -> Figure:
    from matplotlib.figure import Figure

    study, every, columns = drawing.study, drawing.lines(without), min(3, len(page))
    lines = -(-len(page) // columns)
    wide, high = (6.4, 4.6) if len(page) == 1 else (0.6 + 3.2 * columns, 1.2 + 2.5 * lines)
    figure = Figure(figsize=drawing.style.size(wide, high, columns), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (setting, rows) in zip(grid, page, strict=False):
        series = study.series(rows, without)
        for label in [label for label in every if label in series]:
            draw(axes, every[label], series[label])
        axes.set_title(wrapped(title(setting), figure.get_figwidth() / columns))
    for axes in grid[len(page) :]:
        axes.remove()
    finish(list(grid[: len(page)]))
    for i, axes in enumerate(grid[: len(page)]):
        finish_score_axes(axes, study.part.capitalize(), study.score.metric)
        axes.set_ylabel("" if i % columns else axes.get_ylabel())
        bottom = i + columns >= len(page)
        axes.set_xlabel(axes.get_xlabel() if bottom else "")
        axes.tick_params(labelbottom=bottom)
    return figure


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

    half = scale * row["half_width"] if row["n"] >= 3 else 0.0
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
