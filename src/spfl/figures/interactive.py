"""Interactive figures by plotly, in the style of the others: they know nothing of folders or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from spfl.arrays import Floats
from spfl.figures.curves import SpentCurve
from spfl.figures.drawing import band, band_kind
from spfl.figures.looks import Look, assign_looks
from spfl.figures.scores import SHARES, axis_label, common, factor, unit

DASHES = {"solid": "solid", "dashed": "dash", "dashdot": "dashdot", "dotted": "dot", "long": "longdash"}
SYMBOLS = {"circle": "circle", "square": "square", "diamond": "diamond", "triangle": "triangle-up"}
SYMBOLS |= {"down": "triangle-down", "plus": "cross", "cross": "x", "left": "triangle-left", "right": "triangle-right"}
SYMBOLS |= {"star": "star", "pentagon": "pentagon"}
MARKS = 12  # markers along a curve


INK, GRID = "#1f2933", "#e4e7eb"


LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 60, "r": 12, "t": 44, "b": 52},  # the tool bar stands above the plot
    "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0, "font": {"size": 12}},
    "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#7b8794", "activecolor": "#0072B2"},
    "height": 420,
}
BUTTON = {"bgcolor": "#FFFFFF", "font": {"size": 12, "color": "#000001"}}  # light in the dark as well, see report.html


AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": "#9aa5b1",
    "ticks": "outside",
    "ticklen": 4,
    "title": {"standoff": 8, "font": {"size": 13}},
}


def new_figure(**layout: Any) -> go.Figure:
    figure = go.Figure(layout=LAYOUT | layout)
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS)
    return figure


def paint(colour: str, opacity: float = 1.0) -> str:
    """A colour #RRGGBB as plotly takes it."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def add_line(
    figure: go.Figure,
    look: Look,
    points: tuple[Any, Floats],
    label: str,
    edges: tuple[Floats, Floats] | None,
    **more: Any,
) -> None:
    """A line through points (x, y) and the band around it, switched on and off together by one entry of the legend."""
    x, y = points
    if edges is not None:
        fill = {"fill": "toself", "fillcolor": paint(look.colour, 0.15), "hoverinfo": "skip", "showlegend": False}
        around = {"x": [*x, *x[::-1]], "y": [*edges[1], *edges[0][::-1]], "mode": "lines", "line": {"width": 0}}
        shown = {key: value for key, value in more.items() if key == "visible"}
        figure.add_scatter(**around, **fill, **shown, legendgroup=label)
    line = {"color": paint(look.colour), "width": 2, "dash": DASHES[look.dash]}
    marks = {"symbol": SYMBOLS[look.marker], "size": 7, "maxdisplayed": MARKS}
    figure.add_scatter(x=x, y=y, name=label, legendgroup=label, mode="lines+markers", line=line, marker=marks, **more)


def score_figure(curves: Sequence[SpentCurve]) -> tuple[go.Figure, str]:
    """Scores against rounds, payload, time or energy, and what the bands show."""
    kind, metric = band_kind(len(curve.score) for curve in curves), common(curve.metric for curve in curves)
    scale_y, sign = factor(metric), unit(metric)
    looks = assign_looks(curve.label for curve in curves)
    figure, per_axis = new_figure(), []
    for name, xlabel, scale in (
        ("", "Round", 1.0),
        ("payload_bits", "Payload sent (Mbit)", 1e-6),
        ("round_s", "Time (s)", 1.0),
        ("joules", "Energy (J)", 1.0),
    ):
        before = len(figure.data)
        for curve in curves:
            if not name or name in curve.spent:
                x = scale * curve.spent[name] if name else curve.rounds
                hover = f"{curve.label}<br>{xlabel}: %{{x:.4~g}}<br>{metric}: %{{y:.4~g}}{sign}<extra></extra>"
                points, edges = (x, scale_y * curve.score.mean(0)), band(scale_y * curve.score, kind)
                look = looks[curve.label]
                add_line(figure, look, points, curve.label, edges, hovertemplate=hover, visible=not name)
        per_axis.append((xlabel, range(before, len(figure.data))))
    figure.update_layout(xaxis_title_text="Round", yaxis_title_text=axis_label(metric), **score_range(metric))
    figure.update_layout(updatemenus=[_switch(figure, per_axis)])
    figure.update_layout(margin_t=48, hovermode="closest")
    return figure, kind


def score_range(metric: str) -> dict[str, Any]:
    """For the layout of a figure of scores: an axis of shares ends at none and all, even where a band does not."""
    return {"yaxis_autorangeoptions": {"clipmin": 0, "clipmax": 100}} if metric in SHARES else {}


def _switch(figure: go.Figure, choices: Sequence[tuple[str, range]]) -> dict[str, Any]:
    """Buttons that show one set of traces at a time, with its label on the x axis."""
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [i in traces for i in range(len(figure.data))]}, {"xaxis.title.text": label}],
        }
        for label, traces in choices
        if traces
    ]
    place = {"x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "pad": {"b": 2}}
    return {"type": "buttons", "direction": "right", "showactive": True, "buttons": buttons} | place | BUTTON
