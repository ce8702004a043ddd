"""The learning rate of each scheme, chosen among those of a grid on validation data."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from spfl.config.schema import Config
from spfl.errors import ConfigError
from spfl.figures.scores import ACCURACY, ScoreKind, shown
from spfl.runs.health import UNTRAINED
from spfl.runs.jsons import Json
from spfl.runs.metrics import metric_in, score_in
from spfl.studies.tables import RATE


@dataclass(frozen=True)
class Tuned:
    """Mean validation score of a scheme by learning rate, over `count` points each, and the best rate.

    `refused` has the rates with a point that did not train, and what `runs.health` says of it: whatever score such
    a rate reached, it is not chosen. `best` is None where no other is left.
    """

    scheme: str
    scores: dict[float, float]
    count: int
    refused: dict[float, str] = field(default_factory=dict)
    score: ScoreKind = ACCURACY

    @property
    def best(self) -> float | None:
        return max(self.scores, key=lambda rate: self.score.sign * self.scores[rate], default=None)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the smallest or largest tried: the grid should then be extended."""
        tried = self.scores.keys() | self.refused.keys()  # beyond one that did not train there is nothing to find
        return len(self.scores) > 1 and self.best in (min(tried), max(tried))


def check_tunable(configs: Sequence[Config], swept: Iterable[str]) -> None:
    """Raises ConfigError if no rate is swept, or if any of the configurations is evaluated on test data."""
    if RATE not in swept:
        raise ConfigError(f"--tune needs {RATE} in a [[grid]], with the values to choose among")
    if any(config.data.validation_fraction == 0 for config in configs):
        raise ConfigError("--tune needs data.validation_fraction > 0 at every point: rates are not tuned on test data")


def tune(rows: Sequence[Json]) -> list[Tuned]:
    """The best rate of each scheme by the score of its last quarter, averaged over all its other settings and seeds.

    A rate with a failed point, or with one that did not train, is left out. Raises ConfigError if a point was evaluated
    on test data, or if rates of a scheme were not tried on the same points.
    """
    if not all(row["validation"] for row in rows):
        raise ConfigError("rates are not tuned on test data: data.validation_fraction is 0")
    tables: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        rest = json.dumps({key: value for key, value in row["settings"].items() if key != RATE})
        rate = row["settings"].get(RATE)
        if rate is None:
            raise ConfigError(f"--tune needs {RATE} in every [[grid]]")
        last = row[f"{metric_in(row)}_last"] if row["status"] == "done" else None
        tables.setdefault(row["scheme"], {}).setdefault(rate, {})[rest] = math.nan if last is None else last
    score = next((score_in(row) for row in rows if row["status"] == "done"), ACCURACY)
    return [replace(_tuned(*item, _untrained(item[0], rows)), score=score) for item in tables.items()]


def _untrained(scheme: str, rows: Sequence[Json]) -> dict[float, str]:
    """The rates of a scheme with a run that the rules of health call no training -> the line on it."""
    found: dict[float, str] = {}
    for row in rows:
        for name in UNTRAINED if row["scheme"] == scheme else ():
            if name in row.get("health", {}):
                found.setdefault(row["settings"][RATE], row["health"][name])
    return dict(sorted(found.items()))


def _tuned(scheme: str, table: dict[float, dict[str, float]], untrained: dict[float, str]) -> Tuned:
    first = next(iter(table.values())).keys()
    if any(points.keys() != first for points in table.values()):
        raise ConfigError(f"--tune: the rates of {scheme} were not tried on the same points")
    means = {rate: statistics.fmean(points.values()) for rate, points in sorted(table.items())}
    whole = {rate: mean for rate, mean in means.items() if not math.isnan(mean)}
    if not whole:
        raise ConfigError(f"--tune: no rate of {scheme} finished all its points")
    return Tuned(scheme, {rate: mean for rate, mean in whole.items() if rate not in untrained}, len(first), untrained)


def rates_text(tuned: Sequence[Tuned]) -> str:
    """A [rates] table to paste into a sweep file, with what each rate reached on validation data."""
    lines = ["[rates]"]
    for one in tuned:
        tried = ", ".join(f"{rate:g}: {shown(one.score.metric, mean, 1, ' %')}" for rate, mean in one.scores.items())
        edge = "; at the edge of the grid" if one.at_edge else ""
        refused = "".join(f"; {rate:g} did not train" for rate in one.refused)
        name = f"# {one.scheme}: no rate trained" if one.best is None else f"{one.scheme} = {one.best!r}"
        lines.append(f"{name}  # validation, n = {one.count}; {tried}{edge}{refused}".replace("; ;", ";"))
    return "\n".join(lines) + "\n"
