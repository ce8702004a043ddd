"""The CNN of the NIID-Bench study (Li et al., ICDE 2022): two 5 x 5 convolutions, three linear layers, 62,006 weights.

    spfl run configs/niid/cnn.toml --data-dir DIR

The configuration names it by `model.factory`; run from the folder that holds `examples`.
"""

from __future__ import annotations

from torch import nn


def simple_cnn(channels: int, num_classes: int) -> nn.Module:
    """For images of 32 x 32."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)),
    )
