"""Printed figure of a link budget: how often packets arrive against the mean signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spfl.arrays import Floats
from spfl.figures.style import draw_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def link_figure(snr_db: Floats, success: Mapping[str, Floats]) -> Figure:
    """Chance that a packet arrives (device,) against `snr_db` (device,), one line a kind of packet by its label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    order = np.argsort(snr_db)
    for i, (label, chance) in enumerate(success.items()):
        draw_line(axes, i, snr_db[order], chance[order], None, label)
    axes.set_xlabel("Mean SNR on an equal share of the bandwidth (dB)")
    axes.set_ylabel("Chance that the packet arrives")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
