"""Cost of a round against the size of the population, for a cohort that stays the same.

    python benchmarks/population.py [--populations 1e2 1e3 1e4 1e5 1e6] [--cohort 20] [--rounds 30] [--out DIR]

`sampled` partition, `sp_fl_plus_1` on digits, full rounds without evaluation. All populations take turns, round by
round, in one process; a ratio is the median over turns of seconds a round over that of the smallest population.
Start-up is what comes before the first round: placing every device in the cell is the only part that grows.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from pathlib import Path

from results import write

from spfl import training
from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.world.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--populations", type=float, nargs="+", default=[1e2, 1e3, 1e4, 1e5, 1e6])
    parser.add_argument("--cohort", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data, running, start_s, kept = load_dataset("digits"), {}, {}, {}
    for population in map(int, given.populations):
        config = build_config(
            {
                "data": {"devices": population, "cohort_size": given.cohort, "partition": "sampled"},
                "training": {"rounds": given.rounds + 1, "eval_every": 10**6},
                "scheme": {"name": "sp_fl_plus_1"},
            }
        )
        tracemalloc.start()
        began = time.perf_counter()
        world = World.build(config, data)
        world.radio.cell(1)
        start_s[population], kept[population] = time.perf_counter() - began, tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        running[population] = training.train(world)
        next(running[population])
    spent: dict[int, list[float]] = {population: [] for population in running}
    for _ in range(given.rounds - 1):
        for population, records in running.items():
            began = time.perf_counter()
            next(records)
            spent[population].append(time.perf_counter() - began)
    first = spent[min(spent)]
    rows = [
        {
            "population": population,
            "round_over_smallest": statistics.median(a / b for a, b in zip(values, first, strict=True)),
            "world_mib": kept[population] / 2**20,
            "world_s": start_s[population],
        }
        for population, values in spent.items()
    ]
    write(given.out, "population", {"cohort": given.cohort, "rounds": given.rounds, "points": rows})


if __name__ == "__main__":
    main()
