"""Writing the files of `spfl.radio.trace`: gains of a configuration's cell, or what a run received."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from spfl.errors import ConfigError, RunFolderError
from spfl.files import is_file
from spfl.radio.outage import level
from spfl.runs.folders import write_atomically
from spfl.runs.metrics import ALLOCATION, PARTS
from spfl.runs.parquet import column, read_table, values
from spfl.runs.past import CONFIG
from spfl.units import linear_to_db
from spfl.world.world import World


def gains_table(world: World) -> pa.Table:
    """The power gain of every device of a cohort in every round: its mean gain times its fade.

    Raises ConfigError where packets or subbands of a device have fades of their own, which one number cannot hold.
    """
    channel = world.config.channel
    if channel.fading in ("independent", "selective") or channel.link in ("bler", "uncoded"):
        raise ConfigError("a trace of gains needs channel.fading with one fade for both packets and link = outage or "
                          f"gap, got {channel.fading} and {channel.link}; record a run with --from")  # fmt: skip
    if world.config.clients.selection != "random":
        raise ConfigError(f"a trace of gains needs clients.selection = random, got {world.config.clients.selection}; "
                          "record a run with --from")  # fmt: skip
    rounds, devices, gains = list[int](), list[int](), list[float]()
    for round_ in range(1, world.config.training.rounds + 1):
        cohort = world.cohort(round_)
        fade = level(world.radio.fades(cohort, round_)[0])
        rounds += [round_] * len(cohort)
        devices += cohort
        gains += linear_to_db(world.radio.cell(round_).gain[list(cohort)] * fade).tolist()
    return pa.table({"round": rounds, "device": devices, "gain_db": gains})


def outcomes_table(folder: Path) -> pa.Table:
    """What a run folder says was received, also of a run that was stopped or goes on.

    Raises RunFolderError for a folder without rounds, and ConfigError for a run whose packets were received in parts.
    """
    files = [folder / ALLOCATION] if is_file(folder / ALLOCATION) else sorted(folder.glob(PARTS))
    if not files:
        raise RunFolderError(f"{folder} has no {ALLOCATION} and no part of one: no round was written")
    if is_file(folder / CONFIG) and 'recovery = "segment"' in (folder / CONFIG).read_text(encoding="utf-8"):
        raise ConfigError(
            f"{folder} is of channel.recovery = segment, whose packets arrive in parts; a trace has whole ones"
        )
    wanted = {"round": "round", "device": "device", "sign": "sign_received", "modulus": "modulus_received"}
    table = pa.concat_tables([read_table(file, list(wanted)) for file in files])
    return pa.table({new: column(values(table.column(old)).astype(np.int64)) for old, new in wanted.items()})


def write_trace(path: Path, table: pa.Table) -> None:
    """A trace as CSV or parquet, by the name of the file. Raises ConfigError for another name."""
    content = io.BytesIO()
    if path.suffix.lower() == ".parquet":
        parquet.write_table(table, content)
    elif path.suffix.lower() == ".csv":
        csv.write_csv(table, content)
    else:
        raise ConfigError(f"--out must end in .csv or .parquet, got {path}")
    write_atomically(path, content.getvalue())
