"""What all benchmarks write: one JSON file with the measurement, and the machine and commit it was made on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from spfl.runs.environment import describe_environment

MARK = "POINT "


def apart(script: str, *arguments: str) -> Any:
    """What `script` tells (`tell`) when it is run with these arguments, in a process of its own; shown on stderr."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.partition(MARK)[2])
    print(told, file=sys.stderr, flush=True)
    return told


def tell(measured: Any) -> None:
    """Say to the process that called what was measured in this one."""
    print(MARK + json.dumps(measured))


def write(out: Path | None, name: str, measured: Any) -> None:
    """Print the measurement; with `out`, write OUT/NAME.json as well."""
    print(json.dumps(measured, indent=1))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"environment": describe_environment(), "measured": measured}
        (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
