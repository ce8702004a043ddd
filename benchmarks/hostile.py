"""Damage done by hostile devices, with and without the defences of [scheme]: the table of docs/security.md.

Softmax on the digits, 20 devices, 60 rounds, median SNR 6 dB. For each scheme, attack and defence: test accuracy (mean
over the last quarter, then mean and standard deviation over seeds), and the largest mean bandwidth share that hostile
devices got, as a multiple of an equal share. Run: python benchmarks/hostile.py [SEEDS]
"""

from __future__ import annotations

import itertools
import statistics
import sys

from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.training import train
from spfl.world.world import World

SCHEMES = ("sp_fl", "sp_fl_plus_1")
ATTACKS = {
    "none": {},
    "sign_flip x1": {"kind": "sign_flip", "factor": 1.0},
    "sign_flip x10": {"kind": "sign_flip", "factor": 10.0},
    "scale x100": {"kind": "scale", "factor": 100.0},
    "noise x10": {"kind": "noise", "factor": 10.0},
    "nan": {"kind": "nan"},
    "inflate x100": {"kind": "inflate", "factor": 100.0},
    "samples x100": {"kind": "samples", "factor": 100.0},
    "replay": {"kind": "replay"},
    "stale": {"kind": "stale"},
}
CAPS = {"device_clip": 1.5, "max_samples": 2.0, "max_share": 0.1}
DEFENCES = {
    "none": {},
    "caps": CAPS,
    "caps, trimmed_mean": CAPS | {"aggregation": "trimmed_mean", "trim": 0.3},
    "caps, median": CAPS | {"aggregation": "median"},
    "caps, sign_majority": CAPS | {"aggregation": "sign_majority"},
}
HOSTILE = 4


def measure(scheme: str, attack: dict, defence: dict, seed: int) -> tuple[float, float]:
    """Accuracy over the last quarter of the rounds, and the hostile devices' mean share over an equal one."""
    config = build_config(
        {
            "seed": seed,
            "data": {"devices": 20, "partition": "dirichlet", "dirichlet_alpha": 1.0},
            "model": {"name": "softmax"},
            "training": {"rounds": 60, "eval_every": 5, "rate": 0.1},
            "channel": {"median_snr_db": 6.0, "side_information": "reliable"},
            "scheme": {"name": scheme} | ({"weights": "normalized"} if scheme == "sp_fl" else {}) | defence,
            "attack": attack | ({"devices": HOSTILE} if attack else {}),
        }
    )
    world = World.build(config, load_dataset("digits"))
    records = list(train(world))
    late = [r.test_accuracy for r in records if r.test_accuracy is not None and r.round_ > 45]
    hostile = sorted(world.hostile)
    shares = [float(r.allocation.beta[hostile].mean()) * 20 for r in records] if hostile else [float("nan")]
    return statistics.fmean(late), statistics.fmean(shares)


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print("| scheme | attack | " + " | ".join(DEFENCES) + " | share |")
    print("|---|---|" + "---:|" * (len(DEFENCES) + 1))
    for scheme, (name, attack) in itertools.product(SCHEMES, ATTACKS.items()):
        cells, share = [], []
        for defence in DEFENCES.values():
            found = [measure(scheme, attack, defence, seed) for seed in seeds]
            accuracy = [100 * a for a, _ in found]
            spread = f" ± {statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
            cells.append(f"{statistics.fmean(accuracy):.1f}{spread}")
            share.append(statistics.fmean(s for _, s in found))
        print(f"| {scheme} | {name} | {' | '.join(cells)} | {share[0]:.2f} -> {share[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
