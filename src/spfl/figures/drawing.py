"""What all printed figures draw alike: lines and the bands around them, axes of accuracy, names of axes."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from spfl.arrays import Floats
from spfl.figures.looks import Look
from spfl.figures.scores import SHARES, axis_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DASHES: dict[str, Any] = {"solid": "-", "dashed": "--", "dashdot": "-.", "dotted": ":", "long": (0, (9, 2.5))}
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "down": "v", "plus": "P", "cross": "X"}
MARKERS |= {"left": "<", "right": ">", "star": "*", "pentagon": "p"}
MARKS = 10  # markers along a curve


def draw_line(
    axes: Axes,
    look: Look,
    points: tuple[NDArray[Any], NDArray[np.float64]],
    label: str,
    band: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    every: tuple[int, int] = (0, 1),
) -> None:
    """A line through points (x, y) in its colour, dash and marker, and the band around it."""
    axes.plot(
        *points,
        color=look.colour,
        linestyle=DASHES[look.dash],
        marker=MARKERS[look.marker],
        markevery=every,
        label=label,
    )
    if band is not None:
        axes.fill_between(points[0], *band, color=look.colour, alpha=0.15, linewidth=0)


def finish_score_axes(axes: Axes, part: str = "Test", metric: str = "accuracy") -> None:
    """Scores: shares in per cent, at most 100, other numbers as they are."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(axis_label(metric, part))
    if metric in SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))  # None: as many as ticks need
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.0, axes.get_ylim()[1]))


LETTER = 0.5  # width of a letter in font sizes
LEGEND_SHARE = 0.25  # of a figure's height; a larger legend makes the figure higher
LINE_HEIGHT = 1.55  # of a legend, in font sizes


def draw_legend(figure: Figure, note: str = "", *, fixed: bool = False) -> None:
    """One legend below all panels, in as many columns as fit, under a note on what the bands are.

    The figure grows by what the legend needs beyond its share, unless its height is fixed.
    """
    handles: dict[Any, Any] = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    from matplotlib import rcParams

    font_in = rcParams["font.size"] / 72
    entry_in = LETTER * font_in * (max(map(len, handles)) + rcParams["legend.handlelength"] + 5)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / entry_in)))
    legend_in = LINE_HEIGHT * font_in * (math.ceil(len(handles) / columns) + bool(note))
    if not fixed:
        figure.set_figheight(figure.get_figheight() + max(0.0, legend_in - LEGEND_SHARE * figure.get_figheight()))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, title=note or None)


def wrapped(text: str, width_in: float) -> str:
    """A title in lines that fit over a panel of this width, its axis labels included."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    size = FontProperties(size=rcParams["axes.titlesize"]).get_size_in_points()
    return textwrap.fill(text, max(12, int(0.75 * width_in / (LETTER * size / 72))))


LABELS = {
    "channel.median_snr_db": "Median SNR (dB)",
    "channel.power_dbm": "Transmit power (dBm)",
    "channel.bandwidth_hz": "Bandwidth (Hz)",
    "channel.tau_s": "Uplink time of a round (s)",
    "channel.symbols_per_parameter": "Complex symbols per parameter and device",
    "data.dirichlet_alpha": "Dirichlet concentration \N{GREEK SMALL LETTER ALPHA}",
    "data.devices": "Devices",
    "data.cohort_size": "Devices of a round",
    "codec.bits": "Bits of a modulus",
    "training.rate": "Learning rate",
    "training.batch_size": "Batch size",
    "training.local_steps": "Local steps",
    "scheme.shrink": "Shrinkage of the stand-in modulus",
}


def band_kind(counts: Iterable[int]) -> str:
    """What a band shows: a confidence interval needs three seeds everywhere; two have extremes, one has none."""
    fewest, most = (min(found), max(found)) if (found := list(counts)) else (1, 1)
    n = f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"
    if fewest >= 3:
        return f"mean and its 95 % confidence interval, {n}"
    return f"mean, lowest and highest, {n}" if most > 1 else n


def band(values: Floats, kind: str) -> tuple[Floats, Floats] | None:
    """Lower and upper edge (x,) of values (seed, x); None for one seed."""
    if len(values) < 2:
        return None
    if "95 %" not in kind:
        return values.min(0), values.max(0)
    half = np.array([half_width(column) or 0.0 for column in values.T.tolist()])
    return values.mean(0) - half, values.mean(0) + half


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % t interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
