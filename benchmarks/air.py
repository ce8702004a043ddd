"""Where a mean of values in the air is ahead of the digital scheme that knows the fade: phases, power, devices.

python benchmarks/tiers.py add runs/air2    # the finished points of configs/study2/air.toml into points.json
python benchmarks/air.py                    # docs/results/headline/air.{txt,png} from that file
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from matplotlib.figure import Figure
from tiers import FOLDER, POINTS, Point, gains, mean_accuracy

STUDY, AIR, DIGITAL = "air2", "analog_mean", "sp_fl_plus"
SNR, PHASE, DEVICES = "channel.median_snr_db", "channel.phase_error_rad", "data.devices"
BASE = {SNR: -3.0, PHASE: 0.0, DEVICES: 20}
WHATS = {
    PHASE: "phase error (rad)",
    SNR: "median SNR on an equal share (dB)",
    DEVICES: "devices in the same band and time",
}
Seeds = dict[int, Point]


def along(points: list[Point], key: str, scheme: str) -> dict[float, Seeds]:
    """The points of a scheme in which only `key` moves, by its value, then by seed."""
    found: dict[float, Seeds] = {}
    for point in points:
        at = {name: point["settings"].get(name) or BASE[name] for name in BASE}
        if key == DEVICES and at[DEVICES] != BASE[DEVICES]:  # a share of the band changes with their number
            at[SNR] = BASE[SNR]
        if point["scheme"] == scheme and all(at[name] == BASE[name] for name in BASE if name != key):
            found.setdefault(at[key], {})[point["seed"]] = point
    return dict(sorted(found.items()))


def rows(points: list[Point]) -> Iterator[str]:
    yield f"| what is moved | value | `{AIR}` (%) | `{DIGITAL}` (%) | digital less air, each seed | energy (mJ), both |"
    yield "|---|---:|---:|---:|---|---:|"
    for key, what in WHATS.items():
        air, digital = along(points, key, AIR), along(points, key, DIGITAL)
        for value, seeds in air.items():
            theirs = digital.get(value) or (digital[BASE[key]] if key == PHASE else {})
            mean = f"{mean_accuracy(theirs):.1f}" if theirs else ""
            leads = ", ".join(f"{lead:+.1f}" for lead in gains(theirs, seeds))
            energy = [
                1e3 * statistics.fmean(p["joules_per_round"] for p in of.values()) for of in (seeds, theirs) if of
            ]
            told = " and ".join(f"{mj:.1f}" for mj in energy)
            yield f"| {what} | {value:g} | {mean_accuracy(seeds):.1f} | {mean} | {leads} | {told} |"


def picture(points: list[Point]) -> Figure:
    figure = Figure(figsize=(7.16, 2.5), layout="constrained")
    for axes, (key, what) in zip(figure.subplots(1, len(WHATS), sharey=True), WHATS.items(), strict=True):
        for scheme, style in ((AIR, "C0o--"), (DIGITAL, "C1s-")):
            means = {value: mean_accuracy(seeds) for value, seeds in along(points, key, scheme).items()}
            if key == PHASE and scheme == DIGITAL:  # which has no phases to be off
                axes.axhline(means[0.0], color="C1", label=scheme)
            else:
                axes.plot(list(means), list(means.values()), style, label=scheme)
        axes.set_xlabel(what, fontsize=8)
        axes.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("test accuracy (%)", fontsize=8)
    figure.axes[0].legend(fontsize=8)
    return figure


def main() -> None:
    points = [p for p in json.loads(POINTS.read_text()) if p["study"] == STUDY]
    told = "\n".join(rows(points)) + "\n"
    (FOLDER / "air.txt").write_text(told)
    picture(points).savefig(FOLDER / "air.png", dpi=150)
    print(told)


if __name__ == "__main__":
    main()
