"""The readings of `sp_fl` beside each other: points of their sweep to one small file, and the table made from it.

python benchmarks/readings.py runs/paper-readings    # docs/results/paper/readings.{json,md}
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from claim import FOLDER
from tiers import interval, save

DEFAULT = "scheme.weights = unbiased"  # the reading that `sp_fl` takes


def label(settings: dict[str, object]) -> str:
    """The one choice that differs."""
    keys = ("scheme.weights", "scheme.compensation", "scheme.objective", "scheme.solver", "channel.multiplex")
    changed = [f"{key} = {settings[key]}" for key in keys if settings.get(key) not in (None, "orthogonal")]
    return ", ".join(changed)


def main() -> None:
    sweep = Path(sys.argv[1])
    environment = json.loads((sweep / "environment.json").read_text())
    rows = [json.loads(line) for line in (sweep / "results.jsonl").read_text().splitlines()]
    kept = ("seed", "accuracy_last", "signs_received_per_round", "commit")
    points = [
        {"reading": label(row["settings"])} | {k: row[k] for k in kept} | {"cpu": environment["cpu"]} for row in rows
    ]
    points.sort(key=lambda point: (point["reading"], point["seed"]))
    save(FOLDER / "readings.json", points)
    by_reading: dict[str, dict[int, float]] = {}
    for point in points:
        by_reading.setdefault(point["reading"], {})[point["seed"]] = 100 * point["accuracy_last"]
    lines = ["| what is changed | accuracy (%) | less the first | 95 % interval | n |", "|---|---:|---:|---:|---:|"]
    first = by_reading[DEFAULT]
    for reading, seeds in sorted(by_reading.items(), key=lambda item: (item[0] != DEFAULT, item[0])):
        gain = [seeds[seed] - first[seed] for seed in seeds.keys() & first.keys()]
        told = "| | " if reading == DEFAULT else f"| {statistics.fmean(gain):+.1f} | ± {interval(gain)} "
        lines.append(f"| `{reading}` | {statistics.fmean(seeds.values()):.1f} {told}| {len(seeds)} |")
    (FOLDER / "readings.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
