"""What all printed figures draw alike: lines and the bands around them, axes of accuracy, names of axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from spfl.arrays import Floats
from spfl.figures.looks import Look

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


def finish_accuracy_axes(axes: Axes, part: str = "Test") -> None:
    """Accuracy in per cent, at most 100."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(f"{part} accuracy (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))  # None: as many as the ticks need
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.0, axes.get_ylim()[1]))


def draw_legend(figure: Figure, note: str = "") -> None:
    """One legend below all panels, in as many columns as fit, under a note on what the bands are."""
    handles: dict[Any, Any] = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    from matplotlib import rcParams

    letter_in = 0.5 * rcParams["font.size"] / 72
    entry_in = letter_in * (max(map(len, handles)) + rcParams["legend.handlelength"] + 5)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / entry_in)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, title=note or None)


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
