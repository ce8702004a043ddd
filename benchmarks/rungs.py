"""What several rungs of different reliability could add to one packet a device, at most.

    python benchmarks/rungs.py [--out DIR]

A device that knows its mean gain alone may superpose layers, of which a better fade decodes more (Shamai, Steiner
2003): layer j has what is left of the power from I to I', and is decoded, after those below it, if the power fade is at
least u_j. Its rate is log2(1 + u_j S I) - log2(1 + u_j S I') at mean SNR S. Packets one after the other are no better
than layers, since time can be shared within the same region of rates. The best layers for the participation objective,
E[1 / (1 + v(bits) / tau)], are found by dynamic programming over fades, powers and bits; one packet is searched on the
same grids. For a worth that is linear in the bits, the best is known in closed form, and is printed as a check.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from results import write
from scipy.special import exp1, lambertw

from spfl.allocation.participation import Ladder
from spfl.arrays import Floats
from spfl.units import db_to_linear

DIM = 1_000_000
LEVELS, POWERS, BITS = 120, 90, 400  # points of the grids of fades, of the power that is left, and of bits
SNRS_DB, TAUS, SYMBOLS = (-9.0, -3.0, 3.0, 9.0), (0.5, 1.0, 2.6), (1.0, 2.0)


def grids(snr: float, symbols: float) -> tuple[Floats, Floats, Floats]:
    """Fades (level,), powers that are left (power,), falling from 1 to 0, and bits a value (bits,)."""
    fades = np.geomspace(0.02, 6.0, LEVELS)
    power = np.concatenate([np.geomspace(1.0, 1e-3, POWERS - 1), [0.0]])
    return fades, power, np.linspace(0.0, symbols * np.log2(1.0 + snr * fades[-1]), BITS)


def layered(snr: float, symbols: float, ladder: Ladder) -> tuple[float, float]:
    """The best expected worth with any number of layers, and with one."""
    fades, power, bits = grids(snr, symbols)
    worth = np.where(bits > 0, ladder.gain(np.maximum(bits, 1e-9) * DIM), 0.0)
    mass = np.exp(-fades) - np.append(np.exp(-fades[1:]), 0.0)
    later = np.zeros((POWERS, BITS))  # what the levels above add, for the power that is left and the bits so far
    alone = 0.0
    for u, chance in zip(fades[::-1], mass[::-1], strict=True):
        rate = symbols * (np.log2(1.0 + u * snr * power)[:, None] - np.log2(1.0 + u * snr * power)[None, :])
        alone = max(alone, float(np.exp(-u) * np.interp(rate[0, -1], bits, worth)))
        best = np.full((POWERS, BITS), -np.inf)
        then = chance * worth[None, :] + later
        for left in range(POWERS):  # the power that is left above this level
            for had in range(left + 1):
                got = np.interp(bits + rate[had, left], bits, then[left])
                np.maximum(best[had], got, out=best[had])
        later = best
    return float(later[0, 0]), alone


def linear(snr: float) -> float:
    """How much more the best layers bring of what is linear in bits than one packet does, in closed form."""
    start = 2.0 / (1.0 + np.sqrt(1.0 + 4.0 * snr))
    many = 2.0 * (exp1(start) - exp1(1.0)) - (np.exp(-start) - np.exp(-1.0))
    rate = float(np.real(lambertw(snr)))
    return float(many / (rate * np.exp(-np.expm1(rate) / snr)) - 1.0)


def told(rows: list[dict[str, float]]) -> str:
    """The rows as a table for the page, a line a channel."""
    head = " | ".join(f"tau = {tau:g}" for tau in TAUS)
    lines = [f"| symbols a value | SNR (dB) | {head} |", "|---:|---:|" + "---:|" * len(TAUS)]
    for symbols in SYMBOLS:
        for snr_db in SNRS_DB:
            of = [r for r in rows if (r["symbols"], r["snr_db"]) == (symbols, snr_db)]
            lines.append(f"| {symbols:g} | {snr_db:g} | " + " | ".join(f"{100 * r['more']:.1f} %" for r in of) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path)
    rows = []
    given = parser.parse_args()
    for symbols in SYMBOLS:
        for snr_db in SNRS_DB:
            snr = float(db_to_linear(snr_db))
            for tau in TAUS:
                many, one = layered(snr, symbols, Ladder(DIM, 0.0, tau))
                rows.append({"symbols": symbols, "snr_db": snr_db, "tau": tau, "one": one, "layers": many,
                             "more": many / one - 1.0, "more_if_linear": linear(snr)})  # fmt: skip
    write(given.out, "rungs", rows)
    if given.out is not None:
        (given.out / "rungs.txt").write_text(told(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
