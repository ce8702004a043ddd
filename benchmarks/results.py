"""What all benchmarks write: one JSON file with the measurement, and the machine and commit it was made on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spfl.runs.environment import describe_environment


def write(out: Path | None, name: str, measured: Any) -> None:
    """Print the measurement; with `out`, write OUT/NAME.json as well."""
    print(json.dumps(measured, indent=1))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"environment": describe_environment(), "measured": measured}
        (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
