"""Runs of configs/niid beside the number that the NIID-Bench study published (Li et al., ICDE 2022).

    python benchmarks/niid.py RUN [RUN ...] --out docs/results/headline

A run is a folder of `spfl run configs/niid/cnn.toml`, finished or not: what was evaluated so far is written, with the
configuration, commit and machine, to niid.json, and as a table to niid.txt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spfl.runs.results import Run

# %, FedAvg after 50 rounds, mean of three trials: "Leader Board" in the README of github.com/Xtra-Computing/NIID-Bench
# (commit 61b901a). It has no row for IID data without noise.
PUBLISHED = {"dirichlet": 68.2}


def row(folder: Path) -> dict[str, Any]:
    """What is told of a run."""
    run = Run.load(folder)
    environment, config = run.environment, run.config
    curve = [(r["round"], round(100 * r["test_accuracy"], 2)) for r in run.rounds if r["test_accuracy"] is not None]
    return {
        "partition": config.data.partition,
        "scheme": config.scheme.name,
        "median_snr_db": config.channel.median_snr_db,
        "seed": config.seed,
        "rounds": [len(run.rounds), config.training.rounds],
        "accuracy": curve,
        "published": PUBLISHED.get(config.data.partition) if config.scheme.name == "error_free" else None,
        "commit": environment["commit"],
        "machine": f"{environment['cpu']}, {environment['cores']} cores",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for the page: accuracy after every tenth round."""
    every = sorted({n for row in rows for n, _ in row["accuracy"] if n % 10 == 0})
    lines = ["| data | scheme | " + " | ".join(f"{n} rounds" for n in every) + " | published, 50 rounds |"]
    lines.append("|---|---|" + "---:|" * (len(every) + 1))
    for row in rows:
        at, said = dict(row["accuracy"]), row["published"]
        cells = [f"{at[n]:.1f}" if n in at else "" for n in every]
        told = "" if said is None else f"{said}"
        lines.append(f"| {row['partition']} | `{row['scheme']}` | " + " | ".join(cells) + f" | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = [row(folder) for folder in given.runs]
    print(table(rows))
    (given.out / "niid.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (given.out / "niid.txt").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
