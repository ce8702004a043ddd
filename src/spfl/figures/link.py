"""Printed figure of a link budget: how often packets arrive against the mean signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spfl.arrays import Floats
from spfl.figures.drawing import draw_line
from spfl.figures.style import SCREEN, FigureStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def link_figure(snr_db: Floats, success: Mapping[str, Floats], style: FigureStyle = SCREEN) -> Figure:
    """Chance that a packet arrives (device,) against `snr_db` (device,), one line a kind of packet by its label."""
    from matplotlib.figure import Figure

    order, looks = np.argsort(snr_db), style.looks(success)
    with style.applied():
        figure = Figure(figsize=style.size(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for label, chance in success.items():
            draw_line(axes, looks[label], (snr_db[order], chance[order]), label)
        axes.set_xlabel("Mean SNR on an equal share of the band (dB)")
        axes.set_ylabel("Chance that the packet arrives")
        axes.set_ylim(-0.02, 1.02)
        axes.legend()
    return figure
