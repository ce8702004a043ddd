"""Runs of configs/niid beside the number that the NIID-Bench study published (Li et al., ICDE 2022).

    python benchmarks/niid.py RUN [RUN ...] --out docs/results/headline

A run is a folder of `spfl run configs/niid/cnn.toml`, finished or not: what was evaluated so far is written, with the
configuration, commit and machine, to niid.json beside the rows of other settings, and all of them as a table to
niid.txt.
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
DATA = {"dirichlet": "Dirichlet 0.5", "iid": "IID"}
SHOWN = (5, 10, 15, 20, 25, 30, 40, 50)  # rounds


def row_of(folder: Path) -> dict[str, Any]:
    """What is told of a run."""
    run = Run.load(folder)
    environment, config = run.environment, run.config
    curve = [(r["round"], round(100 * r["test_accuracy"], 2)) for r in run.rounds if r["test_accuracy"] is not None]
    return {
        "partition": config.data.partition,
        "scheme": config.scheme.name,
        "median_snr_db": config.channel.median_snr_db,
        "side_information": config.channel.side_information,
        "seed": config.seed,
        "rounds": [len(run.rounds), config.training.rounds],
        "accuracy": curve,
        "commit": environment["commit"],
        "machine": environment.get("torch_device") or f"{environment['cpu']}, {environment['cores']} cores",
    }


def setting(row: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs of one row have in common: the later takes the place of the earlier."""
    return row["partition"], row["side_information"], row["scheme"], row["seed"]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for the page: accuracy after some rounds, as far as the run went."""
    lines = ["| data | scheme, rounds: | " + " | ".join(map(str, SHOWN)) + " | published |"]
    lines.append("|---|---|" + "---:|" * (len(SHOWN) + 1))
    for row in rows:
        at, whole = dict(row["accuracy"]), row["scheme"] == "error_free"
        cells = [f"{at[n]:.1f}" if n in at else "" for n in SHOWN]
        told = PUBLISHED.get(row["partition"], "") if whole else ""
        uplink = "no loss" if whole else f"{row['median_snr_db']:g} dB"
        lines.append(f"| {DATA[row['partition']]} | `{row['scheme']}`, {uplink} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    kept = given.out / "niid.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    by_setting = {setting(row): row for row in [*known, *map(row_of, given.runs)]}
    rows = [by_setting[key] for key in sorted(by_setting, key=str)]
    print(table(rows))
    kept.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    (given.out / "niid.txt").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
