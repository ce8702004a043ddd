"""Printed figures of runs: accuracy against rounds, and who received what by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Floats
from spfl.figures.scores import common
from spfl.figures.style import MARKS, draw_line, finish_score_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ScoreCurve:
    """Test score of runs that differ in the seed only: rounds (evaluation,), score (seed, evaluation)."""

    label: str
    rounds: NDArray[np.int64]
    score: NDArray[np.float64]
    metric: str = "accuracy"


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


def accuracy_figure(curves: Sequence[ScoreCurve], title: str = "") -> Figure:
    """Test score against rounds: the mean over seeds, in a band from the lowest to the highest of them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        score, seeds, step = curve.score, len(curve.score), max(1, curve.score.shape[1] // MARKS)
        band = (score.min(0), score.max(0)) if seeds > 1 else None
        every = (i * step // max(len(curves), 1), step)
        draw_line(axes, i, curve.rounds, score.mean(0), band, f"{curve.label}  (n = {seeds})", every)
    several = any(len(curve.score) > 1 for curve in curves)
    axes.set(xlabel="Communication round", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, max(int(curve.rounds[-1]) for curve in curves) * 1.01)
    finish_score_axes(axes, metric=common(curve.metric for curve in curves))
    axes.legend(
        frameon=False,
        loc="lower right",
        handlelength=3.2,
        title="mean, lowest and highest of n seeds" if several else None,
        title_fontsize="small",
        fontsize="small",
    )
    return figure


def importance_figure(found: Sequence[Importance], title: str = "") -> Figure:
    """Bandwidth share, and how often signs and moduli are received, from the least to the most important devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), dpi=200, layout="constrained")
    panels = figure.subplots(1, 3)
    for i, one in enumerate(found):
        x = (np.arange(one.share.size) + 0.5) * 100 / one.share.size
        for axes, values in zip(panels, (one.share, 100 * one.signs, 100 * one.moduli), strict=True):
            draw_line(axes, i, x, values, None, one.label)
    names = ("Bandwidth (1: an equal share)", "Signs received (%)", "Moduli received (%)")
    for axes, name in zip(panels, names, strict=True):
        axes.set(xlabel="Importance w‖v‖, percentile", ylabel=name, xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.suptitle(title)
    panels[0].legend(frameon=False, fontsize="small", handlelength=3.2)
    return figure
