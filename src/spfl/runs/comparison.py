"""Several schemes on the same data order, initial weights, gains and fades, a few seeds each; a table and a figure."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from spfl.config.schema import Config, build_config
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, refusal
from spfl.figures.curves import score_figure
from spfl.figures.saving import save_figure
from spfl.figures.scores import figure_name, shown, unit
from spfl.runs.experiment import FILES, Existing, begin, check_free, run_experiment
from spfl.runs.folders import below, check_ours, locked, write_atomically, writing
from spfl.runs.jsons import Json, dump_json
from spfl.runs.metrics import LOWER, metric_in
from spfl.runs.results import read_curves
from spfl.world.world import World

TABLE_JSON, TABLE_MD = "table.json", "table.md"
COLUMNS = ("scheme", "acc %", "± std", "n", "final %", "q_s", "Mbit/round", "received", "mJ/round", "s/run")

MOST_SEEDS = 10_000
CAPTION = (
    "acc: test accuracy, mean over the evaluations of the last quarter of the rounds, then over n seeds;\n"
    "std: over seeds. q_s: chance that a sign (or single) packet arrives. Mbit: payload\n"
    "sent; received: Mbit of it that arrived. mJ: energy of all devices."
)


def parse_seeds(text: str) -> list[int]:
    """`"0-4"`, `"3"` or `"0,2,5-7"` as a list without repeats. Raises ConfigError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"seeds must look like 0-4 or 0,2,5-7, got '{text}'")
        if int(last or first) - int(first) >= MOST_SEEDS:
            raise ConfigError(f"seeds must be at most {MOST_SEEDS} in a range, got '{part.strip()}'")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def compare(
    config: Config,
    schemes: Sequence[str],
    seeds: Sequence[int],
    dataset: Dataset,
    folder: Path,
    *,
    existing: Existing = "refuse",
    checkpoint_every: int = 10,
    watch: Callable[[Config], Callable[[Json], None]] = lambda _: lambda _: None,
) -> list[Json]:
    """Run every scheme with every seed in FOLDER/SCHEME-SEED; write table.json, table.md and a figure.

    The figure has the name of the score: accuracy.png, r2.png. A scheme takes its own defaults for every key of
    [scheme] that `config` leaves out. Returns the rows of the table.
    `watch` is called with each run's configuration, and what it returns with each round's metrics.
    Raises ConfigError, DataError or RunFolderError before the first run, and what `run_experiment` raises.
    """
    runs = [_variant(config, scheme, seed) for scheme in dict.fromkeys(schemes) for seed in seeds]
    worlds = [World.build(variant, dataset) for variant in runs[:: len(seeds)]]
    figure = figure_name(worlds[0].task.metric)
    check_free(folder, existing, (*FILES, TABLE_JSON, TABLE_MD, figure))
    with locked(folder):
        with writing(folder):
            begin(folder, config, dataset)
        summaries = [
            run_experiment(
                variant,
                dataset,
                run_folder(folder, variant),
                existing=existing,
                checkpoint_every=checkpoint_every,
                progress=watch(variant),
            )
            for variant in runs
        ]
        rows = tabulate(summaries)
        title = f"{dataset.name}, {config.data.devices} devices"
        with writing(folder):
            write_atomically(folder / TABLE_JSON, dump_json(rows, indent=2).encode() + b"\n")
            write_atomically(folder / TABLE_MD, markdown(rows).encode())
            check_ours(folder)
            _draw([run_folder(folder, run) for run in runs], title, folder / figure)
    return rows


def _draw(folders: Sequence[Path], title: str, path: Path) -> None:
    """The figure. Without matplotlib a warning says how to get it: the runs are done by now."""
    try:
        save_figure(score_figure(read_curves(folders), title), path)
    except ModuleNotFoundError as error:
        line = refusal(error)
        if line is None:
            raise
        warnings.warn(f"no figure {path}: {line}, then spfl plot", stacklevel=2)


