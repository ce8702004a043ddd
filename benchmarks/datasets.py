"""The studies of digits, Fashion-MNIST and larger networks by tiers of knowledge, as tables for their pages.

python benchmarks/tiers.py add runs/digits2     # the finished points of a sweep into docs/results/headline/points.json
python benchmarks/tiers.py add runs/fashion2
python benchmarks/tiers.py add runs/resnet2
python benchmarks/tiers.py add runs/resnet10
python benchmarks/datasets.py    # docs/results/{digits/tiers,fashion_mnist/tiers,headline/resnet*}.txt from that file
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import NamedTuple

from tiers import (
    AIR,
    FADE,
    LADDER,
    PACKET,
    POINTS,
    Point,
    gains,
    grouped,
    mean_accuracy,
    of_tier,
    paired,
    rows,
    without_loss,
)  # fmt: skip

TIERS = {
    PACKET: "Mean gains, everything in packets",
    FADE: "The fade of the round is known",
    AIR: "Amplitude and phase aligned over the air, beside the digital scheme that knows the fade",
}
SYMBOLS, SNR, DEVICES = "channel.symbols_per_parameter", "channel.median_snr_db", "data.devices"


class Setting(NamedTuple):
    """Where a point of the digits lies: the starved point, but for one thing."""

    snr_db: float = -3.0
    symbols: float = 2.0
    devices: int = 20

    def __str__(self) -> str:
        starved = Setting()
        if self.snr_db != starved.snr_db:
            return f"{self.snr_db:g} dB"
        if self.symbols != starved.symbols:
            return f"{self.symbols:g} {'symbol' if self.symbols == 1 else 'symbols'} a parameter"
        return f"{self.devices} devices" if self.devices != starved.devices else "the starved point"


def by_setting(points: list[Point]) -> str:
    """A table a tier: a row a setting, ours in percent and its lead over each rival, with the seeds that it won."""
    found: dict[Setting, list[Point]] = {}
    for point in points:
        at = point["settings"]
        found.setdefault(Setting(at[SNR], at[SYMBOLS], at[DEVICES]), []).append(point)
    ordered = sorted(found, key=lambda s: (s.devices != 20, s.symbols != 2, s.snr_db != -3, s))
    lines = []
    for tier, words in TIERS.items():
        rivals = sorted({name for setting in ordered for name in of_tier(found[setting], tier)} - {LADDER})
        lines += [f"**{words}.**", "", f"| | `{LADDER}` | " + " | ".join(f"`{name}`" for name in rivals) + " |"]
        lines += ["|---|---:|" + "---:|" * len(rivals)]
        for setting in ordered:
            groups = of_tier(found[setting], tier)
            leads = {name: gains(groups[LADDER], groups[name]) for name in rivals}
            told = [
                f"{statistics.fmean(lead):+.1f} ({sum(x > 0 for x in lead)}/{len(lead)})" for lead in leads.values()
            ]
            lines.append(f"| {setting} | {mean_accuracy(groups[LADDER]):.1f} % | {' | '.join(told)} |")
        lines.append("")
    free = {setting: without_loss(found[setting]) for setting in ordered}
    told = [f"{mean_accuracy(seeds):.1f} % ({setting})" for setting, seeds in free.items() if seeds]
    return "\n".join([*lines, f"Without any loss: {', '.join(told)}."]) + "\n"


def at_one_point(points: list[Point]) -> str:
    """A table a tier: means with intervals, and paired differences."""
    lines = []
    for tier, words in TIERS.items():
        groups = of_tier(points, tier)
        lines += [f"**{words}.**", "", *rows(groups), "", *paired(groups), ""]
    free = without_loss(points)
    return "\n".join([*lines, f"Without any loss: {mean_accuracy(free):.1f} % (n = {len(free)})."]) + "\n"


def few(points: list[Point]) -> str:
    """One table of all tiers, for a study of few runs."""
    lines = ["| known of the channel | scheme | accuracy (%) | n | received of 20 |", "|---|---|---:|---:|---:|"]
    known = {"nothing is lost": {"error_free": without_loss(points)}}
    known |= {words[0].lower() + words[1:]: grouped(points, tier) for tier, words in TIERS.items()}
    for words, groups in known.items():
        for name, seeds in groups.items():
            received = statistics.fmean(p["signs_received_per_round"] for p in seeds.values())
            lines.append(f"| {words} | `{name}` | {mean_accuracy(seeds):.1f} | {len(seeds)} | {received:.1f} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "digits2": ("digits/tiers.txt", by_setting),
    "fashion2": ("fashion_mnist/tiers.txt", at_one_point),
    "resnet2": ("headline/resnet.txt", few),
    "resnet10": ("headline/resnet10.txt", few),
}


def main() -> None:
    every: list[Point] = json.loads(POINTS.read_text())
    for study, (place, told) in PAGES.items():
        points = [p for p in every if p["study"] == study]
        for point in points:  # these studies set it for all their points, so that these do not tell it
            point["settings"].setdefault("channel.side_information", "in_packet")
        if points:
            (Path("docs/results") / place).write_text(told(points))
            print(told(points))


if __name__ == "__main__":
    main()
