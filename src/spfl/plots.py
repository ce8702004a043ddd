"""Figures of finished and of running experiments, from their folders alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spfl.config import NO_EFFECT
from spfl.errors import RunFolderError
from spfl.experiment import flatten, read_config
from spfl.runlog import ALLOCATION, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind; the dashes and markers tell them apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
MARKS = 10  # markers along a curve


@dataclass(frozen=True)
class Curve:
    """Test accuracy of runs that differ in the seed only: rounds (evaluation,), accuracy (seed, evaluation)."""

    label: str
    rounds: NDArray[np.int64]
    accuracy: NDArray[np.float64]


def read_curves(folders: Iterable[Path]) -> list[Curve]:
    """Curves of run folders, those of one configuration together, in the order in which they are met.

    A label is the scheme, and each setting in which the configurations differ. Unfinished runs shorten the curve.
    Raises RunFolderError for a folder that is no run or has no evaluation yet.
    """
    return [_curve(label, members) for label, members in group_runs(folders).items()]


def group_runs(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Run folders that differ in the seed only, by a label that tells the groups apart, in the order they are met.

    Raises RunFolderError for a folder that is no run.
    """
    groups: dict[tuple[Any, ...], list[Path]] = {}
    for folder in folders:
        settings = flatten(read_config(folder))
        key = tuple((name, value) for name, value in settings.items() if name not in ("seed", *NO_EFFECT))
        groups.setdefault(key, []).append(folder)
    return dict(zip(_labels([dict(key) for key in groups]), groups.values(), strict=True))


def _labels(settings: Sequence[dict[str, Any]]) -> list[str]:
    differ = [key for key in settings[0] if len({str(s[key]) for s in settings}) > 1] if settings else []
    notes = [[f"{key} = {s[key]}" for key in differ if key != "scheme.name"] for s in settings]
    return [
        s["scheme.name"] + (f" ({', '.join(note)})" if note else "") for s, note in zip(settings, notes, strict=True)
    ]


def _curve(label: str, folders: Sequence[Path]) -> Curve:
    series = [
        [(m["round"], m["test_accuracy"]) for m in read_metrics(folder) if m["test_accuracy"] is not None]
        for folder in folders
    ]
    length = min(map(len, series))
    if not length:
        empty = folders[[len(s) for s in series].index(0)]
        raise RunFolderError(f"{empty} has no evaluation yet")
    table = np.array([s[:length] for s in series])
    return Curve(label, table[0, :, 0].astype(np.int64), table[:, :, 1])


def accuracy_figure(curves: Sequence[Curve], title: str = "") -> Figure:
    """Test accuracy against rounds: the mean over seeds, in a band from the lowest to the highest of them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        accuracy, seeds, step = curve.accuracy, len(curve.accuracy), max(1, curve.accuracy.shape[1] // MARKS)
        band = (accuracy.min(0), accuracy.max(0)) if seeds > 1 else None
        every = (i * step // max(len(curves), 1), step)
        draw_line(axes, i, curve.rounds, accuracy.mean(0), band, f"{curve.label}  (n = {seeds})", every)
    several = any(len(curve.accuracy) > 1 for curve in curves)
    axes.set(xlabel="Communication round", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, max(int(curve.rounds[-1]) for curve in curves) * 1.01)
    finish_accuracy_axes(axes)
    axes.legend(
        frameon=False,
        loc="lower right",
        handlelength=3.2,
        title="mean, lowest and highest of n seeds" if several else None,
        title_fontsize="small",
        fontsize="small",
    )
    return figure


@dataclass(frozen=True)
class Importance:
    """Devices and rounds of some runs, sorted by importance w_k ||v_k|| within their round, in equal groups.

    All arrays are (group,): means over the devices of a group. `share` is in parts of an equal share of the band.
    """

    label: str
    share: NDArray[np.float64]
    signs: NDArray[np.float64]
    moduli: NDArray[np.float64]


def read_importance(folders: Iterable[Path], groups: int = 5) -> list[Importance]:
    """What devices got and how often they were heard, by importance, of finished runs; seeds together.

    Raises RunFolderError for a folder that is no run, or that has no finished allocation.parquet with weights.
    """
    return [_importance(label, members, groups) for label, members in group_runs(folders).items()]


def _importance(label: str, folders: Sequence[Path], groups: int) -> Importance:
    columns = ["round", "weight", "gradient_norm", "beta", "sign", "modulus"]
    means = []
    for folder in folders:
        try:
            table = pq.read_table(folder / ALLOCATION, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise RunFolderError(f"{folder / ALLOCATION} has no allocations by importance: {error}") from None
        rows = {name: table[name].to_numpy() for name in columns}
        rounds, size = np.unique(rows["round"]).size, table.num_rows // np.unique(rows["round"]).size
        order = np.argsort((rows["weight"] * rows["gradient_norm"]).reshape(rounds, size), axis=1, kind="stable")
        sorted_ = {name: np.take_along_axis(v.reshape(rounds, size), order, axis=1) for name, v in rows.items()}
        parts = np.array_split(np.arange(size), min(groups, size))
        share, signs, moduli = sorted_["beta"] * size, sorted_["sign"], sorted_["modulus"] & sorted_["sign"]
        means.append([[float(values[:, part].mean()) for part in parts] for values in (share, signs, moduli)])
    return Importance(label, *np.mean(means, axis=0))


def importance_figure(found: Sequence[Importance], title: str = "") -> Figure:
    """Share of the band, and how often signs and moduli are heard, from the least to the most important devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), dpi=200, layout="constrained")
    panels = figure.subplots(1, 3)
    for i, one in enumerate(found):
        x = (np.arange(one.share.size) + 0.5) * 100 / one.share.size
        for axes, values in zip(panels, (one.share, 100 * one.signs, 100 * one.moduli), strict=True):
            draw_line(axes, i, x, values, None, one.label)
    names = ("Band (1: an equal share)", "Signs heard (%)", "Moduli heard (%)")
    for axes, name in zip(panels, names, strict=True):
        axes.set(xlabel="Importance w‖v‖, percentile", ylabel=name, xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.suptitle(title)
    panels[0].legend(frameon=False, fontsize="small", handlelength=3.2)
    return figure


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


def finish_accuracy_axes(axes: Axes, part: str = "Test") -> None:
    """Accuracy in per cent, at most 100, on a light grid."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(f"{part} accuracy (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))  # None: as many as the ticks need
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.0, axes.get_ylim()[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix. Raises RunFolderError for a suffix matplotlib does not know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"figure {path} cannot be written: {error}") from None
