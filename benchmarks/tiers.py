"""The study by tiers of knowledge: points of its sweeps to one small file, and the table that is made from it.

python benchmarks/tiers.py add runs/starved2     # the finished points of a sweep into docs/results/headline/points.json
python benchmarks/tiers.py table                 # docs/results/headline/table.md from that file

For a sweep that ran on another machine, `--commit` says which commit the code was, and `--device` which PyTorch device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from spfl.config.names import ANALOGUE
from spfl.figures.drawing import half_width

FOLDER = Path("docs/results/headline")
POINTS, TABLE = FOLDER / "points.json", FOLDER / "table.md"
SENTENCE, FULL, OTHERS, STEPS = (FOLDER / name for name in ("sentence.txt", "full.txt", "others.txt", "steps.png"))
KEPT = (
    "accuracy_last",
    "signs_received_per_round",
    "payload_bits_per_round",
    "side_bits_per_round",
    "joules_per_round",
)
OURS, PLAIN = "sp_fl_plus", "no peaks"  # ours, and what a table adds to its name where `scheme.peaks` is off
LADDER = f"{OURS} (labels)"  # as a table calls ours with label shares
STUDIES = {
    "headline2": "-3 dB, two symbols a parameter, Dirichlet 0.3, full resolution, on a GPU",
    "tight2": "-3 dB, one symbol a parameter, Dirichlet 0.1, full resolution, on a GPU",
    "mild2": "3 dB, two symbols a parameter, Dirichlet 0.3, full resolution, on a GPU",
    "starved2_full": "full resolution, on a CPU (the first runs; the closest schemes only)",
    "starved2": "images of 16 x 16, on a CPU",
}
PACKET, FADE, AIR = ("in_packet", "mean"), ("in_packet", "instantaneous"), ("air", "phase")
CLOSEST = 3  # rivals that the sentence names
TIERS = {
    PACKET: "0. Mean gains; all side information in packets",
    ("reliable", "mean"): "1. Mean gains, and a side channel that always works",
    FADE: "2. The fade of the round at device and server; side information in packets",
    AIR: "3. Amplitude and phase aligned over the air, beside the digital scheme of tier 2",
}
STAIRS = (  # what is added, and the scheme that has it: tier, label
    ("the conventional packet", PACKET, "single_packet"),
    ("one rotated bit a value instead (DRIVE)", PACKET, "drive"),
    ("weights calibrated by label shares", PACKET, "drive_calibrated (labels)"),
    ("a ladder of bits, and an allocation that knows participation", PACKET, f"{OURS} (labels, {PLAIN})"),
    ("places of peaks before signs and magnitudes", PACKET, LADDER),
    ("the fade of the round is known", FADE, LADDER),
)
Point = dict[str, Any]


def add(sweep: Path, commit: str | None, device: str | None) -> None:
    """Put the finished points of a sweep into the file, each once."""
    known: list[Point] = json.loads(POINTS.read_text()) if POINTS.is_file() else []
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    environment = json.loads((sweep / "environment.json").read_text())
    by_key = {(point["study"], point["key"]): point for point in known}
    for line in (sweep / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["status"] == "done":
            point = {"study": sweep.name, "key": row["key"], "scheme": row["scheme"], "seed": row["seed"]}
            point |= {"settings": {k: v for k, v in row["settings"].items() if v is not None}}
            point |= {name: row[name] for name in KEPT}
            point |= {"commit": commit or environment.get("commit") or head, "cpu": environment.get("cpu", {})}
            point |= {"device": device} if device else {}
            by_key.setdefault((sweep.name, row["key"]), point)
    ordered = sorted(by_key.values(), key=lambda p: (p["study"], p["key"]))
    save(POINTS, ordered)


def save(path: Path, points: Sequence[Point]) -> None:
    """A file with a point a line."""
    path.write_text("[\n" + ",\n".join(json.dumps(point) for point in points) + "\n]\n")


def tier_of(point: Point) -> tuple[str, str]:
    settings = point["settings"]
    if point["scheme"] in ANALOGUE:
        return AIR
    side = settings.get("channel.side_information") or "reliable"
    return side, settings.get("channel.device_csi") or "mean"


def is_plain(point: Point) -> bool:
    """Whether it is ours with peaks switched off."""
    return point["settings"].get("scheme.peaks") is False


def label(point: Point) -> str:
    settings = point["settings"]
    told = [settings["scheme.auxiliary"]] if settings.get("scheme.auxiliary") else []
    told += [PLAIN] if is_plain(point) else []
    return point["scheme"] + (f" ({', '.join(told)})" if told else "")


def is_ours(name: str) -> bool:
    """Whether a table's name is of our scheme, peaks or not."""
    return name.split(" ")[0] == OURS


