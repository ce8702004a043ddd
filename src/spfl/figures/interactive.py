"""Interactive figures by plotly, in the style of the others: they know nothing of folders or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from spfl.arrays import Floats
from spfl.figures.curves import SpentCurve
from spfl.figures.scores import axis_label, common, factor, unit
from spfl.figures.style import COLOURS, band, band_kind

DASHES = ("solid", "dash", "dashdot", "dot")


INK, GRID = "#1f2933", "#e4e7eb"


LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 60, "r": 12, "t": 12, "b": 52},
    "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0, "font": {"size": 12}},
    "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
    "height": 400,
}


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


def paint(i: int, opacity: float = 1.0) -> str:
    red, green, blue = (int(COLOURS[i % len(COLOURS)][k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def add_line(
    figure: go.Figure,
    i: int,
    label: str,
    x: Any,
    y: Floats,
    edges: tuple[Floats, Floats] | None,
    hover: str,
    **more: Any,
) -> None:
    """A line and the band around it, switched on and off together by one entry of the legend."""
    style = {"color": paint(i), "width": 2, "dash": DASHES[i // len(COLOURS) % len(DASHES)]}
    if edges is not None:
        around = {"x": [*x, *x[::-1]], "y": [*edges[1], *edges[0][::-1]], "fill": "toself", "fillcolor": paint(i, 0.15)}
        shown = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(**around, **shown, legendgroup=label, **more)
    figure.add_scatter(x=x, y=y, name=label, legendgroup=label, line=style, mode="lines", hovertemplate=hover, **more)


def accuracy_figure(curves: Sequence[SpentCurve]) -> tuple[go.Figure, str]:
    """Scores against rounds, payload or time, and what the bands show."""
    kind, metric = band_kind(len(curve.score) for curve in curves), common(curve.metric for curve in curves)
    scale_y, sign = factor(metric), unit(metric)
    figure, per_axis = new_figure(), []
    for name, xlabel, scale in (
        ("", "Round", 1.0),
        ("payload_bits", "Payload sent (Mbit)", 1e-6),
        ("round_s", "Time (s)", 1.0),
    ):
        before = len(figure.data)
        for i, curve in enumerate(curves):
            if not name or name in curve.spent:
                x = scale * curve.spent[name] if name else curve.rounds
                hover = f"{curve.label}<br>{xlabel}: %{{x:.4~g}}<br>{metric}: %{{y:.4~g}}{sign}<extra></extra>"
                edges = band(scale_y * curve.score, kind)
                add_line(figure, i, curve.label, x, scale_y * curve.score.mean(0), edges, hover, visible=not name)
        per_axis.append((xlabel, range(before, len(figure.data))))
    figure.update_layout(xaxis_title="Round", yaxis_title=axis_label(metric), updatemenus=[_switch(figure, per_axis)])
    figure.update_layout(margin_t=48, hovermode="closest")
    return figure, kind


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
    place = {"x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "pad": {"b": 2}, "font": {"size": 12}}
    return {"type": "buttons", "direction": "right", "showactive": True, "buttons": buttons, "bgcolor": "white"} | place
