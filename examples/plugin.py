"""Parts of your own in one file: `spfl run --plugin examples/plugin.py --set scheme.name=mine`."""

from dataclasses import replace

import numpy as np
from torch import nn

import spfl

# Any Scheme of the file can be named by scheme.name, --schemes and a sweep's grid.
MINE = replace(
    spfl.SCHEMES["sp_fl_plus"], name="mine", source="me", summary="sp_fl_plus, equal shares", solver="uniform"
)


def module(channels, height, width, classes):
    """The network; its initial weights are those of the run's seed."""
    pixels = channels * height * width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.Tanh(), nn.Linear(32, classes))


def fades(round_, devices, rng):
    """Power fades of mean one for the signs and for the moduli: here of four antennas."""
    both = rng.exponential(size=(devices, 4)).mean(1)
    return both, both


def spots():
    """A dataset: `data.name = "examples/plugin.py:spots"`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 600)
    images = rng.integers(0, 60, (600, 8, 8), dtype=np.uint8)
    images[np.arange(600), 4 * (labels // 2) + 1, 4 * (labels % 2) + 1] = 255
    return spfl.make_dataset("spots", train=(images[:500], labels[:500]), test=(images[500:], labels[500:]))
