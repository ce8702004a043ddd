"""The paper's claim in its kind of cell: points of the sweeps to one small file, a table, a picture, a sentence.

python benchmarks/claim.py add runs/paper-map    # the finished points of a sweep into docs/results/paper/points.json
python benchmarks/claim.py table                 # docs/results/paper/{map.md,leads.png,sentence.txt} from that file

For a sweep that ran on another machine, `--commit` says which commit the code was, and `--device` which PyTorch device.
`--symbols` (per parameter), `--snr` (median, dB) and `--pixels` (of a side) are those of a sweep that does not vary
them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from tiers import arguments_of, interval, save

FOLDER = Path("docs/results/paper")
POINTS, TABLE, LEADS, SENTENCE, POINT = (
    FOLDER / name for name in ("points.json", "map.md", "leads.png", "sentence.txt", "quoted.md")
)
SAME_WEIGHTS = "single_packet_unbiased"
ABLATIONS = ("sp_fl_uniform", "sp_fl_no_band", "sp_fl_no_power", "sp_fl_no_compensation")
RIVALS = ("single_packet", SAME_WEIGHTS, "single_packet_optimised", "gomore", "schedule_norm", "schedule_channel",
          "scaled_sign")  # fmt: skip
OURS = ("sp_fl", "sp_fl superposed", "sp_fl_normalized")
TOLD = {SAME_WEIGHTS: "the single packet with the same weights", "scaled_sign": "one-bit signs"}
Point = dict[str, Any]
CLAIMED = 9.96  # points, in the paper's abstract


class Cell(NamedTuple):
    """Where a point of the map lies."""

    devices: int
    partition: str
    symbols: float
    snr_db: float
    pixels: int = 16

    @property
    def words(self) -> str:
        """What a table calls its devices and data."""
        split = "IID" if self.partition == "iid" else "Dirichlet 0.3"
        return f"{self.devices}, {split}" + ("" if self.pixels == 16 else f", {self.pixels} x {self.pixels}")


Accuracies = dict[str, dict[int, float]]  # scheme -> seed -> accuracy in percent
QUOTED = tuple(Cell(10, *rest) for rest in (("dirichlet", 0.5, 3.0, 32), ("dirichlet", 0.5, 3.0), ("iid", 0.5, 3.0)))


def add(sweep: Path, commit: str | None, device: str | None, fixed: Cell) -> None:
    """Put the finished points of a sweep into the file, each once."""
    known: list[Point] = json.loads(POINTS.read_text()) if POINTS.is_file() else []
    environment = json.loads((sweep / "environment.json").read_text())
    by_key = {(p["scheme"], p["seed"], Cell(*p["cell"])): p for p in known}
    for row in map(json.loads, (sweep / "results.jsonl").read_text().splitlines()):
        if row["status"] != "done":
            continue
        settings = row["settings"]
        superposed = " superposed" if settings.get("channel.multiplex") == "superposed" else ""
        cell = Cell(
            settings.get("data.devices") or fixed.devices,
            settings.get("data.partition") or fixed.partition,
            settings.get("channel.symbols_per_parameter") or fixed.symbols,
            settings.get("channel.median_snr_db", fixed.snr_db),
            fixed.pixels,
        )
        point = {"scheme": row["scheme"] + superposed, "seed": row["seed"], "cell": cell}
        point |= {"rate": settings["training.rate"], "accuracy_last": row["accuracy_last"]}
        point |= {"signs_received_per_round": row["signs_received_per_round"], "commit": commit or row["commit"]}
        point |= {"hardware": device or environment["cpu"]}
        by_key[point["scheme"], point["seed"], cell] = point
    ordered = sorted(by_key.values(), key=lambda p: (list(p["cell"]), p["scheme"], p["seed"]))
    save(POINTS, ordered)


def cells() -> dict[Cell, Accuracies]:
    found: dict[Cell, Accuracies] = {}
    for point in json.loads(POINTS.read_text()):
        accuracies = found.setdefault(Cell(*point["cell"]), {})
        accuracies.setdefault(point["scheme"], {})[point["seed"]] = 100 * point["accuracy_last"]
    return dict(sorted(found.items()))


def lead(accuracies: Accuracies, ours: str, rival: str) -> list[float]:
    """Ours less the rival, in points, over the seeds that both have."""
    mine, theirs = accuracies.get(ours, {}), accuracies.get(rival, {})
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def table(found: dict[Cell, Accuracies]) -> str:
    """A row a cell, a column a scheme: the mean over seeds; the best scheme but `error_free` in bold."""
    names = ("error_free", *OURS, *RIVALS, *ABLATIONS)
    lines = ["Made by `python benchmarks/claim.py table` from points.json. Accuracy in percent, mean over n seeds.", ""]
    lines += ["| K, data | symbols | SNR | n | " + " | ".join(f"`{name}`" for name in names) + " |"]
    lines += ["|---" * 4 + "|---:" * len(names) + "|"]
    for cell, accuracies in found.items():
        means = {name: statistics.fmean(seeds.values()) for name, seeds in accuracies.items()}
        best = max((m, name) for name, m in means.items() if name != "error_free")[1]
        counts = sorted({len(seeds) for name, seeds in accuracies.items() if name in OURS + RIVALS})
        told = [f"{means[name]:.1f}" if name in means else "" for name in names]
        told = [f"**{text}**" if name == best else text for name, text in zip(names, told, strict=True)]
        count = "-".join(map(str, {counts[0]: None, counts[-1]: None}))
        lines.append(f"| {cell.words} | {cell.symbols:g} | {cell.snr_db:g} dB | {count} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def largest(found: dict[Cell, Accuracies], ours: str, rival: str) -> tuple[float, Cell, list[float]] | None:
    """The largest mean lead over a rival and where it is."""
    all_leads = [(statistics.fmean(gain), cell, gain) for cell, a in found.items() if (gain := lead(a, ours, rival))]
    return max(all_leads, default=None)


def sentence(found: dict[Cell, Accuracies]) -> str:
    parts = []
    for ours in OURS[:2]:
        for rival, words in TOLD.items():
            if best := largest(found, ours, rival):
                mean, cell, gain = best
                place = f"{cell.snr_db:g} dB, {cell.symbols:g} symbols per parameter, K = {cell.words}"
                spread = f" ± {interval(gain)}" if len(gain) > 1 else ""
                parts.append(f"`{ours}` over {words}: {mean:+.1f}{spread} ({place}, n = {len(gain)})")
    gone = {"sp_fl_no_band": "bandwidth", "sp_fl_no_power": "power", "sp_fl_no_compensation": "compensation"}
    costs, count = [], 0
    for name, what in gone.items():
        means = [statistics.fmean(gain) for a in found.values() if (gain := lead(a, "sp_fl", name))]
        costs.append(f"{statistics.fmean(means):+.1f} for {what}")
        count = len(means)
    own = [(statistics.fmean(gain), cell) for cell, a in found.items() if (gain := lead(a, "sp_fl", SAME_WEIGHTS))]
    least, where = min(own)
    return (
        "Largest leads in points of accuracy, paired over seeds: " + "; ".join(parts) + ". "
        f"Its smallest lead over the single packet with the same weights is {least:+.1f} "
        f"({where.snr_db:g} dB, {where.symbols:g} symbols, K = {where.devices}). "
        f"What its parts add, mean over the {count} cells with ablations: {', '.join(costs)}.\n"
    )


def quoted(found: dict[Cell, Accuracies]) -> str:
    """`sp_fl` less each rival at the points that are quoted, a table."""
    lines = [
        f"| at 3 dB, half a symbol | rival | lead | 95 % interval | seeds above {CLAIMED} | n |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for cell in QUOTED:
        for rival in RIVALS:
            if gain := lead(found[cell], "sp_fl", rival):
                above = sum(g > CLAIMED for g in gain)
                where = f"K = {cell.words}" + (", 16 x 16" if cell.pixels == 16 else "")
                mean = statistics.fmean(gain)
                lines.append(f"| {where} | `{rival}` | {mean:+.1f} | ± {interval(gain)} | {above} | {len(gain)} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[Cell, Accuracies]) -> Figure:
    """Leads of `sp_fl` by SNR and symbols: on the single packet with the same weights, and on the best of all."""
    main = {cell: a for cell, a in found.items() if cell[:2] == (10, "dirichlet") and cell.pixels == 16}
    symbols, snrs = sorted({c.symbols for c in main}), sorted({c.snr_db for c in main})
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {"the single packet, same weights": (SAME_WEIGHTS,), "the best of all rivals": RIVALS}
    for axes, (title, rivals) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        grid = [[_least(main.get(Cell(10, "dirichlet", s, snr), {}), rivals) for snr in snrs] for s in symbols]
        image = axes.imshow(grid, cmap="RdBu", vmin=-10, vmax=10, origin="lower", aspect="auto")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                if value == value:
                    axes.text(
                        j, i, f"{value:+.1f}", ha="center", va="center", color="white" if abs(value) > 6 else "black"
                    )
        axes.set(title=f"sp_fl less {title}", xlabel="median SNR (dB)", ylabel="symbols per parameter")
        axes.set_xticks(range(len(snrs)), [f"{snr:g}" for snr in snrs])
        axes.set_yticks(range(len(symbols)), [f"{s:g}" for s in symbols])
    figure.colorbar(image, ax=figure.axes, label="points of accuracy")
    return figure


def _least(accuracies: Accuracies, rivals: Iterable[str]) -> float:
    """The mean lead over the best rival; nan where there is none."""
    gains = [statistics.fmean(gain) for rival in rivals if (gain := lead(accuracies, "sp_fl", rival))]
    return min(gains, default=float("nan"))


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--symbols", type=float, default=2.0)
    parser.add_argument("--snr", type=float, default=3.0)
    parser.add_argument("--pixels", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.what == "add":
        fixed = Cell(10, "dirichlet", arguments.symbols, arguments.snr, arguments.pixels)
        add(arguments.sweep, arguments.commit, arguments.device, fixed)
    else:
        found = cells()
        TABLE.write_text(table(found))
        SENTENCE.write_text(sentence(found))
        POINT.write_text(quoted(found))
        draw(found).savefig(LEADS, dpi=150)
        print(TABLE, LEADS, SENTENCE)


if __name__ == "__main__":
    main()
