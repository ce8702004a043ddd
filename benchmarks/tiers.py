"""The study by tiers of knowledge: points of its sweeps to one small file, and the table that is made from it.

python benchmarks/tiers.py add runs/starved2     # the finished points of a sweep into docs/results/tiers/points.json
python benchmarks/tiers.py table                 # docs/results/tiers/table.md from that file
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student
from scipy.stats import ttest_rel

FOLDER = Path("docs/results/tiers")
POINTS, TABLE = FOLDER / "points.json", FOLDER / "table.md"
SENTENCE, FULL = FOLDER / "sentence.txt", FOLDER / "full.txt"
KEPT = (
    "accuracy_last",
    "signs_received_per_round",
    "payload_bits_per_round",
    "side_bits_per_round",
    "joules_per_round",
)
OURS = ("sp_fl_plus",)
STUDIES = {"starved2": "images of 16 x 16", "starved2_full": "full resolution"}
PACKET, FADE = ("in_packet", "mean"), ("in_packet", "instantaneous")
TIERS = {
    PACKET: "0. Mean gains; all side information in packets",
    ("reliable", "mean"): "1. Mean gains, and a side channel that always works",
    FADE: "2. The fade of the round at device and server; side information in packets",
}
Point = dict[str, Any]


def add(sweep: Path) -> None:
    """Put the finished points of a sweep into the file, each once."""
    known: list[Point] = json.loads(POINTS.read_text()) if POINTS.is_file() else []
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    environment = json.loads((sweep / "environment.json").read_text())
    by_key = {(point["study"], point["key"]): point for point in known}
    for line in (sweep / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["status"] == "done":
            point = {"study": sweep.name, "key": row["key"], "scheme": row["scheme"], "seed": row["seed"]}
            point |= {"settings": {k: v for k, v in row["settings"].items() if v is not None}}
            point |= {name: row[name] for name in KEPT}
            point |= {"commit": environment.get("commit") or commit, "cpu": environment.get("cpu", {})}
            by_key.setdefault((sweep.name, row["key"]), point)
    POINTS.write_text(json.dumps(sorted(by_key.values(), key=lambda p: (p["study"], p["key"])), indent=1) + "\n")


def tier_of(point: Point) -> tuple[str, str]:
    settings = point["settings"]
    side = settings.get("channel.side_information") or "reliable"
    return side, settings.get("channel.device_csi") or "mean"


def label(point: Point) -> str:
    told = point["settings"].get("scheme.auxiliary")
    return point["scheme"] + (f" ({told})" if told else "")


def table(study: str) -> str:
    """A table a tier: mean, interval, n; and paired differences of ours to each rival, p by Holm."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == study]
    lines = [f"# CIFAR-10, {STUDIES[study]}", ""]
    lines += [f"Made by `python benchmarks/tiers.py table` from points.json ({len(points)} points of {study}).", ""]
    for tier, title in TIERS.items():
        if groups := grouped(points, tier):
            lines += [f"## Tier {title}", "", *rows(groups), "", *paired(groups), ""]
    free = [100 * p["accuracy_last"] for p in points if p["scheme"] == "error_free"]
    if free:
        lines += [f"Without any loss (`error_free`): {statistics.fmean(free):.1f} % (n = {len(free)})."]
    return "\n".join(lines).strip() + "\n"


