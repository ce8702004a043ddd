"""Whether a folder still holds what was written, for errors that nobody foresaw: its own digests tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from spfl.errors import RunFolderError
from spfl.files import is_file, read_file
from spfl.runs.experiment import SUMMARY
from spfl.runs.past import METRICS, changed_since_the_end, read_past


def damage(folder: Path) -> str | None:
    """What is wrong with the runs in a folder, in one line; None where there are none, or all is as it was written."""
    for run in _runs(folder):
        try:
            fault = _fault(run)
        except (RunFolderError, OSError, ValueError) as error:
            fault = str(error)
        if fault is not None:
            return f"{run} is damaged: {fault}"
    return None


def _runs(folder: Path) -> Iterator[Path]:
    places = {path.parent for depth in ("", "*/", "runs/*/") for path in folder.glob(depth + METRICS)}
    yield from sorted(places)


def _fault(run: Path) -> str | None:
    if not is_file(run / SUMMARY):
        return read_past(run).fault
    summary = json.loads(read_file(run / SUMMARY))
    if not isinstance(summary, dict) or "digest" not in summary:
        return f"{SUMMARY} is not of a run"
    return changed_since_the_end(run, summary)
