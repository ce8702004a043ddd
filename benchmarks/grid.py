"""The grid of the headline study: where `sp_fl_plus` leads and where it does not, over SNR, symbols and splits.

python benchmarks/tiers.py add runs/grid5    # the finished points of a sweep into docs/results/headline/points.json
python benchmarks/grid.py                    # docs/results/headline/grid.{md,txt,png} from that file
"""

from __future__ import annotations

import json
import statistics
from typing import NamedTuple

from matplotlib.figure import Figure
from tiers import FADE, FOLDER, LADDER, PACKET, POINTS, Point, gains, grouped, mean_accuracy

STUDIES = ("grid5", "headline2", "tight2", "mild2")  # of two runs of a cell, scheme and seed the first is taken
TIERS = {PACKET: "mean gains, everything in packets", FADE: "the fade of the round is known"}
RIVALS = {
    PACKET: ("drive", "drive_calibrated (labels)", "eden_adaptive"),
    FADE: ("eden_adaptive", "eden_calibrated (labels)", "schedule_capacity"),
}
SPLITS, SNRS, SYMBOLS = ("0.1", "0.3", "IID"), (-3.0, 3.0, 9.0), (1.0, 2.0, 4.0)
TIE = 0.5  # points: behind by more is a loss


class Cell(NamedTuple):
    """Where a point lies."""

    split: str
    snr_db: float
    symbols: float

    def __str__(self) -> str:
        split = self.split if self.split == "IID" else f"Dirichlet {self.split}"
        return f"{split}, {self.snr_db:g} dB, {self.symbols:g} symbol{'s' * (self.symbols != 1)} a parameter"


class Leads(NamedTuple):
    """Ours in a cell: mean accuracy in percent over its seeds; in points, what it leads each rival by, seed by seed."""

    ours: float
    over: dict[str, list[float]]

    @property
    def seeds(self) -> int:
        """The fewest that ours and a rival have in common."""
        return min(map(len, self.over.values()))

    @property
    def least(self) -> tuple[float, str]:
        """The lead over the best rival, and who that is."""
        return min((statistics.fmean(lead), name) for name, lead in self.over.items())


# studies of one cell each, whose points do not name it
PLACES = {"headline2": Cell("0.3", -3.0, 2.0), "tight2": Cell("0.1", -3.0, 1.0), "mild2": Cell("0.3", 3.0, 2.0)}


def cell_of(point: Point) -> Cell:
    if point["study"] in PLACES:
        return PLACES[point["study"]]
    settings = point["settings"]
    split = "IID" if settings.get("data.partition") == "iid" else f"{settings['data.dirichlet_alpha']:g}"
    return Cell(split, settings["channel.median_snr_db"], settings["channel.symbols_per_parameter"])


def leads() -> dict[tuple[str, str], dict[Cell, Leads]]:
    """By tier and cell, of all studies that have points there."""
    every: list[Point] = json.loads(POINTS.read_text())
    ordered = [p for study in reversed(STUDIES) for p in every if p["study"] == study]  # a later one takes its place
    cells = [Cell(split, snr, symbols) for split in SPLITS for snr in SNRS for symbols in SYMBOLS]
    found: dict[tuple[str, str], dict[Cell, Leads]] = {tier: {} for tier in TIERS}
    for cell in cells:
        here = [p for p in ordered if cell_of(p) == cell]
        for tier, rivals in RIVALS.items():
            groups = grouped(here, tier)
            ours = groups[LADDER]
            over = {name.split(" ")[0]: gains(ours, groups[name]) for name in rivals}
            found[tier][cell] = Leads(mean_accuracy(ours), over)
    return found


def table(found: dict[tuple[str, str], dict[Cell, Leads]]) -> str:
    lines = [
        "# The grid",
        "",
        f"Made by `python benchmarks/grid.py` from points.json (studies {', '.join(STUDIES)}).",
        "",
    ]
    for tier, words in TIERS.items():
        cells = found[tier]
        rivals = sorted({name for at in cells.values() for name in at.over})
        lines += [
            f"## {words[0].upper()}{words[1:]}",
            "",
            "`sp_fl_plus` in %, and its lead over each rival in points, mean over common seeds. n: the fewest of them.",
            "",
        ]
        lines += [f"| split | SNR (dB) | symbols | n | `sp_fl_plus` | {' | '.join(f'`{name}`' for name in rivals)} |"]
        lines += ["|---|---:|---:|---:|---:|" + "---:|" * len(rivals)]
        for cell, at in cells.items():
            over = " | ".join(f"{statistics.fmean(at.over[name]):+.1f}" for name in rivals)
            lines.append(f"| {cell.split} | {cell.snr_db:g} | {cell.symbols:g} | {at.seeds} | {at.ours:.1f} | {over} |")
        lines.append("")
    return "\n".join(lines)


def sentence(found: dict[tuple[str, str], dict[Cell, Leads]]) -> str:
    """Where ours leads, ties and loses, in words, with the numbers of the file."""
    parts = []
    for tier, words in TIERS.items():
        least = {cell: at.least for cell, at in found[tier].items()}
        lost = {cell: lead for cell, lead in least.items() if lead[0] < -TIE}
        (worst, rival), where = min((lead, cell) for cell, lead in least.items())
        mean = statistics.fmean(lead for lead, _ in least.values())
        seeds = {at.seeds for at in found[tier].values()}
        parts.append(
            f"{words[0].upper()}{words[1:]}: ahead of the best rival by more than {TIE} points in "
            f"{sum(lead > TIE for lead, _ in least.values())} of {len(least)} cells, behind by more in {len(lost)}; "
            f"{mean:+.1f} points in the mean, at worst {worst:+.1f} (`{rival}`, {where}); "
            f"n = {', '.join(map(str, sorted(seeds)))} a cell."
        )
    return "The best rival of a cell is picked with hindsight. " + " ".join(parts) + "\n"


def picture(found: dict[tuple[str, str], dict[Cell, Leads]]) -> Figure:
    """The lead over the best rival of each cell: a row of panels a tier, a panel a split."""
    figure = Figure(figsize=(7.16, 4.6), layout="constrained")
    panels = figure.subplots(len(TIERS), len(SPLITS), sharex=True, sharey=True)
    for row, (tier, words) in zip(panels, TIERS.items(), strict=True):
        for axes, split in zip(row, SPLITS, strict=True):
            field = [[found[tier][Cell(split, snr, symbols)].least[0] for symbols in SYMBOLS] for snr in SNRS]
            image = axes.imshow(field, cmap="RdBu", vmin=-8, vmax=8, origin="lower", aspect="auto")
            for i, values in enumerate(field):
                for j, value in enumerate(values):
                    axes.text(j, i, f"{value:+.1f}", ha="center", va="center", fontsize=8, color="black")
            axes.set_title("IID" if split == "IID" else f"Dirichlet {split}", fontsize=8)
            axes.set_xticks(range(3), [f"{s:g}" for s in SYMBOLS])
            axes.set_yticks(range(3), [f"{s:g}" for s in SNRS])
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(f"{words}\n\nmedian SNR (dB)", fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("symbols a parameter", fontsize=8)
    bar = figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("lead over the best rival (points)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def main() -> None:
    found = leads()
    (FOLDER / "grid.md").write_text(table(found))
    told = sentence(found)
    (FOLDER / "grid.txt").write_text(told)
    picture(found).savefig(FOLDER / "grid.png", dpi=150)
    print(told)


if __name__ == "__main__":
    main()
