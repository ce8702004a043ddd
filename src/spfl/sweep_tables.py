"""What a study adds up to: a table with a row a point, mean and spread over seeds, and the best rate of each scheme."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from spfl.config import Config
from spfl.errors import ConfigError
from spfl.folders import write_atomically
from spfl.runlog import Json, write_table

TABLE, SUMMARY, RATES = "results.parquet", "summary.md", "rates.toml"
RATE = "training.rate"
MEASURED = ("accuracy_last", "accuracy_final", "mean_q_s", "payload_bits_per_round", "wall_s")


def write_tables(folder: Path, rows: Sequence[Json]) -> None:
    """Write results.parquet, a row a finished point, and summary.md, a row a cell."""
    done = [row for row in rows if row["status"] == "done"]
    if done:
        write_table(folder / TABLE, as_table(done), compression="zstd")
    write_atomically(folder / SUMMARY, summary_text(rows).encode())


def as_table(rows: Sequence[Json]) -> pa.Table:
    """One column a measurement, `seconds_*` a phase, and one a swept key, under its dotted name.

    The names of the swept keys are in the metadata of the schema. A key with values of several types becomes text.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    flat = []
    for row in rows:
        plain = {k: v for k, v in row.items() if k not in ("settings", "seconds_per_round", "status", "error")}
        seconds = {f"seconds_{phase}": value for phase, value in row["seconds_per_round"].items()}
        flat.append(plain | seconds | {key: row["settings"].get(key) for key in keys})
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {name: _column([row.get(name) for row in flat]) for name in names}
    return pa.table(columns).replace_schema_metadata({"swept": json.dumps(keys)})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


# --- mean and spread over seeds -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Points that differ in the seed only."""

    settings: Json
    rows: Sequence[Json]

    def mean(self, name: str) -> float:
        values = [row[name] for row in self.rows if row[name] is not None]
        return statistics.fmean(values) if values else math.nan

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1) of `accuracy_last`; None for one seed."""
        return statistics.stdev(row["accuracy_last"] for row in self.rows) if len(self.rows) > 1 else None


def cells(rows: Sequence[Json]) -> list[Cell]:
    """Finished points by their settings but for the seed, in the order in which they are met."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        if row["status"] == "done":
            groups.setdefault(json.dumps({k: v for k, v in row["settings"].items() if k != "seed"}), []).append(row)
    return [Cell(json.loads(text), members) for text, members in groups.items()]


def summary_text(rows: Sequence[Json]) -> str:
    """The cells as a table in Markdown, and the failed points with their errors."""
    found = cells(rows)
    keys = list(dict.fromkeys(key for cell in found for key in cell.settings if key != "scheme.name"))
    varying = [key for key in keys if len({str(cell.settings.get(key)) for cell in found}) > 1]
    header = ["scheme", *varying, "acc %", "± std", "n", "final %", "q_s", "Mbit/round", "s/run"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for cell in found:
        accuracy, final, q_s, bits, wall = map(cell.mean, MEASURED)
        lines.append(
            [
                cell.settings["scheme.name"],
                *("-" if cell.settings.get(key) is None else str(cell.settings[key]) for key in varying),
                f"{100 * accuracy:.2f}",
                "-" if cell.std is None else f"{100 * cell.std:.2f}",
                str(len(cell.rows)),
                f"{100 * final:.2f}",
                f"{q_s:.3f}",
                f"{bits / 1e6:.3f}",
                f"{wall:.1f}",
            ]
        )
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{_caption(rows)}\n{_failures(rows)}"


def _caption(rows: Sequence[Json]) -> str:
    part = "validation" if any(row["validation"] for row in rows) else "test"
    return (
        f"acc: {part} accuracy, mean over the evaluations of the last quarter of the rounds, then over n seeds;\n"
        "std: over seeds. q_s: chance that a sign (or single) packet arrives. Mbit: payload sent, heard or not."
    )


def _failures(rows: Sequence[Json]) -> str:
    lines = [
        f"- {', '.join(f'{k} = {v}' for k, v in row['settings'].items())}: {row['error']}"
        for row in rows
        if row["status"] != "done"
    ]
    return "\n".join(["\nFailed:", "", *lines, ""]) if lines else ""


# --- the best rate of each scheme ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """Mean validation accuracy of a scheme by learning rate, over `count` points each, and the best rate."""

    scheme: str
    accuracy: dict[float, float]
    count: int

    @property
    def best(self) -> float:
        return max(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the smallest or largest tried: the grid should then be extended."""
        return len(self.accuracy) > 1 and self.best in (min(self.accuracy), max(self.accuracy))


def check_tunable(configs: Iterable[Config]) -> None:
    """Raises ConfigError if any of the configurations is evaluated on test data."""
    if any(config.data.validation_fraction == 0 for config in configs):
        raise ConfigError("--tune needs data.validation_fraction > 0 at every point: rates are not tuned on test data")


def tune(rows: Sequence[Json]) -> list[Tuned]:
    """The best rate of each scheme by `accuracy_last`, averaged over all its other settings and seeds.

    A rate with a failed point is left out. Raises ConfigError if a point was evaluated on test data, or if rates of a
    scheme were not tried on the same points.
    """
    if not all(row["validation"] for row in rows):
        raise ConfigError("rates are not tuned on test data: data.validation_fraction is 0")
    tables: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        rest = json.dumps({key: value for key, value in row["settings"].items() if key != RATE})
        rate = row["settings"].get(RATE)
        if rate is None:
            raise ConfigError(f"--tune needs {RATE} in every [[grid]]")
        accuracy = row["accuracy_last"] if row["status"] == "done" else None
        tables.setdefault(row["scheme"], {}).setdefault(rate, {})[rest] = math.nan if accuracy is None else accuracy
    return [_tuned(scheme, table) for scheme, table in tables.items()]


def _tuned(scheme: str, table: dict[float, dict[str, float]]) -> Tuned:
    first = next(iter(table.values())).keys()
    if any(points.keys() != first for points in table.values()):
        raise ConfigError(f"--tune: the rates of {scheme} were not tried on the same points")
    means = {rate: statistics.fmean(points.values()) for rate, points in sorted(table.items())}
    whole = {rate: mean for rate, mean in means.items() if not math.isnan(mean)}
    if not whole:
        raise ConfigError(f"--tune: no rate of {scheme} finished all its points")
    return Tuned(scheme, whole, len(first))


def rates_text(tuned: Sequence[Tuned]) -> str:
    """A [rates] table to paste into a sweep file, with what each rate reached on validation data."""
    lines = ["[rates]"]
    for one in tuned:
        tried = ", ".join(f"{rate:g}: {100 * mean:.1f} %" for rate, mean in one.accuracy.items())
        edge = "; at the edge of the grid" if one.at_edge else ""
        lines.append(f"{one.scheme} = {one.best!r}  # validation, n = {one.count}; {tried}{edge}")
    return "\n".join(lines) + "\n"
