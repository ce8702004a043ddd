"""How every figure looks: colours, dashes, markers, labels of axes, bands around a mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from spfl.arrays import Floats
from spfl.errors import RunFolderError
from spfl.figures.scores import SHARES, axis_label
from spfl.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text


# Okabe and Ito's palette, told apart by the colour-blind; the dashes and markers tell them apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


DASHES = ("-", "--", "-.", ":")


MARKERS = "osD^vPX"


MARKS = 10  # markers along a curve


def draw_line(
    axes: Axes,
    i: int,
    x: NDArray[Any],
    y: NDArray[np.float64],
    band: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    label: str,
    every: tuple[int, int] = (0, 1),
) -> None:
    """Line number `i` of a figure, in its colour, dash and marker, and the band around it."""
    colour = COLOURS[i % len(COLOURS)]
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=DASHES[i % len(DASHES)],
        marker=MARKERS[i % len(MARKERS)],
        markersize=4,
        markevery=every,
        linewidth=1.6,
        label=label,
    )
    if band is not None:
        axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)


def finish_score_axes(axes: Axes, part: str = "Test", metric: str = "accuracy") -> None:
    """Scores on a light grid: shares in per cent, at most 100, other numbers as they are."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(axis_label(metric, part))
    if metric in SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))  # None: as many as ticks need
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.0, axes.get_ylim()[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of its suffix, PNG without one, and return the path of what was written.

    Names in titles and legends are drawn as they are: a dollar sign begins no mathematics.
    Raises RunFolderError for a folder, and for a suffix that matplotlib does not know.
    """
    _as_it_stands(figure)
    try:
        if path.is_dir():
            raise RunFolderError(f"figure {path} is a folder; name a file in it, such as {path / 'accuracy.png'}")
        path = path if path.suffix else path.with_name(f"{path.name}.png")
        drawn = BytesIO()
        figure.savefig(drawn, format=path.suffix[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, drawn.getvalue())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"figure {path} cannot be written: {' '.join(str(error).split())}") from None
    return path


def _as_it_stands(figure: Figure) -> None:
    """No mathematics in titles, legends and labels, whose names are a user's; ticks keep theirs."""
    texts: list[Text] = list(figure.texts)
    for axes in figure.axes:
        legend = axes.get_legend()
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [] if legend is None else [legend.get_title(), *legend.get_texts()]
    for text in texts:
        text.set_parse_math(False)


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
