"""The workload that all peers share: FedSGD on K devices with a minibatch each, the small CNN, plain SGD at the server.

PEERS_WORKLOAD=20x64 in the environment: 20 devices with 64 images each.

Needs PyTorch and NumPy only, for it is imported in each peer's own virtual environment. Every device uses all of its
images in every round, so all peers compute the same gradients, and must end with the same weights.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import torch
from torch import nn

DEVICES, BATCH = map(int, os.environ.get("PEERS_WORKLOAD", "20x64").split("x"))
RATE = 0.05
STARTED = time.time() - time.process_time()  # as good as the start of the process: nothing else has run


class ChannelsLast(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=torch.channels_last)


def network() -> nn.Module:
    """spfl's small CNN with 16, 32 and 64 channels, d = 33,946, with weights that do not depend on the peer."""
    layers: list[nn.Module] = [ChannelsLast()]
    channels = 3
    for outputs in (16, 32, 64):
        norm = nn.GroupNorm(8, outputs)
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), norm, nn.ReLU()]
        channels = outputs
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 10))
    rng = np.random.default_rng(7)
    with torch.no_grad():
        net[-1].bias.zero_()
        for parameter in net.parameters():
            if parameter.ndim > 1:
                scale = (2 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.from_numpy(rng.normal(0, scale, tuple(parameter.shape)).astype(np.float32)))
    return net


def images(device: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A device's images (noise, grey levels 0..255, uint8) and labels."""
    rng = np.random.default_rng(device)
    pixels = rng.integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(rng.integers(0, 10, BATCH))


def inputs(pixels: torch.Tensor) -> torch.Tensor:
    """Grey levels to network inputs; the constants are those of the workload's own noise, rounded."""
    return pixels.float().sub_(127.5).div_(73.9)


def report(round_ends: list[float], weights: list[np.ndarray]) -> None:
    """One line for `peers.py`: seconds until the first round is over, seconds of each later one, a check of the end."""
    spent = np.diff(round_ends).tolist()
    check = [float(np.linalg.norm(np.concatenate([w.ravel() for w in weights]))), float(weights[-1].sum())]
    print("RESULT " + json.dumps({"start_s": round_ends[0] - STARTED, "round_s": spent, "check": check}), flush=True)


def rounds() -> int:
    return int(sys.argv[1])
