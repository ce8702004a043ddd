"""The part of a report that shows a sweep: a table, the score against rounds, and against every swept number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from spfl.figures.drawing import LABELS, band, band_kind
from spfl.figures.interactive import BUTTON, add_line, new_figure, score_range
from spfl.figures.looks import assign_looks
from spfl.figures.scores import axis_label, factor, shown, unit
from spfl.files import is_file
from spfl.report.parts import RESULTS_NOTE, PageSection, PageTable, Panel
from spfl.runs.jsons import Json
from spfl.studies.runner import RESULTS, read_results
from spfl.studies.study import Setting, Study, read_study, title, typeset
from spfl.studies.tables import cells, health_lines


def study_sections(folder: Path) -> list[PageSection]:
    """PageTable and figures of a sweep folder."""
    study = read_study(folder)
    figure, kind = study_curves_figure(study)
    sections = [
        PageSection(
            "Results",
            f"{RESULTS_NOTE} Scores are of the {study.part} data.",
            [Panel(tables=[_study_table(study)])],
            health_lines(read_results(folder)) if is_file(folder / RESULTS) else (),
        ),
        PageSection(
            f"{study.score.metric.capitalize()} against rounds",
            f"Lines and bands: {kind}. Choose a setting; click a name to hide it.",
            [Panel(figures=[figure])],
        ),
    ]
    axes = study_axis_figures(study)
    if axes:
        note = "Mean, lowest and highest over all seeds and other settings that have this value."
        sections.append(PageSection("What was swept", note, [Panel(axis, figures=[figure]) for axis, figure in axes]))
    return sections


STUDY_COLUMNS = (
    ("mean_q_s", 1, ".3f"),
    ("payload_bits_per_round", 1e-6, ".3f"),
    ("wall_s", 1, ".1f"),
)


def _study_table(study: Study) -> PageTable:
    rows: list[Json] = [dict(row, status="done", settings={key: row[key] for key in study.swept}) for row in study.rows]
    metric = study.score.metric
    told = f"{metric}{unit(metric)}"
    header = ["scheme", told, "±", "n", *study.varied, f"final{unit(metric)}", "sign arrives", "Mbit/round", "s/run"]
    table = []
    for cell in cells(rows):
        final = shown(metric, cell.mean(f"{metric}_final"), sign="")
        settings = [str(cell.settings[key]) for key in study.varied]
        tail = [f"{scale * cell.mean(name):{form}}" for name, scale, form in STUDY_COLUMNS]
        table.append(
            [
                cell.rows[0]["scheme"],
                shown(metric, cell.mean(f"{metric}_last"), sign=""),
                shown(metric, cell.std, sign=""),
                str(len(cell.rows)),
                *settings,
                final,
                *tail,
            ]
        )
    return PageTable(header, table, bar=1)


def study_curves_figure(study: Study) -> tuple[go.Figure, str]:
    """Score against rounds, a setting of the world at a time, chosen from a list."""
    slices, metric = study.slices(), study.score.metric
    scale = factor(metric)
    kind = band_kind(len(m) for rows in slices.values() for m in study.series(rows).values())
    looks, figure, per_slice = assign_looks(study.series(study.rows)), new_figure(margin_t=52), []
    for number, (setting, rows) in enumerate(slices.items()):
        before = len(figure.data)
        for label, members in study.series(rows).items():
            x, score = study.curves(members, "round")
            hover = f"{label}<br>round %{{x}}: {_hover(metric)}<extra></extra>"
            points, edges = (x, scale * score.mean(0)), band(scale * score, kind)
            add_line(figure, looks[label], points, label, edges, hovertemplate=hover, visible=number == 0)
        per_slice.append((setting, range(before, len(figure.data))))
    figure.update_layout(xaxis_title_text="Round", yaxis_title_text=axis_label(metric, study.part.capitalize()))
    figure.update_layout(**score_range(metric))
    if len(slices) > 1:
        figure.update_layout(updatemenus=[_list(figure, per_slice)])
    return figure, kind


def _hover(metric: str) -> str:
    return "%{y:.1f} %" if unit(metric) else "%{y:.3f}"


def _list(figure: go.Figure, choices: Sequence[tuple[Setting, range]]) -> dict[str, Any]:
    buttons = [
        {
            "label": title(setting),
            "method": "update",
            "args": [{"visible": [i in traces for i in range(len(figure.data))]}],
        }
        for setting, traces in choices
    ]
    return {
        "type": "dropdown",
        "buttons": buttons,
        "x": 0,
        "y": 1.02,
        "xanchor": "left",
        "yanchor": "bottom",
    } | BUTTON


def study_axis_figures(study: Study) -> list[tuple[str, go.Figure]]:
    """Score against each swept number, the mean and extremes over everything that has it."""
    found, metric = [], study.score.metric
    scale, label_y = factor(metric), axis_label(metric, study.part.capitalize())
    for axis in study.axes():
        figure = new_figure(xaxis_title=LABELS.get(axis, axis), yaxis_title=label_y, **score_range(metric))
        looks = assign_looks(study.series(study.rows, axis))
        for label, rows in study.series(study.rows, axis).items():
            values = sorted({row[axis] for row in rows} - {None})
            points = [np.array([scale * study.last(r) for r in rows if r[axis] == value]) for value in values]
            edges = (np.array([p.min() for p in points]), np.array([p.max() for p in points]))
            hover = f"{label}<br>{axis} = %{{x}}: {_hover(metric)}<extra></extra>"
            y = np.array([p.mean() for p in points])
            add_line(figure, looks[label], ([typeset(v) for v in values], y), label, edges, hovertemplate=hover)
        figure.update_xaxes(type="category")
        found.append((axis, figure))
    return found