def table(study: str) -> str:
    """A table a tier: mean, interval, n; and paired differences of ours to each rival, p by Holm."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == study]
    lines = [f"# CIFAR-10, {STUDIES[study]}", ""]
    lines += [f"Made by `python benchmarks/tiers.py table` from points.json ({len(points)} points of {study}).", ""]
    for tier, title in TIERS.items():
        if groups := of_tier(points, tier):
            lines += [f"## Tier {title}", "", *rows(groups), "", *paired(groups), ""]
    if free := without_loss(points):
        lines += [f"Without any loss (`error_free`): {mean_accuracy(free):.1f} % (n = {len(free)})."]
    return "\n".join(lines).strip() + "\n"


def at_full_resolution(study: str, where: str) -> str:
    """The closest schemes of the tiers at full resolution, in words."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == study]
    free = mean_accuracy(without_loss(points))
    parts = [f"{where}, where training without any loss reaches {free:.1f} %:"]
    told = {FADE: "With links that adapt to the fade", PACKET: "With mean gains and everything in packets"}
    for tier, words in told.items():
        ours = grouped(points, tier)[LADDER]
        rivals = {name: seeds for name, seeds in grouped(points, tier).items() if not is_ours(name)}
        rivals |= {
            name: seeds for name, seeds in grouped(points, AIR).items() if tier == FADE and name == "analog_mean"
        }
        found = sorted((statistics.fmean(gain := gains(ours, seeds)), name, gain) for name, seeds in rivals.items())
        ahead = ", ".join(
            f"{mean:+.1f} on `{name}` ({sum(g > 0 for g in gain)} of {len(gain)} seeds)"
            for mean, name, gain in found[:CLOSEST]
        )
        parts.append(f"{words} `sp_fl_plus` reaches {mean_accuracy(ours):.1f} % (n = {len(ours)}): {ahead}.")
    return " ".join(parts) + "\n"


def gains(ours: dict[int, Point], theirs: dict[int, Point]) -> list[float]:
    """Our accuracy less theirs, in points, over the seeds that both have."""
    common = sorted(ours.keys() & theirs.keys())
    return [100 * (ours[s]["accuracy_last"] - theirs[s]["accuracy_last"]) for s in common]


def grouped(points: Sequence[Point], tier: tuple[str, str]) -> dict[str, dict[int, Point]]:
    """The points of a tier by what a table calls them, then by seed."""
    groups: dict[str, dict[int, Point]] = {}
    for point in points:
        if tier_of(point) == tier and point["scheme"] != "error_free":
            groups.setdefault(label(point), {})[point["seed"]] = point
    return groups


def of_tier(points: Sequence[Point], tier: tuple[str, str]) -> dict[str, dict[int, Point]]:
    """What the table of a tier has, by name and seed: its schemes, and beside the air ours of tier 2."""
    groups = grouped(points, tier)
    if tier != AIR or not groups:
        return groups
    return {name: seeds for name, seeds in grouped(points, FADE).items() if name == LADDER} | groups


def without_loss(points: Sequence[Point]) -> dict[int, Point]:
    """Training without any loss, by seed."""
    return {point["seed"]: point for point in points if point["scheme"] == "error_free"}


