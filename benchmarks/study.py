"""A sweep of 40 short runs against the bare gradients that it cannot do without.

    python benchmarks/study.py [--config FILE] [--rounds 100] [--seeds 10] [--repeats 3] [--out DIR]

The study: four schemes and ten seeds, on the embedded digits or as FILE has it (data under SPFL_DATA_DIR), one command
`spfl sweep`, as many processes as cores. The limit: the same minibatch gradients and nothing else, in as many
processes, each on one thread; its seconds are those between the first and the last of them, so import, data and start
are not in it. The last round is evaluated, on 300 samples, so that short runs are not all evaluation. Both take turns,
and the ratio is the median over the repeats. "simulated": how well ten times as many
points would be packed on more cores, from the seconds of each, as the sweep hands them out.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from results import write

from spfl.config.files import load_config
from spfl.config.schema import Config
from spfl.data.dataset import to_inputs
from spfl.data.partitioning import batch_indices
from spfl.data.sources import load_dataset
from spfl.machine import cores
from spfl.rng import Purpose, stream
from spfl.world.world import World


@dataclass(frozen=True)
class Study:
    """Of which configuration, how many rounds, and how many seeds."""

    config: Path | None
    rounds: int
    seeds: int


SCHEMES = ("single_packet", "scaled_sign", "sp_fl_normalized", "sp_fl_plus_1")
PLAN = """[base]
{config}"training.rounds" = {rounds}
"training.eval_every" = {rounds}
"training.eval_samples" = 300
"data.devices" = 20

[[grid]]
seed = {seeds}
"scheme.name" = {schemes}
"""


def config_of(study: Study, seed: int) -> Config:
    values = {"seed": seed, "data.devices": 20, "training.rounds": study.rounds, "training.eval_every": study.rounds}
    return load_config(study.config, [f"{key}={value}" for key, value in values.items()])


def gradients(study: Study, seed: int) -> float:
    """Seconds that the gradients of one run take, on one thread: those of every scheme are the same in number."""
    torch.set_num_threads(1)
    rounds, config = study.rounds, config_of(study, seed)
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


def limit_s(study: Study) -> float:
    """Seconds of all bare gradients over the cores."""
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        each = pool.map(partial(gradients, study), list(range(study.seeds)), chunksize=1)
    return len(SCHEMES) * sum(each) / cores()


def study_s(study: Study) -> tuple[float, list[float]]:
    """Wall-clock seconds of the sweep, from the command to its last line, and those of the rounds of each point."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "sweep.toml")
        base = f'config = "{study.config.resolve()}"\n' if study.config else ""
        names = {"seeds": list(range(study.seeds)), "schemes": list(SCHEMES)}
        plan.write_text(PLAN.format(config=base, rounds=study.rounds, **names).replace("'", '"'))
        command = [sys.executable, "-m", "spfl", "sweep", str(plan), "--out", str(Path(folder, "out"))]
        began = time.perf_counter()
        subprocess.run([*command, "--workers", str(cores())], check=True, capture_output=True)
        spent = time.perf_counter() - began
        lines = Path(folder, "out", "results.jsonl").read_text().splitlines()
        return spent, [study.rounds * sum(json.loads(line)["seconds_per_round"].values()) for line in lines]


def packed(seconds: list[float], workers: int) -> float:
    """The end of the last of these points over their sum a worker, each given to the first worker that is free."""
    free = [0.0] * workers
    for point in seconds:
        heapq.heapreplace(free, free[0] + point)
    return max(free) / (sum(seconds) / workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", type=Path, help="TOML of every run; the embedded digits when absent")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    study = Study(given.config, given.rounds, given.seeds)
    rows: list[dict[str, Any]] = []
    for repeat in range(given.repeats):
        bare, (spent, points) = limit_s(study), study_s(study)
        simulated = {f"{10 * len(points)} points on {n} cores": packed(10 * points, n) for n in (2, 16, 64)}
        row = {"repeat": repeat, "bare_gradients_s": bare, "study_s": spent, "ratio": spent / bare}
        rows.append(row | {"points_s": sum(points), "simulated": simulated})
        print(f"bare gradients over {cores()} cores {bare:.2f} s, study {spent:.2f} s: {spent / bare:.2f} times")
    print(f"median ratio {statistics.median(row['ratio'] for row in rows):.2f}")
    write(given.out, f"study_{given.config.stem if given.config else 'digits'}", rows)


if __name__ == "__main__":
    main()
