"""What a study adds up to: a table with a row a point, mean and spread over seeds, and the best rate of each scheme."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from spfl.figures.scores import shown, unit
from spfl.runs.folders import write_atomically
from spfl.runs.health import grouped
from spfl.runs.jsons import Json
from spfl.runs.metrics import metric_in
from spfl.runs.parquet import write_table

TABLE, CURVES, SUMMARY, RATES = "results.parquet", "curves.parquet", "summary.md", "rates.toml"
RATE = "training.rate"
# What a curve has at each evaluation beside its score: its name in a row (after curve_), and in a table.
ALONG = {"payload_bits": "payload_bits", "joules": "energy_j", "seconds": "time_s"}
MEASURED = (
    "mean_q_s",
    "payload_bits_per_round",
    "received_bits_per_round",
    "joules_per_round",
    "wall_s",
)


def write_tables(folder: Path, rows: Sequence[Json]) -> None:
    """Write results.parquet, a row a finished point; curves.parquet, a row an evaluation; summary.md, a row a cell."""
    done = [row for row in rows if row["status"] == "done"]
    if done:
        write_table(folder / TABLE, as_table(done), compression="zstd")
        along = [
            {"key": row["key"], "scheme": row["scheme"], "seed": row["seed"], **row["settings"], **point}
            for row in done
            for point in curve(row)
        ]
        write_table(folder / CURVES, long_table(along), compression="zstd")
    write_atomically(folder / SUMMARY, summary_text(rows).encode())


def settings_text(row: Json) -> str:
    """A point in words: its scheme, and what else the study sets."""
    settings = (f"{key} = {value}" for key, value in row["settings"].items() if key != "scheme.name")
    return ", ".join([row["scheme"], *settings])


def health_lines(rows: Sequence[Json]) -> list[str]:
    """What is wrong with the points of a sweep, a line for each rule."""
    return grouped({settings_text(row): row.get("health", {}) for row in rows})


def as_table(rows: Sequence[Json]) -> pa.Table:
    """One column a measurement, `seconds_*` a phase, and one a swept key, under its dotted name.

    The names of the swept keys are in the metadata of the schema. A key with values of several types becomes text.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    flat = []
    for row in rows:
        plain = {
            k: v for k, v in row.items() if k not in ("settings", "seconds_per_round", "status", "error", "health")
        }
        seconds = {f"seconds_{phase}": value for phase, value in row["seconds_per_round"].items()}
        flat.append(plain | seconds | {key: row["settings"].get(key) for key in keys})
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {name: column([row.get(name) for row in flat]) for name in names}
    return pa.table(columns).replace_schema_metadata({"swept": json.dumps(keys)})


def curve(row: Json) -> list[Json]:
    """The curve of a point, one object an evaluation."""
    metric = metric_in(row)
    names = {"round": "round", metric: metric} | ALONG
    known = {name: row[f"curve_{old}"] for old, name in names.items() if row.get(f"curve_{old}") is not None}
    return [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]


def long_table(rows: Sequence[Json]) -> pa.Table:
    """Objects as a table, a row each; what one lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: column([row.get(name) for row in rows]) for name in names})


def column(values: list[Any]) -> pa.Array:
    """Values as a column, of text where they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


# --- mean and spread over seeds -----------------------------------------------------------------------------


@dataclass(frozen=True)
class GridPoint:
    """Points that differ in the seed only."""

    settings: Json
    rows: Sequence[Json]

    @property
    def metric(self) -> str:
        """The name of the score."""
        return metric_in(self.rows[0])

    def mean(self, name: str) -> float:
        values = [row[name] for row in self.rows if row.get(name) is not None]
        return statistics.fmean(values) if values else math.nan

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1) of the score; None for one seed."""
        return statistics.stdev(row[f"{self.metric}_last"] for row in self.rows) if len(self.rows) > 1 else None

    @property
    def findings(self) -> str:
        """The rules of health that points break, and in how many of them; empty when all are well."""
        names = Counter(name for row in self.rows for name in row.get("health") or {})
        return ", ".join(f"{name} ({count} of {len(self.rows)})" for name, count in names.items())


def cells(rows: Sequence[Json]) -> list[GridPoint]:
    """Finished points by their settings but for the seed, in the order in which they are met."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        if row["status"] == "done":
            groups.setdefault(json.dumps({k: v for k, v in row["settings"].items() if k != "seed"}), []).append(row)
    return [GridPoint(json.loads(text), members) for text, members in groups.items()]


def summary_text(rows: Sequence[Json]) -> str:
    """The cells as a table in Markdown, and the failed points with their errors."""
    found = cells(rows)
    keys = list(dict.fromkeys(key for cell in found for key in cell.settings if key != "scheme.name"))
    metric = found[0].metric if found else "accuracy"
    varying = [key for key in keys if len({str(cell.settings.get(key)) for cell in found}) > 1]
    header = [
        "scheme",
        *varying,
        "acc %" if metric == "accuracy" else f"{metric}{unit(metric)}",
        "± std",
        "n",
        f"final{unit(metric)}",
        "q_s",
        "Mbit/round",
        "received",
        "mJ/round",
        "s/run",
        *(["health"] if any(cell.findings for cell in found) else []),
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for cell in found:
        last, final = cell.mean(f"{metric}_last"), cell.mean(f"{metric}_final")
        q_s, bits, received, joules, wall = map(cell.mean, MEASURED)
        lines.append(
            [
                cell.settings["scheme.name"],
                *("-" if cell.settings.get(key) is None else str(cell.settings[key]) for key in varying),
                *(shown(metric, value, 2, "") for value in (last, cell.std)),
                str(len(cell.rows)),
                shown(metric, final, 2, ""),
                f"{q_s:.3f}",
                f"{bits / 1e6:.3f}",
                f"{received / 1e6:.3f}",
                f"{1e3 * joules:.3g}",
                f"{wall:.1f}",
                *([cell.findings] if "health" in header else []),
            ]
        )
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{_caption(rows, metric)}\n{_failures(rows)}"


def _caption(rows: Sequence[Json], metric: str) -> str:
    part = "validation" if any(row["validation"] for row in rows) else "test"
    told = f"acc: {part} accuracy" if metric == "accuracy" else f"{metric}: of the {part} data"
    return (
        f"{told}, mean over the evaluations of the last quarter of the rounds, then over n seeds;\n"
        "std: over seeds. q_s: chance that a sign (or single) packet arrives. Mbit: payload\n"
        "sent; received: Mbit of it that arrived. mJ: energy of all devices."
    )


def _failures(rows: Sequence[Json]) -> str:
    lines = [
        f"- {', '.join(f'{k} = {v}' for k, v in row['settings'].items())}: {row['error']}"
        for row in rows
        if row["status"] != "done"
    ]
    return "\n".join(["\nFailed:", "", *lines, ""]) if lines else ""


# --- the best rate of each scheme ---------------------------------------------------------------------------
