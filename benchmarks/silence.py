"""What unbiased weights make of a cell: devices received and cost, by the rules of docs/allocation.md.

python benchmarks/silence.py
"""

from __future__ import annotations

import itertools

import numpy as np

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective
from spfl.allocation.problem import Limits
from spfl.radio.outage import Link

BANDWIDTH_HZ, NOISE_W_PER_HZ, POWER_W, DIM, DEVICES, SEEDS = 1e7, 4e-21, 0.01, 20_000, 20, 6
RULES = {
    "serving all": Limits(allow_drop=False, tolerance=1e-3),
    "leave to drop": Limits(keep_received=False, tolerance=1e-3),
    "and the floor": Limits(tolerance=1e-3),
}


def cell(seed: int, spread_db: float, snr_db: float, symbols: float) -> tuple[Devices, Link]:
    """Log-normal gains around a median SNR on an equal share, log-normal gradient norms."""
    g = np.random.default_rng(seed)
    gain = 10 ** (g.normal(0, spread_db, DEVICES) / 10)
    gain *= 10 ** (snr_db / 10) * NOISE_W_PER_HZ * BANDWIDTH_HZ / DEVICES / POWER_W / np.median(gain)
    v2 = g.lognormal(0, 0.5, DEVICES)
    vbar2 = 0.7 * v2
    weight = g.dirichlet(np.full(DEVICES, 3.0))
    tau_s = np.full(DEVICES, symbols * DEVICES * DIM / BANDWIDTH_HZ)
    signs, moduli = np.full(DEVICES, DIM), np.full(DEVICES, 3 * DIM + 64)
    link = Link(BANDWIDTH_HZ, NOISE_W_PER_HZ, np.full(DEVICES, POWER_W), gain, tau_s, signs, moduli)
    return Devices(weight, v2, vbar2, 0.7 * np.sqrt(v2 * vbar2), 0.1 * v2), link


def main() -> None:
    for spread_db, snr_db, symbols in itertools.product((2.0, 8.0, 15.0), (-3.0, 3.0, 9.0), (1.0, 2.0, 4.0)):
        problems = [cell(seed, spread_db, snr_db, symbols) for seed in range(SEEDS)]
        equal = np.mean([allocate(*problem, solver="uniform").q_s.sum() for problem in problems])
        parts = [f"equal shares {equal:.2f}"]
        for name, limits in RULES.items():
            results = [allocate(*problem, Objective(), limits) for problem in problems]
            received, cost = np.mean([(r.q_s.sum(), r.objective) for r in results], axis=0)
            parts.append(f"{name} {received:.2f} ({cost:.3g})")
        print(f"{spread_db:g} dB, {snr_db:g} dB, {symbols:g}: " + ", ".join(parts), flush=True)


if __name__ == "__main__":
    main()