def mean_accuracy(seeds: dict[int, Point]) -> float:
    """In percent."""
    return 100 * statistics.fmean(point["accuracy_last"] for point in seeds.values())


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

    packet, side, fade, _ = TIERS
    n = len({p["seed"] for p in points})
    return (
        f"CIFAR-10 at 16 x 16, -3 dB, two symbols a parameter, Dirichlet 0.3, {n} seeds, test accuracy; "
        f"{mean(('', ''), 'error_free'):.1f} % without any loss. "
        f"With mean gains and everything in packets `sp_fl_plus` reaches {mean(packet, LADDER):.1f} %, "
        f"DRIVE with the same calibrated weights {mean(packet, 'drive_calibrated (labels)'):.1f} %, "
        f"plain DRIVE {mean(packet, 'drive'):.1f} %, the conventional packet {mean(packet, 'single_packet'):.1f} %. "
        f"A side channel that always works adds next to nothing ({mean(side, 'sp_fl_plus'):.1f} %; `sp_fl_plus_1` has "
        f"{mean(side, 'sp_fl_plus_1'):.1f} %). Links that adapt to the fade of the round bring `sp_fl_plus` to "
        f"{mean(fade, LADDER):.1f} %, EDEN with the same links and plain weights to "
        f"{mean(fade, 'eden_adaptive'):.1f} %.\n"
    )


def staircase() -> Figure:
    """What each step adds at full resolution, from the conventional packet to training without loss."""
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == "headline2"]
    reached = [(words, list(grouped(points, tier)[name].values())) for words, tier, name in STAIRS]
    reached.append(("nothing is lost", [p for p in points if p["scheme"] == "error_free"]))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes, before = figure.subplots(), 0.0
    for i, (words, found) in enumerate(reached):
        values = [100 * p["accuracy_last"] for p in found]
        mean = statistics.fmean(values)
        spread, start = float(interval(values)), before if i else mean  # no bar for the first: the axis is cut
        axes.barh(i, mean - start, left=start, color="#0072B2")
        axes.errorbar(mean, i, xerr=spread, fmt=".", color="black", capsize=3)
        added = f"{mean - before:+.1f}" if i else f"{mean:.1f} %"
        axes.text(mean + spread + 0.8, i, f"{added}  {words} (n = {len(values)})", va="center", fontsize=8)
        before = mean
    axes.set(xlabel="test accuracy (%), mean and 95 % interval", xlim=(40, 100), xticks=range(40, 70, 5), yticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def interval(values: Sequence[float]) -> str:
    """Half width of the 95 % t interval of the mean."""
    half = half_width(values)
    return "?" if half is None else f"{half:.1f}"


def paired(groups: dict[str, dict[int, Point]]) -> list[str]:
    """Ours less each rival over common seeds: mean, seeds won, p of the paired t test, corrected by Holm."""
    ours = min(filter(is_ours, groups), key=len, default=None)  # with peaks, where a study has both
    found = []
    for name, seeds in groups.items() if ours else ():
        gain = gains(groups[str(ours)], seeds)
        if not is_ours(name) and len(gain) > 1:
            p = float(ttest_1samp(gain, 0.0).pvalue)
            found.append((p, name, statistics.fmean(gain), interval(gain), sum(g > 0 for g in gain), len(gain)))
    lines, worst = (
        [f"`{ours}` less each rival, paired over seeds; p corrected for the number of rivals (Holm):", ""],
        0.0,
    )
    lines += ["| rival | difference (points) | 95 % interval | seeds won | p |", "|---|---:|---:|---:|---:|"]
    for i, (p, name, mean, spread, won, n) in enumerate(sorted(found)):
        worst = max(worst, min(1.0, p * (len(found) - i)))
        lines.append(f"| `{name}` | {mean:+.1f} | ± {spread} | {won} of {n} | {worst:.3g} |")
    return lines if found else []


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """What a study's script is asked: to add the points of a sweep, or to make its tables."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    parser.add_argument("what", choices=["add", "table"])
    parser.add_argument("sweep", nargs="?", type=Path)
    parser.add_argument("--commit")
    parser.add_argument("--device")
    return parser


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    if arguments.what == "add":
        add(arguments.sweep, arguments.commit, arguments.device)
    else:
        TABLE.write_text("\n".join(table(study) for study in STUDIES))
        SENTENCE.write_text(sentence("starved2"))
        FULL.write_text(at_full_resolution("headline2", "At full resolution"))
        others = {"tight2": "At -3 dB, one symbol, Dirichlet 0.1", "mild2": "At 3 dB, two symbols, Dirichlet 0.3"}
        OTHERS.write_text("\n".join(at_full_resolution(study, where) for study, where in others.items()))
        staircase().savefig(STEPS, dpi=150)
        print(TABLE, SENTENCE)


if __name__ == "__main__":
    main()
