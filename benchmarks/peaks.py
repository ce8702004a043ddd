"""What the places of peaks tell, and what they add to `sp_fl_plus` (scheme.peaks).

python benchmarks/tiers.py add runs/peaks2    # the finished points of configs/study2/peaks.toml into points.json
python benchmarks/peaks.py                    # docs/results/headline/peaks.txt, and docs/theory/peaks.txt
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tiers import FOLDER, POINTS, Point, gains, interval, mean_accuracy

from spfl.packets.ladder import noise
from spfl.packets.peaks import LARGEST_GROUP, grades

STUDY, THEORY = "peaks2", Path(__file__).parents[1] / "docs" / "theory"
PLACE = ("channel.median_snr_db", "channel.symbols_per_parameter", "data.dirichlet_alpha")
Place = tuple[float, ...]
Seeds = dict[int, Point]
KNOWN = {"mean": "mean gains", "instantaneous": "the fade of the round"}


def told() -> Iterator[str]:
    """A row a grade: its bits, its noise, that of the plain ladder, and Shannon's limit for a Gaussian."""
    yield "| bits a value | what is told | noise $v$ | without peaks | limit |"
    yield "|---:|---|---:|---:|---:|"
    for grade in grades(LARGEST_GROUP)[1:]:
        parts = ["all signs"] * (grade.planes > 0) + [f"the largest of each {grade.peak}"] * (grade.peak > 1)
        parts += [f"{grade.planes - 1} bit{'s' * (grade.planes > 2)} of each magnitude"] * (grade.planes > 1)
        plain = float(noise(grade.share * 1e6, 10**6))
        limit = 1.0 / (2.0 ** (2.0 * grade.share) - 1.0)
        yield f"| {grade.share:.3g} | {', '.join(parts)} | {1 / grade.kept - 1:.3g} | {plain:.3g} | {limit:.3g} |"


def by_place(points: list[Point]) -> dict[tuple[str, Place], dict[str, Seeds]]:
    """By what is known and where: with peaks ("peaks"), without ("plain"), and rivals by their name, by seed."""
    found: dict[tuple[str, Place], dict[str, Seeds]] = {}
    for point in points:
        settings = point["settings"]
        place = (settings["channel.device_csi"], tuple(settings[key] for key in PLACE))
        name = {True: "peaks", False: "plain"}.get(settings.get("scheme.peaks"), point["scheme"])
        found.setdefault(place, {}).setdefault(name, {})[point["seed"]] = point
    return found


def lead(ours: Seeds, theirs: Seeds) -> str:
    """The mean lead over common seeds, its interval, and in how many seeds there is one."""
    each = gains(ours, theirs)
    spread = f" ± {interval(each)}" if len(each) > 1 else ""
    return f"{sum(each) / len(each):+.1f}{spread}, {sum(x > 0 for x in each)} of {len(each)}"


def rows(points: list[Point]) -> Iterator[str]:
    """A row a point of the study and a tier: accuracy with and without peaks, and leads in points, paired by seed."""
    heads = ("known of the channel", "SNR (dB), symbols, Dirichlet", "without (%)", "with peaks (%)", "gain of peaks")
    yield f"| {' | '.join(heads)} | lead on the closest rival |"
    yield "|---|---|---:|---:|---|---|"
    for (csi, place), schemes in sorted(by_place(points).items(), key=lambda item: item[0]):
        both = schemes.get("peaks", {}).keys() & schemes.get("plain", {}).keys()
        if not both:
            continue
        peaks, plain = ({seed: schemes[name][seed] for seed in sorted(both)} for name in ("peaks", "plain"))
        rivals = [
            f"`{name}`: {lead(peaks, of)} (without peaks {lead(plain, of)})"
            for name, of in schemes.items()
            if name not in ("peaks", "plain")
        ]
        yield (
            f"| {KNOWN[csi]} | {', '.join(f'{value:g}' for value in place)} | {mean_accuracy(plain):.1f} | "
            f"{mean_accuracy(peaks):.1f} | {lead(peaks, plain)} | {'; '.join(rivals)} |"
        )


def main() -> None:
    points = [point for point in json.loads(POINTS.read_text()) if point["study"] == STUDY]
    (FOLDER / "peaks.txt").write_text("\n".join(rows(points)) + "\n")
    (THEORY / "peaks.txt").write_text("\n".join(told()) + "\n")


if __name__ == "__main__":
    main()
