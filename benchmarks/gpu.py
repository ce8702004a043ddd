"""Rounds a second with everything on one PyTorch device, and the share of what its matrix products reach.

    python benchmarks/gpu.py [--device cuda] [--devices 1000] [--width 32] [--batch 64] [--rounds 10] [--out DIR]

Whole rounds of `sp_fl_plus` and of `error_free`: gradients, rotation, codec and aggregation on the device, allocation
on the host. The defaults fill an H100 (the chunk of devices computed at a time follows from its memory). On the CPU
(`--device cpu`, smaller by itself) it tells what the same code costs there, over worker threads in the same run. The
ceiling is the best of square float32 products on the device, with TF32 where PyTorch's convolutions use it. Images
are noise: times do not depend on what is in them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from limit import multiply_adds
from results import write

from spfl import training
from spfl.config import Config, build_config
from spfl.data import Dataset
from spfl.fleet import keep_freed_memory
from spfl.torch_device import device_name, find_device
from spfl.world import World


def noise(images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images + 100, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images + 100,), generator=generator)
    return Dataset("noise", pixels[:images], labels[:images], pixels[images:], labels[images:], 10)


def ceiling(device: torch.device) -> float:
    """Multiply-adds a second of the best square float32 product."""
    torch.backends.cuda.matmul.allow_tf32 = True
    best, sizes = 0.0, (1024, 2048, 4096, 8192) if device.type == "cuda" else (512, 1024)
    for size in sizes:
        a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
        for _ in range(4):
            finish(device)
            began = time.perf_counter()
            for _ in range(4):
                a @ b
            finish(device)
            best = max(best, 4 * size**3 / (time.perf_counter() - began))
    return best


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(config: Config, data: Dataset, rounds: int) -> dict[str, Any]:
    """Seconds of a round, median over `rounds` after the first, and by phase."""
    seconds, phases = [], {}
    for record in training.train(World.build(config, data)):
        spent = {phase: s for phase, s in record.seconds.items() if phase != "evaluate"}
        if record.round_ > 1:
            seconds.append(sum(spent.values()))
            for phase, s in spent.items():
                phases.setdefault(phase, []).append(s)
        if record.round_ > rounds:
            break
    whole = statistics.median(seconds)
    return {"round_s": whole, "share": {phase: statistics.median(s) / whole for phase, s in phases.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--devices", type=int, help="devices of the cell; 1,000 on a GPU, 20 on the CPU")
    parser.add_argument("--width", type=int, help="channels; 32 on a GPU, 16 on the CPU")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--scheme", nargs="+", default=["error_free", "sp_fl_plus"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    device = find_device(given.device)
    gpu = device.type == "cuda"
    count, width = given.devices or (1000 if gpu else 20), given.width or (32 if gpu else 16)
    data, rows, best = noise(max(20 * count, 2000)), [], ceiling(device)
    for scheme in given.scheme:
        config = build_config(
            {
                "torch_device": given.device,
                "data": {"name": "noise", "devices": count, "partition": "iid"},
                "model": {"name": "small_cnn", "width": width},
                "training": {"rounds": given.rounds + 1, "batch_size": given.batch, "eval_every": 10**6},
                "channel": {"median_snr_db": 3.0},
                "scheme": {"name": scheme},
            }
        )
        found = measure(config, data, given.rounds)
        world = World.build(config, data)
        index = torch.arange(given.batch)
        batch = (data.train_images[index].float(), data.train_labels[index])
        adds = count * multiply_adds(world.model(), [batch])
        found |= {"scheme": scheme, "rounds_a_second": 1 / found["round_s"], "dim": world.layout.size}
        found["share_of_matrix_rate"] = adds / found["round_s"] / best
        threads = measure(config.model_copy(update={"torch_device": None}), data, min(given.rounds, 3))
        found["round_s_of_threads_over_this"] = threads["round_s"] / found["round_s"]
        if gpu:
            found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(found)
    sizes = {"devices": count, "width": width, "batch": given.batch, "rounds": given.rounds}
    write(given.out, "gpu", {"device": device_name(given.device), "matrix_rate_mac_s": best, **sizes, "rows": rows})


if __name__ == "__main__":
    main()
