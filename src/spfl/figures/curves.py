"""Printed figures of runs: accuracy against rounds, and who received what by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Floats
from spfl.figures.drawing import MARKS, band, band_kind, draw_legend, draw_line, finish_score_axes
from spfl.figures.scores import common
from spfl.figures.style import SCREEN, FigureStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ALONG = {  # a key of the metrics: its name on an axis, and in what units of it
    "round": ("Communication round", 1.0),
    "payload_bits": ("Payload sent (Mbit)", 1e-6),
    "round_s": ("Time (s)", 1.0),
    "joules": ("Energy of all devices (J)", 1.0),
}


@dataclass(frozen=True)
class ScoreCurve:
    """Test score of runs that differ in the seed only: rounds (evaluation,), score (seed, evaluation).

    `spent` (evaluation,) is what was spent until each evaluation, where the curve is drawn against that.
    """

    label: str
    rounds: NDArray[np.int64]
    score: NDArray[np.float64]
    metric: str = "accuracy"
    spent: Floats | None = None


@dataclass(frozen=True)
class SpentCurve:
    """As `ScoreCurve`, with what was spent until each evaluation (payload_bits, round_s), each (evaluation,)."""

    label: str
    rounds: NDArray[np.int64]
    score: Floats
    spent: Mapping[str, Floats]
    metric: str = "accuracy"


@dataclass(frozen=True)
class Importance:
    """Devices and rounds of some runs, sorted by importance w_k ||v_k|| within their round, in equal groups.

    All arrays are (group,): means over the devices of a group. `share` is in parts of an equal share of the bandwidth.
    """

    label: str
    share: NDArray[np.float64]
    signs: NDArray[np.float64]
    moduli: NDArray[np.float64]


def score_figure(
    curves: Sequence[ScoreCurve], title: str = "", style: FigureStyle = SCREEN, along: str = "round"
) -> Figure:
    """Test score against rounds, or what was spent: the mean over seeds, in a band that shows how far to trust it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    labels = [curve.label for curve in curves]
    looks, order = style.looks(labels), style.arranged(labels)
    kind, (xlabel, scale) = band_kind(len(curve.score) for curve in curves), ALONG[along]
    with style.applied():
        figure = Figure(figsize=style.size(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        for i, curve in enumerate(sorted(curves, key=lambda curve: order.index(curve.label))):
            score, step = curve.score, max(1, curve.score.shape[1] // MARKS)
            every = (i * step // len(curves), step)
            points = (curve.rounds if curve.spent is None else scale * curve.spent, score.mean(0))
            draw_line(axes, looks[curve.label], points, style.text(curve.label), band(score, kind), every)
        axes.set(xlabel=xlabel, title=style.text(title))
        axes.xaxis.set_major_locator(MaxNLocator(integer=along == "round"))
        ends = [float(curve.rounds[-1] if curve.spent is None else scale * curve.spent[-1]) for curve in curves]
        axes.set_xlim(0, max(ends) * 1.01 or None)
        finish_score_axes(axes, metric=common(curve.metric for curve in curves))
        draw_legend(figure, kind, fixed=style.height_in is not None)
    return figure


def importance_figure(found: Sequence[Importance], title: str = "", style: FigureStyle = SCREEN) -> Figure:
    """Share of the bandwidth, how often signs and moduli are received, from the least to the most important devices."""
    from matplotlib.figure import Figure

    labels = [one.label for one in found]
    looks, order = style.looks(labels), style.arranged(labels)
    with style.applied():
        figure = Figure(figsize=style.size(9.0, 3.4, panels=3), layout="constrained")
        panels = figure.subplots(1, 3)
        for one in sorted(found, key=lambda one: order.index(one.label)):
            x = (np.arange(one.share.size) + 0.5) * 100 / one.share.size
            for axes, values in zip(panels, (one.share, 100 * one.signs, 100 * one.moduli), strict=True):
                draw_line(axes, looks[one.label], (x, values), style.text(one.label))
        for axes, name in zip(panels, IMPORTANCE_PANELS, strict=True):
            axes.set(xlabel="Importance w‖v‖, percentile", ylabel=name, xlim=(0, 100))
            axes.set_ylim(bottom=0)
        figure.suptitle(style.text(title))
        draw_legend(figure, fixed=style.height_in is not None)
    return figure


IMPORTANCE_PANELS = ("Bandwidth (1: an equal share)", "Signs received (%)", "Moduli received (%)")
