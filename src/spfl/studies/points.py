"""The points of a study: every choice of a sweep file's grids, as a configuration of its own.

A sweep file holds
    [base]     config = "FILE" (a configuration, relative to the sweep file), and keys that override it
    [rates]    SCHEME = learning rate, for grids that do not set training.rate themselves
    [[grid]]   key = value, or list of values: the Cartesian product of the lists, the first key changing slowest;
               rates.SCHEME = learning rate replaces that of [rates] in this grid
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from spfl.config.effects import check_swept
from spfl.config.files import assign, dotted, load_config, parse_override, read_toml
from spfl.config.schema import NO_EFFECT, Config, build_config
from spfl.errors import ConfigError, did_you_mean
from spfl.plugins import own_scheme
from spfl.runs.experiment import flatten
from spfl.runs.jsons import Json
from spfl.schemes import SCHEMES, resolve

RATE = "training.rate"
MOST_POINTS = 100_000  # of one grid: years of work, and more than memory holds long before


@dataclass(frozen=True)
class Point:
    """One run of a study. `key` names its configuration; `settings` are the values of the keys that the study sets."""

    key: str
    settings: Json
    config: Config


def load_points(path: Path, overrides: Iterable[str] = ()) -> list[Point]:
    """The points of a sweep file, each once. `overrides` (`key=value`) win over base, rates and grids.

    Raises ConfigError with one line for the first fault of the file or of any point.
    """
    tables = read_toml(path)
    for name in tables.keys() - {"base", "rates", "grid"}:
        raise ConfigError(f"{path}: unknown table '{name}'" + did_you_mean(name, ("base", "rates", "grid")))
    grids = tables.get("grid", [])
    if not isinstance(grids, list) or not grids:
        raise ConfigError(f"{path} needs at least one [[grid]]")
    base, rates, last = _base(path, tables.get("base", {})), _rates(path, tables), dict(map(parse_override, overrides))
    own_rates = [rates | _rates(path, grid) for grid in grids]
    flat_grids = [dotted({key: value for key, value in grid.items() if key != "rates"}) for grid in grids]
    swept = dict.fromkeys(
        ["scheme.name", "seed", *([RATE] if any(own_rates) else []), *(k for grid in flat_grids for k in grid)]
    )
    points: dict[str, Point] = {}
    for tuned, grid in zip(own_rates, flat_grids, strict=True):
        for choice in _product(path, grid):
            scheme = {**base, **choice, **last}["scheme.name"]
            rate = {RATE: tuned[scheme]} if scheme in tuned else {}
            point = _point(path, {**base, **rate, **choice, **last}, swept)
            points.setdefault(point.key, point)
    check_swept([point.config for point in points.values()], swept)
    return list(points.values())


def _base(path: Path, table: Json) -> Json:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: base must be a table, got {table!r}")
    flat = dotted(table)
    config = flat.pop("config", None)
    return flatten(load_config(path.parent / config if config else None)) | flat


def _rates(path: Path, tables: Json) -> Json:
    rates = tables.get("rates", {})
    if not isinstance(rates, dict):
        raise ConfigError(f"{path}: rates must be a table, got {rates!r}")
    for name in rates.keys() - SCHEMES.keys():
        raise ConfigError(f"{path}: unknown scheme '{name}' in [rates]" + did_you_mean(name, SCHEMES))
    return rates


def _product(path: Path, grid: Json) -> Iterator[Json]:
    choices = [value if isinstance(value, list) else [value] for value in grid.values()]
    for key, values in zip(grid, choices, strict=True):
        if not values:
            raise ConfigError(f"{path}: {key} has no values in [[grid]]")
    if (count := math.prod(map(len, choices))) > MOST_POINTS:
        raise ConfigError(f"{path}: a [[grid]] must have at most {MOST_POINTS} points, got {count}")
    return (dict(zip(grid, choice, strict=True)) for choice in product(*choices))


def _point(path: Path, values: Json, swept: Iterable[str]) -> Point:
    nested: Json = {}
    try:
        for key, value in (values | dict.fromkeys(NO_EFFECT, 1)).items():
            assign(nested, key, value)
        config = build_config(nested)
        resolve(config.scheme, own_scheme(config))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    settings = flatten(config)
    return Point(_name(config), {key: settings[key] for key in swept if key not in NO_EFFECT}, config)


def _name(config: Config) -> str:
    """A name for a configuration: unique, and the same in every process, sweep and version.

    It is a digest of the keys that differ from their defaults, because a new version may add keys, and old results must
    stay valid. Keys that change no result (`NO_EFFECT`) are left out.
    """
    settings = dotted(config.model_dump(exclude_defaults=True))
    text = json.dumps({k: v for k, v in settings.items() if k not in NO_EFFECT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
