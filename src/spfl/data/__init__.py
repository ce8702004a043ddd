"""Inputs and labels: found, decoded, normalised, shared out to devices."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR_ENV = "SPFL_DATA_DIR"
SUFFIXES = (".parquet", ".csv", ".txt")  # of files of data


def data_root(data_dir: Path | str | None) -> Path | None:
    """The folder of datasets: the one given, else that of the environment variable, else none."""
    place = data_dir or os.environ.get(DATA_DIR_ENV)
    return Path(place) if place else None
