"""What replaying CUDA graphs gains in small rounds: gradients of a round, and local steps, against plain calls.

    python benchmarks/graphs.py [--devices 20] [--width 16] [--batch 64] [--repeats 20] [--out DIR]

Both compute the same kernels in the same order, so that their bits are compared too. It needs a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu import finish, noise
from results import write
from torch.func import grad_and_value, vmap

from spfl.config.schema import Config, build_config
from spfl.flat_model import FlatModel
from spfl.fleet.gpu import TorchFleet
from spfl.fleet.gpu_steps import Steps
from spfl.world.torch_device import repeatable
from spfl.world.world import World

STEPS = 30  # local steps of a device


def config_of(given: argparse.Namespace, **training: Any) -> Config:
    sections = {
        "torch_device": "cuda",
        "data": {"devices": given.devices},
        "model": {"name": "small_cnn", "width": given.width},
        "training": {"batch_size": given.batch, "rounds": 5, **training},
        "scheme": {"name": "drive"},
    }
    return build_config(sections)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    device = torch.device("cuda")
    for _ in range(4):
        work()
    finish(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    finish(device)
    return 1e3 * (time.perf_counter() - began) / repeats


def gradients(given: argparse.Namespace) -> dict[str, object]:
    """The gradients of all devices of a round at once."""
    world = World.build(config_of(given), noise(200 * given.devices))
    with TorchFleet(world) as fleet, repeatable():
        weights = torch.from_numpy(world.start().weights).cuda()
        _, (inputs, labels, _) = next(fleet._batches(range(given.devices), 1))
        plain = vmap(grad_and_value(fleet._loss), in_dims=(None, 0, 0))
        called = milliseconds(lambda: plain(weights, inputs, labels), given.repeats)
        replayed = milliseconds(lambda: fleet._many(weights, inputs, labels), given.repeats)
        both = zip(plain(weights, inputs, labels), fleet._many(weights, inputs, labels), strict=True)
        return {
            "what": "gradients of a round", "dim": world.layout.size, "called_ms": called, "replayed_ms": replayed,
            "same_bits": all(torch.equal(a, b) for a, b in both),
        }  # fmt: skip


def local_steps(given: argparse.Namespace) -> dict[str, object]:
    """A step of one device, minibatch and optimiser included."""
    settings = {"local_steps": STEPS, "local_rate": 0.05, "local_momentum": 0.9}
    world = World.build(config_of(given, **settings), noise(200 * given.devices))
    data, weights = world.dataset.on(torch.device("cuda")), torch.from_numpy(world.start().weights).cuda()
    replayed, plain = (Steps(world, world.model().module.cuda(), data) for _ in range(2))
    plain._model = FlatModel(plain._model.module, plain._model.task)
    with repeatable():
        called_ms = milliseconds(lambda: plain.take(weights, 0, 1, {}), given.repeats) / STEPS
        replayed_ms = milliseconds(lambda: replayed.take(weights, 0, 1, {}), given.repeats) / STEPS
        a, b = plain.take(weights, 0, 1, {}), replayed.take(weights, 0, 1, {})
    return {
        "what": "a local step", "dim": world.layout.size, "called_ms": called_ms, "replayed_ms": replayed_ms,
        "same_bits": bool(np.array_equal(a.vector, b.vector)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name, value in {"devices": 20, "width": 16, "batch": 64, "repeats": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("graphs are CUDA's: PyTorch sees no GPU here")
    rows = [{"devices": given.devices, "batch": given.batch} | work(given) for work in (gradients, local_steps)]
    write(given.out, "graphs", rows)


if __name__ == "__main__":
    main()
