"""Bring your own network: any torch.nn.Module from images to logits. Run it with `python examples/own_module.py`."""

import torch
from torch import nn

import spfl

torch.manual_seed(0)  # the module's weights are the first ones of the run
module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))

run = spfl.run("configs/demo.toml", module=module, scheme="sp_fl_plus", overrides={"training.rounds": 30})
print(run)
