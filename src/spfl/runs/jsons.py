"""JSON as run folders hold it: null for every number that is not finite."""

from __future__ import annotations

import json
import math
from typing import Any

Json = dict[str, Any]


def dump_json(value: Any, indent: int | None = None) -> str:
    """JSON with null for every number that is not finite."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def as_written(value: Json) -> Json:
    """What `dump_json` writes, read back."""
    return dict(json.loads(dump_json(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