def run_folder(folder: Path, config: Config) -> Path:
    """Where the run of one scheme and seed lies in the folder of a comparison. RunFolderError where that is a link."""
    return below(folder, f"{config.scheme.name}-{config.seed}")


def _variant(config: Config, scheme: str, seed: int) -> Config:
    values = config.model_dump()
    return build_config(values | {"seed": seed, "scheme": values["scheme"] | {"name": scheme}})


def tabulate(summaries: Sequence[Json]) -> list[Json]:
    """One row a scheme: means over its seeds, and the standard deviation (n - 1) of its accuracy, None for one seed."""
    rows = []
    for scheme in dict.fromkeys(summary["scheme"] for summary in summaries):
        mine = [summary for summary in summaries if summary["scheme"] == scheme]
        metric = metric_in(mine[0])
        last = [summary[f"{metric}_last"] for summary in mine]
        rows.append(
            {
                "scheme": scheme,
                f"{metric}_last": statistics.fmean(last),
                f"{metric}_std": statistics.stdev(last) if len(mine) > 1 else None,
                **({LOWER: True} if mine[0].get(LOWER) else {}),
                "n": len(mine),
                f"{metric}_final": statistics.fmean(s[f"{metric}_final"] for s in mine),
                f"{metric}_best": statistics.fmean(s[f"{metric}_best"] for s in mine),
                "mean_q_s": statistics.fmean(s["mean_q_s"] for s in mine),
                "bits_per_round": math.fsum(s["payload_bits"] / s["rounds"] for s in mine) / len(mine),
                "received_bits_per_round": statistics.fmean(s.get("received_bits", 0) / s["rounds"] for s in mine),
                "joules_per_round": statistics.fmean(s.get("joules", 0) / s["rounds"] for s in mine),
                "seconds": statistics.fmean(s["seconds"]["total"] for s in mine),
                "runs": [
                    {"seed": s["seed"], f"{metric}_last": s[f"{metric}_last"], "digest": s["digest"]} for s in mine
                ],
            }
        )
    return rows


def columns(metric: str) -> list[str]:
    """The headings of the table, with the name of the score."""
    if metric == "accuracy":
        return list(COLUMNS)
    own = {"acc %": f"{metric}{unit(metric)}", "final %": f"final{unit(metric)}"}
    return [own.get(name, name) for name in COLUMNS]


def figure_of(folder: Path, rows: Sequence[Json]) -> Path:
    """Where the figure of a comparison lies that has these rows."""
    return folder / figure_name(metric_in(rows[0]))


def headings(rows: Sequence[Json]) -> list[str]:
    """The headings of the table of these rows."""
    return columns(metric_in(rows[0])) if rows else list(COLUMNS)


def cells(row: Json) -> list[str]:
    """A row as text, one cell a column."""
    metric = metric_in(row)
    last, spread, final = (shown(metric, row[f"{metric}_{when}"], sign="") for when in ("last", "std", "final"))
    bits = [f"{row[key] / 1e6:.2f}" for key in ("bits_per_round", "received_bits_per_round")]
    tail = [f"{1e3 * row['joules_per_round']:.3g}", f"{row['seconds']:.1f}"]
    return [row["scheme"], last, spread, str(row["n"]), final, f"{row['mean_q_s']:.3f}", *bits, *tail]


def markdown(rows: Sequence[Json]) -> str:
    """The table in Markdown, with a line that says what its columns are."""
    lines = [headings(rows), ["---", *["---:"] * (len(COLUMNS) - 1)], *map(cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{caption(rows)}\n"


def caption(rows: Sequence[Json]) -> str:
    """What the columns of the table of these rows are."""
    metric = metric_in(rows[0]) if rows else "accuracy"
    return CAPTION if metric == "accuracy" else CAPTION.replace("acc: test accuracy", f"{metric}: on the test part")
