"""Rounds a second with everything on one PyTorch device, and the share of what its matrix products reach.

    python benchmarks/gpu.py [--device cuda] [--tf32] [--devices 1000] [--width 32] [--batch 64] [--rounds 10]

Whole rounds of `error_free` and of `sp_fl_plus_1`: gradients, rotation, codec and aggregation on the device, allocation
on the host. The defaults fill an H100 (the chunk of devices computed at a time follows from its memory). On the CPU
(`--device cpu`, smaller by itself) it tells what the same code costs there, on the one thread that it uses; worker
threads take turns with it in the same run. The ceiling is the best of square products on the device in the precision
of the run: float32, or TF32 with `--tf32`; both are told. Images are noise: times do not depend on what is in them.
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
from spfl.config.schema import Config, build_config
from spfl.data.dataset import Dataset
from spfl.fleet.threads import keep_freed_memory
from spfl.world.torch_device import device_name, find_device, repeatable
from spfl.world.world import World


def noise(images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images + 100, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images + 100,), generator=generator)
    return Dataset("noise", pixels[:images], labels[:images], pixels[images:], labels[images:], 10)


@repeatable()
def ceiling(device: torch.device) -> float:
    """Multiply-adds a second of the best square product, in PyTorch's present precision for float32 matrices."""
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


def ceilings(device: torch.device, tf32: bool) -> dict[str, float]:
    """The ceiling in each precision; the precision of the run, which stays set, comes last."""
    rates = {}
    for name in ("float32", "tf32") if tf32 else ("tf32", "float32"):
        if device.type == "cuda" or name == "float32":
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            rates[name] = ceiling(device)
    return rates


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(configs: dict[str, Config], data: Dataset, rounds: int) -> dict[str, dict[str, Any]]:
    """Of each configuration, which take turns: seconds of a round after the first, and the share of each phase."""
    runs = {name: training.train(World.build(config, data)) for name, config in configs.items()}
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
    for _ in range(rounds + 1):
        for name, records in runs.items():
            seconds = next(records).seconds
            spent[name].append({phase: s for phase, s in seconds.items() if phase != "evaluate"})
    found = {}
    for name, phases in spent.items():
        whole = [sum(seconds.values()) for seconds in phases[1:]]
        share = {k: statistics.median(p[k] / s for p, s in zip(phases[1:], whole, strict=True)) for k in phases[1]}
        found[name] = {"round_s": whole, "share": share}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tf32", action="store_true", help="convolutions and products in TF32")
    parser.add_argument("--devices", type=int, help="devices of the cell; 1,000 on a GPU, 20 on the CPU")
    parser.add_argument("--width", type=int, help="channels; 32 on a GPU, 16 on the CPU")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--scheme", nargs="+", default=["error_free", "sp_fl_plus_1"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    device = find_device(given.device)
    gpu = device.type == "cuda"
    count, width = given.devices or (1000 if gpu else 20), given.width or (32 if gpu else 16)
    data, rows, rates = noise(max(20 * count, 2000)), [], ceilings(device, given.tf32)
    precision, best = list(rates.items())[-1]
    for scheme in given.scheme:
        config = build_config(
            {
                "torch_device": given.device,
                "data": {"name": "noise", "devices": count, "partition": "iid"},
                "model": {"name": "small_cnn", "width": width},
                "training": {"rounds": given.rounds + 2, "batch_size": given.batch, "eval_every": 10**6},
                "channel": {"median_snr_db": 3.0},
                "scheme": {"name": scheme},
            }
        )
        ways = measure(
            {"here": config, "threads": config.model_copy(update={"torch_device": None})}, data, given.rounds
        )
        world, index = World.build(config, data), torch.arange(given.batch)
        adds = count * multiply_adds(world.model(), [(data.train_inputs[index].float(), data.train_labels[index])])
        round_s = statistics.median(ways["here"]["round_s"])
        ratios = [b / a for a, b in zip(ways["here"]["round_s"], ways["threads"]["round_s"], strict=True)]
        row = {
            "scheme": scheme,
            "dim": world.layout.size,
            "rounds_a_second": 1 / round_s,
            "share_of_round": ways["here"]["share"],
            "share_of_matrix_rate": adds / round_s / best,
            "speed_over_worker_threads": {
                "median": statistics.median(ratios),
                "least": min(ratios),
                "largest": max(ratios),
            },
        }
        if gpu:
            row["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(row)
    sizes = {"devices": count, "width": width, "batch": given.batch, "rounds": given.rounds}
    about = {"device": device_name(given.device), "precision": precision, "matrix_rate_mac_s": rates} | sizes
    write(given.out, "gpu", about | {"rows": rows})


if __name__ == "__main__":
    main()
