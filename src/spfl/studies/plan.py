"""The frozen plan of a sweep: a sweep file that gives the same points and needs no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable

from spfl.config.files import dotted, toml_value
from spfl.config.schema import NO_EFFECT, Config
from spfl.runs.jsons import Json

PLAN = "plan.toml"
HEADER = """\
# The points of this sweep as they were run: all overrides and the base configuration are within.
# spfl sweep {name} --out DIR   runs them again.
"""


def plan_text(points: Iterable[tuple[Json, Config]]) -> str:
    """The plan of points, each with the keys that the sweep sets, and its configuration.

    What no grid sets is the same for all points, and is written once. Points that differ in the seed share a grid.
    """
    every = list(points)
    grids: dict[str, tuple[Json, list[int]]] = {}
    for settings, config in every:
        rest = {key: value for key, value in settings.items() if key != "seed" and value is not None}
        grids.setdefault(json.dumps(rest), (rest, []))[1].append(config.seed)
    swept = {key for settings, _ in every for key in settings}
    common = dotted(every[0][1].model_dump(mode="json", exclude_defaults=True, exclude_none=True))
    lines = [HEADER.format(name=PLAN), "[base]"]
    lines += [_line(key, value) for key, value in common.items() if key not in swept and key not in NO_EFFECT]
    for rest, seeds in grids.values():
        lines += ["", "[[grid]]", f"seed = {toml_value(seeds)}"]
        lines += [_line(key, [value] if isinstance(value, list) else value) for key, value in rest.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: object) -> str:
    return f"{toml_value(key)} = {toml_value(value)}"
