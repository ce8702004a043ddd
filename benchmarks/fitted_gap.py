"""What it costs that the allocator reckons with a fitted gap where the link's law has no closed form.

    python benchmarks/fitted_gap.py [--instances 6] [--out DIR]

Under selective fading, measured error rates and all-or-nothing segments the shares are those of exp(-x) at a fitted
gap (docs/radio.md). Here they are held against the best that SciPy finds for the true objective: shares, powers and
split of all devices together, by L-BFGS-B from the allocator's own point, from equal shares and from random ones.
Reported is the true objective of the allocator's point over that of the best one; 1 means that nothing was lost.
Instances are rounds of `sp_fl_plus_1` on the digits, each with another seed and median SNR.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write
from scipy.optimize import minimize

from spfl.allocation.bound import device_cost
from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.fleet.threads import ThreadFleet
from spfl.radio.outage import success
from spfl.training import Stopwatch, prepare
from spfl.uplink.scheduling import objective, share_resources
from spfl.world.world import World

Floats = NDArray[np.float64]
DEVICES = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "closed form (nothing fitted)": {},
    "4 subbands": {"fading": "selective", "subbands": 4},
    "error rates": {"link": "bler"},
    "Rician, K = 6 dB": {"fading": "rician", "rician_k_db": 6.0},
    "Nakagami, m = 2": {"fading": "nakagami", "nakagami_m": 2.0},
    "log-normal, 4 dB": {"fading": "lognormal", "fade_spread_db": 4.0},
    "segments, all or nothing": {"fading": "independent", "segment_bits": 640},
    "segments, one by one": {"fading": "independent", "segment_bits": 640, "recovery": "segment"},
}


def split(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Free numbers (3 K,) to beta (a softmax), alpha and rho (logistic)."""
    weight = np.exp(x[:DEVICES] - x[:DEVICES].max())
    inside = 1.0 / (1.0 + np.exp(-np.clip(x[DEVICES:], -30, 30)))
    return weight / weight.sum(), inside[:DEVICES], inside[DEVICES:]


def merge(beta: Floats, alpha: Floats, rho: Floats) -> Floats:
    inside = np.clip(np.concatenate([alpha, rho]), 1e-9, 1 - 1e-9)
    return np.concatenate([np.log(np.maximum(beta, 1e-9)), np.log(inside / (1 - inside))])


def instance(channel: dict[str, Any], seed: int) -> float:
    """True objective of the allocator's point over that of the best one found."""
    rng = np.random.default_rng(seed)
    config = build_config(
        {
            "seed": seed,
            "data": {"devices": DEVICES},
            "model": {"name": "softmax"},
            "channel": {"median_snr_db": float(rng.uniform(-4, 6)), "symbols_per_parameter": 2.0} | channel,
            "scheme": {"name": "sp_fl_plus_1"},
        }
    )
    world = World.build(config, load_dataset("digits"))
    with ThreadFleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    plan = prepare(world, world.start(), uploads, 1, Stopwatch())
    rule = objective(world.scheme, plan.devices, config.scheme, None)
    link = plan.link

    def true_cost(beta: Floats, alpha: Floats, rho: Floats) -> float:
        odds = (success if link.law is None else link.law.success)(link, beta, alpha, rho)
        heard = beta > 0
        q_s, r_m = np.where(heard, odds.q_s, 0.0), np.where(heard, odds.r_m, 0.0)
        return float(device_cost(plan.devices, q_s, r_m, rule).sum())

    found = share_resources(world.format, plan.devices, link, plan.fades)
    own = true_cost(found.beta, found.alpha, found.rho)
    starts = [merge(found.beta, found.alpha, found.rho), np.zeros(3 * DEVICES), *rng.normal(0, 1.5, (4, 3 * DEVICES))]
    best = min(
        float(minimize(lambda x: true_cost(*split(x)), x, method="L-BFGS-B", options={"maxiter": 150}).fun)
        for x in starts
    )
    return own / min(best, own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for option, channel in OPTIONS.items():
        ratios = [instance(channel, seed) for seed in range(given.instances)]
        rows.append({"option": option, "median": statistics.median(ratios), "largest": max(ratios), "ratios": ratios})
        print(option, [round(r, 4) for r in ratios], flush=True)
    write(given.out, "fitted_gap", {"devices": DEVICES, "instances": given.instances, "rows": rows})


if __name__ == "__main__":
    main()
