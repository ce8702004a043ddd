"""The workload in spfl: `error_free`, so that what is timed is the round loop and not the radio."""

from __future__ import annotations

import sys
import time
from itertools import pairwise

import numpy as np
import torch
from workload import BATCH, DEVICES, RATE, images, network, report, rounds

from spfl.config.schema import build_config
from spfl.custom import Custom
from spfl.data.dataset import Dataset
from spfl.training import train
from spfl.world.world import World

config = build_config(
    {
        "processes": int(sys.argv[3]) if len(sys.argv) > 3 else 1,
        "data": {"name": "noise", "devices": DEVICES, "min_samples": 1},
        "training": {"rounds": rounds(), "batch_size": BATCH, "rate": RATE, "eval_every": 10**6},
        "channel": {"median_snr_db": 0.0},
        "scheme": {"name": sys.argv[2] if len(sys.argv) > 2 else "error_free"},
    }
)
pixels, labels = (torch.cat(parts) for parts in zip(*map(images, range(DEVICES)), strict=True))
data = Dataset("noise", pixels, labels, pixels[:2], labels[:2], 10)
data.__dict__["normalisation"] = tuple(torch.full((1, 1, 1, 1), x) for x in (1 / 73.9, -127.5 / 73.9))
parts = np.arange(DEVICES * BATCH).reshape(DEVICES, BATCH)
world = World.build(config, data, Custom(module=network(), partition=lambda labels, devices, rng: list(parts)))
ends, weights = [], world.start().weights
for record in train(world):
    ends.append(time.time())
    weights = record.server.weights
report(ends, [weights[a:b] for a, b in pairwise(world.layout.edges)])
