"""Printed figures of runs: accuracy against rounds, and who received what by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Floats
from spfl.figures.drawing import MARKS, band, band_kind, draw_legend, draw_line, finish_accuracy_axes
from spfl.figures.style import SCREEN, FigureStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AccuracyCurve:
    """Test accuracy of runs that differ in the seed only: rounds (evaluation,), accuracy (seed, evaluation)."""

    label: str
    rounds: NDArray[np.int64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class SpentCurve:
    """As `AccuracyCurve`, with what was spent until each evaluation (payload_bits, round_s), each (evaluation,)."""

    label: str
    rounds: NDArray[np.int64]
    accuracy: Floats
    spent: Mapping[str, Floats]


@dataclass(frozen=True)
class Importance:
    """Devices and rounds of some runs, sorted by importance w_k ||v_k|| within their round, in equal groups.

    All arrays are (group,): means over the devices of a group. `share` is in parts of an equal share of the bandwidth.
    """

    label: str
    share: NDArray[np.float64]
    signs: NDArray[np.float64]
    moduli: NDArray[np.float64]


def accuracy_figure(curves: Sequence[AccuracyCurve], title: str = "", style: FigureStyle = SCREEN) -> Figure:
    """Test accuracy against rounds: the mean over seeds, in a band that shows how far it can be trusted."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    labels = [curve.label for curve in curves]
    looks, order = style.looks(labels), style.arranged(labels)
    kind = band_kind(len(curve.accuracy) for curve in curves)
    with style.applied():
        figure = Figure(figsize=style.size(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        for i, curve in enumerate(sorted(curves, key=lambda curve: order.index(curve.label))):
            accuracy, step = curve.accuracy, max(1, curve.accuracy.shape[1] // MARKS)
            every = (i * step // len(curves), step)
            points = (curve.rounds, accuracy.mean(0))
            draw_line(axes, looks[curve.label], points, style.text(curve.label), band(accuracy, kind), every)
        axes.set(xlabel="Communication round", title=style.text(title))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, max(int(curve.rounds[-1]) for curve in curves) * 1.01)
        finish_accuracy_axes(axes)
        draw_legend(figure, kind)
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
        draw_legend(figure)
    return figure


IMPORTANCE_PANELS = ("Bandwidth (1: an equal share)", "Signs received (%)", "Moduli received (%)")
