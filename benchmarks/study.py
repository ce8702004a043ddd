"""A sweep of 40 short runs against the bare gradients that it cannot do without.

    python benchmarks/study.py [--rounds 100] [--seeds 10] [--repeats 3] [--out DIR]

The study: four schemes and ten seeds on the embedded digits, one command `spfl sweep`, as many processes as cores. The
limit: the same minibatch gradients and nothing else, in as many processes, each on one thread; its seconds are those
between the first and the last of them, so import, data and start are not in it. Both take turns, and the ratio is the
median over the repeats.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from results import write

from spfl.config.schema import Config, build_config
from spfl.data.dataset import to_inputs
from spfl.data.partitioning import batch_indices
from spfl.data.sources import load_dataset
from spfl.machine import cores
from spfl.rng import Purpose, stream
from spfl.world.world import World

SCHEMES = ("single_packet", "scaled_sign", "sp_fl_normalized", "sp_fl_plus_1")
PLAN = """[base]
"training.rounds" = {rounds}
"training.eval_every" = {rounds}
"data.devices" = 20

[[grid]]
seed = {seeds}
"scheme.name" = {schemes}
"""


def config_of(seed: int, rounds: int) -> Config:
    training = {"rounds": rounds, "eval_every": rounds}
    return build_config({"seed": seed, "data": {"devices": 20}, "training": training})


def gradients(rounds: int, seed: int) -> float:
    """Seconds that the gradients of one run take, on one thread: those of every scheme are the same in number."""
    torch.set_num_threads(1)
    config = config_of(seed, rounds)
    dataset = load_dataset(config.data)
    world = World.build(config, dataset)
    model = world.model()
    model.load(torch.from_numpy(world.start().weights))
    spent = 0.0
    for round_ in range(1, rounds + 1):
        for device in world.cohort(round_):
            rng = stream(seed, round_, device, Purpose.BATCH)
            index = torch.from_numpy(batch_indices(world.parts[device], config.training.batch_size, rng))
            began = time.perf_counter()
            model.loss_and_gradient(to_inputs(dataset.train_inputs[index], dataset), dataset.train_labels[index])
            spent += time.perf_counter() - began
    return spent


def limit_s(rounds: int, seeds: int) -> float:
    """Seconds of all bare gradients over the cores."""
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        each = pool.map(partial(gradients, rounds), list(range(seeds)), chunksize=1)
    return len(SCHEMES) * sum(each) / cores()


def study_s(rounds: int, seeds: int) -> float:
    """Wall-clock seconds of the sweep, from the command to its last line."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "sweep.toml")
        plan.write_text(PLAN.format(rounds=rounds, seeds=list(range(seeds)), schemes=list(SCHEMES)).replace("'", '"'))
        command = [sys.executable, "-m", "spfl", "sweep", str(plan), "--out", str(Path(folder, "out"))]
        began = time.perf_counter()
        subprocess.run([*command, "--workers", str(cores())], check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for repeat in range(arguments.repeats):
        bare, study = limit_s(arguments.rounds, arguments.seeds), study_s(arguments.rounds, arguments.seeds)
        rows.append({"repeat": repeat, "bare_gradients_s": bare, "study_s": study, "ratio": study / bare})
        print(f"bare gradients over {cores()} cores {bare:.2f} s, study {study:.2f} s: {study / bare:.2f} times")
    print(f"median ratio {statistics.median(row['ratio'] for row in rows):.2f}")
    write(arguments.out, "study", rows, vars(arguments))


if __name__ == "__main__":
    main()
