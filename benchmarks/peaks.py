"""What the places of peaks tell, and what they add to `sp_fl_plus` (scheme.peaks).

python benchmarks/tiers.py add runs/peaks2    # the same points as in the headline, on a CPU
python benchmarks/peaks.py                    # docs/results/headline/peaks.txt, and docs/theory/peaks.txt
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from grid import PLACES, Cell, cell_of
from tiers import FADE, FOLDER, OURS, PACKET, PLAIN, POINTS, Point, gains, interval, is_plain, mean_accuracy, tier_of

from spfl.packets.ladder import noise
from spfl.packets.peaks import LARGEST_GROUP, grades

GRID, CPU, THEORY = "grid5", "peaks2", Path(__file__).parents[1] / "docs" / "theory"
Seeds = dict[int, Point]
KNOWN = {PACKET: "mean gains", FADE: "the fade of the round"}


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


def pairs(points: list[Point], study: str, tier: tuple[str, str]) -> dict[Cell, dict[str, Seeds]]:
    """By cell: runs of ours with peaks and without ("no peaks"), of the seeds that both have."""
    found: dict[Cell, dict[str, Seeds]] = {}
    for point in points:
        if point["study"] == study and point["scheme"] == OURS and tier_of(point) == tier:
            name = PLAIN if is_plain(point) else "peaks"
            found.setdefault(cell_of(point), {}).setdefault(name, {})[point["seed"]] = point
    both = {cell: set.intersection(*map(set, schemes.values())) for cell, schemes in found.items() if len(schemes) == 2}
    return {
        cell: {name: {seed: of[seed] for seed in sorted(seeds)} for name, of in found[cell].items()}
        for cell, seeds in both.items()
    }


def row(where: str, known: str, accuracies: tuple[float, float], each: list[float], what: str = "") -> str:
    """Accuracy without and with peaks, and the gains in points, each of a seed or `what`: mean, interval, how many."""
    plain, peaks = accuracies
    won = f"{sum(x > 0 for x in each)} of {len(each)}{what}"
    return (
        f"| {where} | {known} | {plain:.1f} | {peaks:.1f} | {statistics.fmean(each):+.1f} ± {interval(each)} | {won} |"
    )


def both(schemes: dict[str, Seeds]) -> tuple[float, float]:
    """Mean accuracy without and with peaks."""
    return mean_accuracy(schemes[PLAIN]), mean_accuracy(schemes["peaks"])


def rows(points: list[Point]) -> Iterator[str]:
    """A row a point of the study and a tier, those of the same seeds on a CPU, and one for all cells of the grid."""
    yield "| where | known of the channel | no peaks (%) | with peaks (%) | gain (points) | seeds won |"
    yield "|---|---|---:|---:|---:|---:|"
    for tier, known in KNOWN.items():
        for study in (*PLACES, CPU):
            for cell, schemes in pairs(points, study, tier).items():
                where = f"{cell}, on a CPU" if study == CPU else str(cell)
                yield row(where, known, both(schemes), gains(schemes["peaks"], schemes[PLAIN]))
        cells = pairs(points, GRID, tier).values()
        plain, peaks = map(statistics.fmean, zip(*map(both, cells), strict=True))
        each = [statistics.fmean(gains(schemes["peaks"], schemes[PLAIN])) for schemes in cells]
        yield row(f"{len(cells)} cells of the grid, two seeds each", known, (plain, peaks), each, " cells")


def main() -> None:
    points = json.loads(POINTS.read_text())
    (FOLDER / "peaks.txt").write_text("\n".join(rows(points)) + "\n")
    (THEORY / "peaks.txt").write_text("\n".join(told()) + "\n")


if __name__ == "__main__":
    main()
