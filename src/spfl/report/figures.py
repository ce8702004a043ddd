"""The figures of a report, as plotly figures: they read `results` and know nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from spfl.arrays import Floats
from spfl.figures.curves import IMPORTANCE_PANELS, Importance
from spfl.figures.interactive import AXIS, GRID, INK, LAYOUT, add_line, new_figure, paint
from spfl.figures.looks import COLOURS, assign_looks
from spfl.runs.results import Group, Run, Value, numbers
from spfl.units import linear_to_db

SIGN, MODULUS = COLOURS[0], COLOURS[4]
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


# --- curves of runs -----------------------------------------------------------------------------------------


def by_round_figure(groups: Sequence[Group], values: Mapping[str, Value], ytitle: str) -> go.Figure:
    """Values of every round, smoothed, mean over seeds: a colour a group, a dash a value."""
    figure = new_figure(yaxis_title=ytitle, xaxis_title="Round")
    looks = assign_looks(group.label for group in groups)
    for group in groups:
        for j, (name, value) in enumerate(values.items()):
            rounds, table = group.series(value)
            if not rounds.size or (j > 0 and group.one_packet):
                continue
            line = {"color": paint(looks[group.label].colour), "width": 2 - 0.5 * j, "dash": ("solid", "dash")[j % 2]}
            hover = f"{group.label}, {name}<br>round %{{x}}: %{{y:.3~g}}<extra></extra>"
            y, legend = smooth(table.mean(0), window(len(rounds))), {"legendgroup": group.label, "showlegend": j == 0}
            figure.add_scatter(x=rounds, y=y, name=group.label, line=line, mode="lines", hovertemplate=hover, **legend)
    figure.update_yaxes(rangemode="tozero")
    return figure


def window(rounds: int) -> int:
    """Rounds that a smoothed value is the mean of: about a thirtieth of all, an odd number."""
    return rounds // 30 // 2 * 2 + 1


def smooth(values: Floats, width: int) -> Floats:
    """Centred running mean, over fewer values at the ends."""
    ones = np.ones(width)
    return np.asarray(np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same"))


def gap_figure(groups: Sequence[Group]) -> go.Figure | None:
    """Certified gap by round, of the first seed; None when no solver proves anything."""
    figure = new_figure(xaxis_title="Round", yaxis_title="Gap")
    figure.update_yaxes(type="log", tickformat=".0e", nticks=6)
    looks = assign_looks(group.label for group in groups)
    for group in groups:
        gaps = [(r["round"], r["solver"]["gap"]) for r in group.runs[0].rounds if r.get("solver", {}).get("gap")]
        if gaps:
            x, y = zip(*gaps, strict=True)
            hover = f"{group.label}<br>round %{{x}}: gap %{{y:.1e}}<extra></extra>"
            figure.add_scatter(
                x=x,
                y=y,
                name=group.label,
                mode="markers",
                hovertemplate=hover,
                marker={"color": paint(looks[group.label].colour), "size": 5},
            )
    return figure if figure.data else None


def importance_figure(found: Sequence[Importance]) -> go.Figure | None:
    """Bandwidth, signs and moduli received, from the least to the most important devices; None without a run."""
    if not found:
        return None
    figure, looks = make_subplots(1, 3, horizontal_spacing=0.09), assign_looks(one.label for one in found)
    figure.update_layout(LAYOUT | {"height": 380})
    figure.update_xaxes(AXIS | {"title_text": "Importance, percentile", "range": [0, 100]})
    figure.update_yaxes(AXIS | {"rangemode": "tozero"})
    for one in found:
        x = (np.arange(one.share.size) + 0.5) * 100 / one.share.size
        for column, values in enumerate((one.share, 100 * one.signs, 100 * one.moduli), 1):
            hover = f"{one.label}<br>{IMPORTANCE_PANELS[column - 1]}: %{{y:.3~g}}<extra></extra>"
            more = {"hovertemplate": hover, "showlegend": column == 1, "row": 1, "col": column}
            add_line(figure, looks[one.label], (x, values), one.label, None, **more)
    for column, name in enumerate(IMPORTANCE_PANELS, 1):
        figure.update_yaxes(title_text=name, row=1, col=column)
    return figure


def phase_figure(groups: Sequence[Group]) -> go.Figure:
    """Milliseconds of a round by phase, stacked, a bar a group."""
    figure = new_figure(barmode="stack", height=150 + 34 * len(groups), xaxis_title="Milliseconds a round, all seeds")
    for j, phase in enumerate(("gradients", "encode", "allocate", "transmit", "aggregate", "step", "evaluate")):
        x = [
            1e3 * sum(r.summary["seconds"].get(phase, 0.0) / r.summary["rounds"] for r in g.runs) / len(g.runs)
            for g in groups
        ]
        hover = f"%{{y}}<br>{phase}: %{{x:.2f}} ms<extra></extra>"
        figure.add_bar(
            x=x,
            y=[g.label for g in groups],
            name=phase,
            orientation="h",
            marker_color=paint(COLOURS[j % len(COLOURS)]),
            hovertemplate=hover,
        )
    figure.update_yaxes(autorange="reversed", automargin=True, ticks="")
    figure.update_layout(legend={"y": -0.9 / (1 + 0.34 * len(groups)), "traceorder": "normal"}, margin_l=10)
    return figure


# --- the cell -----------------------------------------------------------------------------------------------


def cell_figure(run: Run) -> go.Figure | None:
    """Where devices are, how much bandwidth each gets (area) and how it splits its power (colour); means over rounds.

    Distances are the model's. It has no angles: they are drawn so that devices do not hide each other.
    """
    if run.devices is None or run.allocation is None:
        return None
    device = numbers(run.devices, "distance_m", "gain", "samples")
    distance, mean = device["distance_m"], run.by_device("beta", "alpha", "rho", "q_s", "r_m")
    angle = GOLDEN_ANGLE * np.argsort(np.argsort(distance))
    share = np.nan_to_num(mean["beta"])
    split = bool(np.nanmin(np.where(share > 0, mean["alpha"], np.nan), initial=1.0) < 1.0)
    figure = new_figure(height=500, margin={"l": 8, "r": 8, "t": 44, "b": 8}, showlegend=False)
    radius = run.config.channel.radius_m
    for ring in (radius / 2, radius):
        figure.add_shape(
            type="circle", x0=-ring, x1=ring, y0=-ring, y1=ring, line={"color": GRID, "width": 1}, layer="below"
        )
        figure.add_annotation(
            x=0, y=-ring, text=f"{ring:.0f} m", showarrow=False, font={"size": 10, "color": "#7b8794"}
        )
    marker: dict[str, Any] = {
        "size": 7 + 37 * np.sqrt(share / max(share.max(), 1e-12)),
        "color": mean["alpha"] if split else SIGN,
        "line": {"color": INK, "width": 0.8},
        "opacity": 0.85,
    }
    if split:
        bar = {
            "title": {"text": "power for signs", "side": "top"},
            "orientation": "h",
            "thickness": 10,
            "len": 0.5,
            "y": -0.02,
        }
        bar |= {"x": 0.5, "yanchor": "top", "tickformat": ".0%", "nticks": 3}
        marker |= {"colorscale": "Cividis", "cmin": 0, "cmax": 1, "reversescale": True, "colorbar": bar}
        figure.update_layout(margin_b=64)
    facts = np.stack(
        [
            distance,
            linear_to_db(device["gain"]),
            device["samples"],
            share,
            *(mean[n] for n in ("alpha", "q_s", "r_m")),
        ],
        1,
    )
    hover = (
        "<b>device %{pointNumber}</b><br>%{customdata[0]:.0f} m, gain %{customdata[1]:.1f} dB"
        "<br>%{customdata[2]} samples<br>bandwidth %{customdata[3]:.1%}, power for signs %{customdata[4]:.0%}"
        "<br>sign arrives %{customdata[5]:.1%}, then modulus %{customdata[6]:.1%}<extra></extra>"
    )
    names = [str(k) if size > 15 else "" for k, size in enumerate(marker["size"])]
    ink = ["#fffffe" if not split or alpha > 0.4 else "#000001" for alpha in mean["alpha"]]  # also at night
    figure.add_scatter(
        x=distance * np.cos(angle),
        y=distance * np.sin(angle),
        mode="markers+text",
        marker=marker,
        text=names,
        textfont={"size": 9, "color": ink},
        customdata=facts,
        hovertemplate=hover,
    )
    figure.add_scatter(
        x=[0],
        y=[0],
        mode="markers",
        marker={"symbol": "triangle-up", "size": 14, "color": INK},
        hovertemplate="base station<extra></extra>",
    )
    limit = [-1.08 * radius, 1.08 * radius]
    figure.update_xaxes(visible=False, range=limit, constrain="domain")
    figure.update_yaxes(visible=False, range=limit, scaleanchor="x", constrain="domain")
    return figure


def devices_figure(run: Run) -> go.Figure | None:
    """Bandwidth of each device by packet, and what arrives of it: from the nearest device to the farthest."""
    if run.devices is None or run.allocation is None:
        return None
    order = np.argsort(numbers(run.devices, "distance_m")["distance_m"], kind="stable")
    mean = run.by_device("beta", "rho", "q_s", "r_m", "sign", "modulus")
    names = [str(k) for k in order]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    figure.update_layout(LAYOUT | {"height": 500, "barmode": "stack"})
    figure.update_xaxes(AXIS | {"type": "category", "showgrid": False})
    figure.update_yaxes(AXIS)
    band_of, split = mean["beta"][order], mean["rho"][order]
    bars = (("bandwidth for signs", band_of * split, SIGN), ("bandwidth for moduli", band_of * (1 - split), MODULUS))
    for name, y, colour in bars:
        hover = f"device %{{x}}<br>{name}: %{{y:.2%}}<extra></extra>"
        figure.add_bar(x=names, y=y, name=name, marker_color=colour, hovertemplate=hover, row=1, col=1)
    points = (
        ("sign: predicted", mean["q_s"], SIGN, "line-ew-open"),
        ("sign: observed", mean["sign"], SIGN, "circle"),
        ("both: predicted", mean["q_s"] * mean["r_m"], MODULUS, "line-ew-open"),
        ("both: observed", mean["modulus"], MODULUS, "circle"),
    )
    for name, y, colour, symbol in points:
        size, edge = (6, 0) if symbol == "circle" else (14, 2)
        figure.add_scatter(
            x=names,
            y=y[order],
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": edge}},
            hovertemplate=f"device %{{x}}<br>{name}: %{{y:.1%}}<extra></extra>",
            row=2,
            col=1,
        )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title_text="Bandwidth", row=1, col=1)
    figure.update_yaxes(title_text="Arrives", range=[0, 1.03], row=2, col=1)
    figure.update_xaxes(title_text="Device, from the nearest to the farthest", row=2, col=1)
    return figure