def at_full_resolution() -> str:
    """The closest schemes of the tiers at full resolution, in words."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == "starved2_full"]
    parts = []
    for tier, words in ((FADE, "With links that adapt to the fade"), (PACKET, "With mean gains")):
        found = {name: seeds for name, seeds in grouped(points, tier).items() if name.split(" ")[0] not in OURS}
        ours = grouped(points, tier)["sp_fl_plus (labels)"]
        gains = []
        for name, seeds in found.items():
            common = sorted(seeds.keys() & ours.keys())
            gain = [100 * (ours[s]["accuracy_last"] - seeds[s]["accuracy_last"]) for s in common]
            won = sum(g > 0 for g in gain)
            gains.append(
                (statistics.fmean(gain), f"{statistics.fmean(gain):+.1f} on `{name}` ({won} of {len(gain)} seeds)")
            )
        reached = statistics.fmean(100 * p["accuracy_last"] for p in ours.values())
        ahead = ", ".join(text for _, text in sorted(gains))
        parts.append(f"{words} `sp_fl_plus` reaches {reached:.1f} % (n = {len(ours)}): {ahead}.")
    return "At full resolution: " + " ".join(parts) + "\n"


def grouped(points: Sequence[Point], tier: tuple[str, str]) -> dict[str, dict[int, Point]]:
    """The points of a tier by what a table calls them, then by seed."""
    groups: dict[str, dict[int, Point]] = {}
    for point in points:
        if tier_of(point) == tier and point["scheme"] != "error_free":
            groups.setdefault(label(point), {})[point["seed"]] = point
    return groups


def rows(groups: dict[str, dict[int, Point]]) -> list[str]:
    head = "| scheme | accuracy (%) | 95 % interval | n | received of 20 | payload (Mbit) | energy (mJ) |"
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    ordered = sorted(groups.items(), key=lambda item: -statistics.fmean(p["accuracy_last"] for p in item[1].values()))
    for name, seeds in ordered:
        of = {key: [p[key] for p in seeds.values()] for key in KEPT}
        accuracy = [100 * a for a in of["accuracy_last"]]
        received = statistics.fmean(of["signs_received_per_round"])
        payload, energy = statistics.fmean(of["payload_bits_per_round"]), statistics.fmean(of["joules_per_round"])
        lines.append(
            f"| `{name}` | {statistics.fmean(accuracy):.1f} | ± {interval(accuracy)} | {len(accuracy)} "
            f"| {received:.1f} | {payload / 1e6:.2f} | {1e3 * energy:.1f} |"
        )
    return lines


def sentence(study: str) -> str:
    """The result in words, with the numbers of the file."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == study]

    def mean(tier: tuple[str, str], name: str) -> float:
        found = [100 * p["accuracy_last"] for p in points if label(p) == name and (tier_of(p) == tier or not tier[0])]
        return statistics.fmean(found)

    packet, side, fade = TIERS
    n = len({p["seed"] for p in points})
    ladder = "sp_fl_plus (labels)"
    return (
        f"CIFAR-10 at 16 x 16, -3 dB, two symbols a parameter, Dirichlet 0.3, {n} seeds, test accuracy; "
        f"{mean(('', ''), 'error_free'):.1f} % without any loss. "
        f"With mean gains and everything in packets `sp_fl_plus` reaches {mean(packet, ladder):.1f} %, "
        f"DRIVE with the same calibrated weights {mean(packet, 'drive_calibrated (labels)'):.1f} %, "
        f"plain DRIVE {mean(packet, 'drive'):.1f} %, the conventional packet {mean(packet, 'single_packet'):.1f} %. "
        f"A side channel that always works adds next to nothing ({mean(side, 'sp_fl_plus'):.1f} %; `sp_fl_plus_1` has "
        f"{mean(side, 'sp_fl_plus_1'):.1f} %). Links that adapt to the fade of the round bring `sp_fl_plus` to "
        f"{mean(fade, ladder):.1f} %, EDEN with the same links and plain weights to "
        f"{mean(fade, 'eden_adaptive'):.1f} %.\n"
    )


def interval(values: Sequence[float]) -> str:
    """Half width of the 95 % t interval of the mean."""
    if len(values) < 2:
        return "?"
    return f"{student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5:.1f}"


def paired(groups: dict[str, dict[int, Point]]) -> list[str]:
    """Ours less each rival over common seeds: mean, seeds won, p of the paired t test, corrected by Holm."""
    ours = next((name for name in groups if name.split(" ")[0] in OURS), None)
    found = []
    for name, seeds in groups.items() if ours else ():
        common = sorted(seeds.keys() & groups[str(ours)].keys())
        if name != ours and len(common) > 1:
            a, b = ([100 * g[s]["accuracy_last"] for s in common] for g in (groups[str(ours)], seeds))
            gain = [x - y for x, y in zip(a, b, strict=True)]
            found.append(
                (float(ttest_rel(a, b).pvalue), name, statistics.fmean(gain), sum(g > 0 for g in gain), len(gain))
            )
    lines, worst = (
        [f"`{ours}` less each rival, paired over seeds; p corrected for the number of rivals (Holm):", ""],
        0.0,
    )
    lines += ["| rival | difference (points) | seeds won | p |", "|---|---:|---:|---:|"]
    for i, (p, name, gain, won, n) in enumerate(sorted(found)):
        worst = max(worst, min(1.0, p * (len(found) - i)))
        lines.append(f"| `{name}` | {gain:+.1f} | {won} of {n} | {worst:.3g} |")
    return lines if found else []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=["add", "table"])
    parser.add_argument("sweep", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "add":
        add(arguments.sweep)
    else:
        TABLE.write_text("\n".join(table(study) for study in STUDIES))
        SENTENCE.write_text(sentence("starved2"))
        FULL.write_text(at_full_resolution())
        print(TABLE, SENTENCE)


if __name__ == "__main__":
    main()
