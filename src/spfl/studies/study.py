"""A finished study, taken apart into series, slices and axes.

A series is a scheme together with what of its method is varied (keys of [scheme], and the learning rate unless each
setting has its own); a slice is a setting of all that is varied of the world (data, channel, codec, model, the rest of
training). Within a series and a
slice, points differ in the seed only; across series of one slice, equal seeds share batches, weights, gains and fades.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spfl.errors import RunFolderError, reason
from spfl.figures.scores import ScoreKind
from spfl.files import is_file
from spfl.runs.jsons import Json
from spfl.runs.metrics import score_in
from spfl.runs.parquet import read_table
from spfl.studies.tables import RATE, TABLE

PARTITION, ALPHA = "data.partition", "data.dirichlet_alpha"
WORDS = {
    "channel.median_snr_db": "{} dB",
    "channel.power_dbm": "{} dBm",
    "channel.bandwidth_hz": "{} Hz",
    "channel.tau_s": "{} s a round",
    "channel.symbols_per_parameter": "{} symbols/parameter",
    "data.dirichlet_alpha": "\N{GREEK SMALL LETTER ALPHA} = {}",
    "data.partition": "{}",
    "data.name": "{}",
    "data.devices": "K = {}",
    "codec.bits": "b = {}",
    "model.name": "{}",
}
COLUMNS = (
    *("key", "scheme", "seed", "scheme.name", "validation"),
    *("curve_round", "curve_payload_bits", "uplink_s_per_round"),
)
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Study:
    """The finished points of a sweep: a row each, and the keys that the sweep set."""

    rows: Sequence[Json]
    swept: Sequence[str]

    @cached_property
    def varied(self) -> list[str]:
        """Keys with more than one value, schemes and seeds aside."""
        return [key for key in self.swept if key not in ("seed", "scheme.name") and len(self.values(key)) > 1]

    def values(self, key: str) -> list[Any]:
        """The values of a key, sorted; None last."""
        return sorted({row[key] for row in self.rows}, key=lambda value: (value is None, value))

    def axes(self) -> list[str]:
        """Varied keys whose values are numbers (or absent), at least two of them within one scheme."""
        return [key for key in self.varied if self._is_numeric(key) and self._varies_in_a_scheme(key)]

    def _is_numeric(self, key: str) -> bool:
        return all(value is None or type(value) in (int, float) for value in self.values(key))

    def _varies_in_a_scheme(self, key: str) -> bool:
        if key == RATE:
            return any(key in keys for keys in self._method_keys.values())
        return any(
            len({r[key] for r in rows if r[key] is not None}) > 1 for rows in group(self.rows, "scheme").values()
        )

    def slices(self, without: str = "") -> dict[Setting, list[Json]]:
        """Rows by the setting of the world; `without` leaves one key, an axis, out of it."""
        keys = [key for key in self.varied if not is_method(key) and key != without]
        found: dict[Setting, list[Json]] = {}
        for row in self.rows:
            found.setdefault(tuple((key, row[key]) for key in keys), []).append(row)
        order = [self.values(key) for key in keys]
        return dict(
            sorted(found.items(), key=lambda item: [o.index(v) for o, (_, v) in zip(order, item[0], strict=True)])
        )

    def series(self, rows: Sequence[Json], without: str = "") -> dict[str, list[Json]]:
        """Rows by the label of their series, in the order in which the study has the series."""
        labels = {row["key"]: self._label(row, without) for row in self.rows}
        found: dict[str, list[Json]] = {label: [] for label in labels.values()}
        for row in rows:
            found[labels[row["key"]]].append(row)
        return {label: members for label, members in found.items() if members}

    def _label(self, row: Json, without: str) -> str:
        keys = [key for key in self._method_keys[row["scheme"]] if key != without]
        notes = [f"{short(key)} = {show(row[key])}" for key in keys]
        return str(row["scheme"]) + (f" ({', '.join(notes)})" if notes else "")

    @cached_property
    def _method_keys(self) -> dict[str, list[str]]:
        """The method's keys that vary within a scheme."""
        keys = [key for key in self.varied if is_method(key)]
        return {
            scheme: [key for key in keys if len({row[key] for row in rows}) > 1 and not self._is_tuned(key, rows)]
            for scheme, rows in group(self.rows, "scheme").items()
        }

    def _is_tuned(self, key: str, rows: Sequence[Json]) -> bool:
        """Whether the key is the learning rate, and all else decides it: each setting was given its own."""
        rest = [other for other in self.varied if other != RATE]
        settings = {(tuple(row[other] for other in rest), row[RATE]) for row in rows} if key == RATE else set()
        return key == RATE and len(settings) == len({setting for setting, _ in settings})

    @cached_property
    def score(self) -> ScoreKind:
        """What the points are judged by."""
        return score_in(self.rows[0])

    def last(self, row: Json) -> float:
        """The score of a point: the mean over the evaluations of the last quarter of its rounds."""
        return float(row[f"{self.score.metric}_last"])

    def curves(self, rows: Sequence[Json], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean over seeds of a column `curve_NAME` (evaluation,), and the scores (seed, evaluation)."""
        scores = [row[f"curve_{self.score.metric}"] for row in rows]
        length = min(map(len, scores))
        x = np.array([row[f"curve_{name}"][:length] for row in rows], np.float64)
        return x.mean(0), np.array([one[:length] for one in scores], np.float64)

    @property
    def part(self) -> str:
        """The part of the data that scores are of."""
        return "validation" if any(row["validation"] for row in self.rows) else "test"


def read_study(folder: Path) -> Study:
    """The study in a sweep's folder. Raises RunFolderError when it has no readable results.parquet."""
    path = folder / TABLE
    if not is_file(path):
        raise RunFolderError(f"{folder} holds no {TABLE}: it is not of a sweep, or of one that has not finished")
    table = read_table(path)
    try:
        swept = json.loads(table.schema.metadata[b"swept"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {reason(error)}") from None
    scores = {f"curve_{name.removesuffix('_last')}" for name in table.column_names if name.endswith("_last")}
    for name in {*COLUMNS, *swept, *(scores or {"accuracy_last"})} - set(table.column_names):
        raise RunFolderError(f"{path} has no column {name}: it is of another version; sweep again")
    rows = table.to_pylist()
    for row in rows:
        row.update({key: str(row[key]) for key in swept if isinstance(row[key], list)})
    return Study(rows, _join_partition(rows, swept))


def _join_partition(rows: Sequence[Json], swept: Sequence[str]) -> list[str]:
    """IID data as an infinite concentration, where both are swept; and no concentration where it has no meaning."""
    if not {PARTITION, ALPHA} <= set(swept):
        return list(swept)
    for row in rows:
        if row[PARTITION] != "dirichlet":
            row[ALPHA] = math.inf if row[PARTITION] == "iid" else None
    others = {row[PARTITION] for row in rows} - {"iid", "dirichlet"}
    return [key for key in swept if key != PARTITION or others]


def group(rows: Iterable[Json], key: str) -> dict[Any, list[Json]]:
    """Rows by the value of a key, in the order in which the values are met."""
    found: dict[Any, list[Json]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def is_method(key: str) -> bool:
    """Whether a key belongs to how learning is done, and not to the world it is done in."""
    return key.startswith("scheme.") or key == RATE


def short(key: str) -> str:
    return key.rpartition(".")[2]


def show(value: Any) -> str:
    if isinstance(value, float):
        return "IID" if math.isinf(value) else f"{value:g}"
    return "-" if value is None else str(value)


def title(setting: Setting) -> str:
    """A slice in words; what has no value is left out."""
    words = [(WORDS.get(key, f"{short(key)} = {{}}"), typeset(value)) for key, value in setting if value is not None]
    return ", ".join(text if text == "IID" else word.format(text) for word, text in words)


def typeset(value: Any) -> str:
    """`show` for figures: numbers have a true minus."""
    return show(value).replace("-", "\N{MINUS SIGN}") if type(value) in (int, float) else show(value)


def plain(setting: Setting) -> Json:
    """A slice as a JSON object, which knows no infinity."""
    return {key: show(value) if value == math.inf else value for key, value in setting}
