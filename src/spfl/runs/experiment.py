"""A run on disk: one folder a run, stopped and resumed at will. The numbers come from `training.run` alone.

A run folder holds
    config.toml           the resolved configuration
    environment.json      versions, machine, commit, a fingerprint of the data, and the caller's own parts by name
    devices.parquet       one row a device: distance, gain, samples, samples by class
    metrics.jsonl         one JSON object a round; wall-clock is under `seconds` and nowhere else
    allocation.parquet    one row a round and device of the cohort
    weights.safetensors   the final weights, by tensor name
    summary.json          accuracies, totals, the digest of the metrics, and under `files` the SHA-256 of every file
                          above; written last, so it marks a finished run
and, until it is finished, checkpoint-*.safetensors, allocation-*-*.parquet, and .lock while a process writes to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save

from spfl import training
from spfl.config.files import dotted, load_config, to_toml
from spfl.config.schema import NO_EFFECT, Config
from spfl.custom import AS_CONFIGURED, Custom
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, RunFolderError, plain_errors
from spfl.files import LARGEST_TEXT, check_file, is_file, read_file
from spfl.runs.checkpoint import PATTERN, Checkpoint, read_checkpoints, save_checkpoint
from spfl.runs.environment import describe_environment, fingerprint
from spfl.runs.folders import LOCK, check_ours, locked, remove, write_atomically, writing
from spfl.runs.jsons import Json, dump_json
from spfl.runs.metrics import (
    ALLOCATION,
    DEVICES,
    PARTS,
    RoundLog,
    join_parts,
    read_metrics,
    summarise,
    write_devices,
)
from spfl.runs.past import CONFIG, METRICS, Past, changed_file, changed_since_the_end, file_digests, read_past
from spfl.training import RoundRecord
from spfl.world.state import ServerState
from spfl.world.torch_device import device_name
from spfl.world.world import World

Existing = Literal["refuse", "overwrite", "resume"]
Rounds = Callable[[Config, Dataset, ServerState | None], Iterator[RoundRecord]]

ENVIRONMENT, WEIGHTS, SUMMARY = "environment.json", "weights.safetensors", "summary.json"
TEMPORARY_FILES = (PATTERN, PARTS)
RESULT_FILES = (CONFIG, ENVIRONMENT, DEVICES, METRICS, ALLOCATION, WEIGHTS)
FILES = (*RESULT_FILES, SUMMARY, *TEMPORARY_FILES)


def run_experiment(
    config: Config,
    dataset: Dataset,
    folder: Path,
    *,
    existing: Existing = "refuse",
    custom: Custom = AS_CONFIGURED,
    checkpoint_every: int = 10,
    progress: Callable[[Json], None] = lambda _: None,
    rounds: Rounds | None = None,
) -> Json:
    """Run `config` in `folder` and return the summary. `progress` is called with the metrics of each round.

    `custom` holds the caller's own parts. `rounds` yields the record of each round, when another engine with the same
    meaning takes the place of `training.run`.
    A folder that is not empty is refused, or overwritten, or resumed from its last checkpoint: a resumed run ends with
    the metrics and weights of one never stopped. Only files of a run are replaced or removed, and none before the
    first round has succeeded. KeyboardInterrupt leaves a checkpoint of the last full round, and is raised again.
    Raises RunFolderError (also when another process writes there, or the disk is full), ConfigError, and what
    `training.run` raises.
    """
    if checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every must be >= 1, got {checkpoint_every}")
    check_free(folder, existing)
    if existing == "resume" and is_file(folder / SUMMARY) and not os.access(folder, os.W_OK):  # a read-only archive
        claim(folder, config, dataset, existing, custom)
        return _replay(folder, progress)
    with locked(folder):
        start = claim(folder, config, dataset, existing, custom)
        if existing == "resume" and is_file(folder / SUMMARY):
            _clear(folder)  # what a kill just before the end may have left
            return _replay(folder, progress)
        return _run(Planned(config, dataset, custom, rounds), folder, start, checkpoint_every, progress)


def _replay(folder: Path, progress: Callable[[Json], None]) -> Json:
    """A finished run: tell its rounds again."""
    summary = read_json(folder / SUMMARY)
    if fault := changed_since_the_end(folder, summary):
        raise RunFolderError(f"cannot resume {folder}: {fault}; run it anew with --overwrite")
    for values in read_metrics(folder):
        progress(values)
    return summary


def _clear(folder: Path) -> None:
    for path in own_files(folder, TEMPORARY_FILES):
        remove(path)


@dataclass(frozen=True)
class Planned:
    """What is run, and by which engine: `training.train` when None."""

    config: Config
    dataset: Dataset
    custom: Custom
    rounds: Rounds | None

    def records(self, world: World, server: ServerState | None) -> Iterator[RoundRecord]:
        """The rounds that are left."""
        return training.train(world, server) if self.rounds is None else self.rounds(self.config, self.dataset, server)


def _run(
    planned: Planned, folder: Path, start: Checkpoint | None, checkpoint_every: int, progress: Callable[[Json], None]
) -> Json:
    began, server = time.perf_counter(), start.server if start else None
    world = World.build(planned.config, planned.dataset, planned.custom)
    records = planned.records(world, server)
    first = next(records, None)
    setup_s = time.perf_counter() - began - (sum(first.seconds.values()) if first else 0.0)
    with writing(folder):
        if server is None:
            begin(folder, planned.config, planned.dataset, planned.custom)
            write_devices(folder, world)
        log = RoundLog(folder, start)
    try:
        for record in _timed(first, records):
            with writing(folder):
                values = log.add(record)
                server = record.server
                if server.round_ % checkpoint_every == 0:
                    save_checkpoint(folder, log.checkpoint(server))
            progress(values)
        if server:
            with writing(folder):
                log.flush(server.round_)
    except KeyboardInterrupt:
        if server:
            with writing(folder):
                save_checkpoint(folder, log.checkpoint(server))
        raise
    finally:
        log.close()
    with writing(folder):
        return _finish(folder, world, server, setup_s)


def _timed(first: RoundRecord | None, rest: Iterator[RoundRecord]) -> Iterator[RoundRecord]:
    """Adds `total` to the seconds of each record: since the record before it, so with the writing of that one."""
    record, total = first, sum(first.seconds.values()) if first else 0.0
    while record is not None:
        record.seconds["total"] = total
        began = time.perf_counter()
        yield record
        record = next(rest, None)
        total = time.perf_counter() - began


def _finish(folder: Path, world: World, server: ServerState | None, setup_s: float) -> Json:
    if server is None:  # cannot be: training.rounds >= 1
        raise RunFolderError(f"no round was run in {folder}")
    check_ours(folder)  # before what is read there: it may be of another run now
    join_parts(folder)
    config = world.config
    write_atomically(folder / WEIGHTS, save(world.tensors(server)))
    summary: Json = {"scheme": config.scheme.name, "seed": config.seed} | summarise(read_metrics(folder))
    summary["seconds"]["setup"] = setup_s
    summary["files"] = file_digests(folder, RESULT_FILES)
    write_atomically(folder / SUMMARY, dump_json(summary, indent=2).encode() + b"\n")
    _clear(folder)
    return summary


# --- whose folder is it -------------------------------------------------------------------------------------


def claim(
    folder: Path, config: Config, dataset: Dataset, existing: Existing, custom: Custom = AS_CONFIGURED
) -> Checkpoint | None:
    """Decide what may happen in a folder, without writing; returns what to resume from, None for the beginning.

    Raises RunFolderError when the folder is taken, is not a run's, or holds a run that this one cannot continue.
    """
    check_free(folder, existing)
    if existing != "resume" or not _is_run(folder) or not is_file(folder / CONFIG):
        return None
    _check_same(folder, config, dataset, custom)
    return None if is_file(folder / SUMMARY) else _newest_whole(folder)


def _newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that the rest of the folder agrees with; warns of what is wrong with the newer ones."""
    checkpoints, faults = read_checkpoints(folder), list[str]()
    past = read_past(folder)
    for checkpoint in checkpoints:
        if (fault := _disagreement(folder, past, checkpoint)) is None:
            break
        faults.append(fault)
    else:
        checkpoint = None
    if faults:
        place = f"round {checkpoint.server.round_}" if checkpoint else "the beginning"
        warnings.warn(f"{folder}: {'; '.join(dict.fromkeys(faults))}; going back to {place}", stacklevel=4)
    return checkpoint


def _disagreement(folder: Path, past: Past, checkpoint: Checkpoint) -> str | None:
    round_ = checkpoint.server.round_
    if past.rounds < round_:
        return past.fault or f"{METRICS} ends at round {past.rounds}, the checkpoint is of round {round_}"
    if checkpoint.past != past.digests[round_]:
        return f"{METRICS} or {CONFIG} is not that of the checkpoint of round {round_}"
    return changed_file(folder, checkpoint.parts)


@plain_errors()
def check_free(folder: Path, existing: Existing, names: tuple[str, ...] = FILES) -> None:
    """Raises RunFolderError unless files of these names may be written in the folder."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"output {folder} exists and is not a folder")
    if not folder.exists() or all(path.name in (LOCK, f"{ENVIRONMENT}.tmp") for path in folder.iterdir()):
        return
    if existing == "refuse":
        raise RunFolderError(f"output folder {folder} is not empty; pass --overwrite, --resume or another --out")
    if not _is_run(folder) and (alien := own_files(folder, names)):
        raise RunFolderError(f"output folder {folder} is not of a run, but holds {alien[0].name}; left as it is")


def own_files(folder: Path, patterns: tuple[str, ...] = FILES) -> list[Path]:
    """The files in a folder that a run may replace or remove."""
    every = [*patterns, *(f"{pattern}.tmp" for pattern in patterns)]
    return [check_file(path) for pattern in every for path in sorted(folder.glob(pattern)) if not path.is_dir()]


def _is_run(folder: Path) -> bool:
    try:
        return "spfl" in read_json(folder / ENVIRONMENT)["versions"]
    except (RunFolderError, KeyError, TypeError):
        return False


def read_config(folder: Path) -> Config:
    """The configuration of a run. Raises RunFolderError for a folder that is no run's."""
    if not is_file(folder / CONFIG):
        raise RunFolderError(f"{folder} is not a run folder: it holds no {CONFIG}")
    return load_config(folder / CONFIG)


def check_own_code(folder: Path, config: Config) -> None:
    """Raises RunFolderError when the configuration of a folder, which may be of somebody else, names code to run."""
    named = {"plugin.path": config.plugin.path, "model.factory": config.model.factory}
    named |= {"data.name": config.data.name if ":" in config.data.name else None}
    told = ", ".join(f"{key} = {value}" for key, value in named.items() if value is not None)
    if told:
        raise RunFolderError(f"{folder} names code to run, {told}; pass --own-code if you trust it")


def read_json(path: Path) -> Json:
    """A JSON object. Raises RunFolderError when the file is missing or holds something else."""
    try:
        value = json.loads(read_file(path, LARGEST_TEXT))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def begin(folder: Path, config: Config, dataset: Dataset, custom: Custom = AS_CONFIGURED) -> None:
    """Remove what an earlier run left in a folder that `check_free` allowed, and mark it as a run's.

    The mark of the earlier run goes last, replaced by the new one, and its summary first: whenever this process is
    killed, the folder is one of a run that has not finished, in which the next may begin anew.
    """
    for path in sorted(own_files(folder), key=lambda path: path.name != SUMMARY):
        if path.name != ENVIRONMENT:
            remove(path)
    folder.mkdir(parents=True, exist_ok=True)
    text = to_toml(config).encode()
    environment = describe_environment() | {
        "dataset": fingerprint(dataset),
        "config_sha256": _sha256(text),
        "custom": custom.names(),
        "layout": custom.layout,
        "torch_device": device_name(config.torch_device),
    }
    write_atomically(folder / ENVIRONMENT, dump_json(environment, indent=2).encode() + b"\n")  # first: it is the mark
    write_atomically(folder / CONFIG, text)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_same(folder: Path, config: Config, dataset: Dataset, custom: Custom) -> None:
    old, new = flatten(load_config(folder / CONFIG)), flatten(config)
    for key in sorted(set(old) - set(NO_EFFECT)):
        if old[key] != new[key]:
            raise RunFolderError(f"cannot resume {folder}: its {key} is {old[key]!r}, got {new[key]!r}")
    then, now = read_json(folder / ENVIRONMENT), describe_environment() | {"dataset": fingerprint(dataset)}
    if then.get("config_sha256") not in (None, _sha256(read_file(folder / CONFIG))):
        raise RunFolderError(f"cannot resume {folder}: its {CONFIG} was altered after the run began")
    if then.get("dataset") != now["dataset"]:
        raise RunFolderError(f"cannot resume {folder}: its data are {then.get('dataset')}, got {now['dataset']}")
    if then.get("custom", {}) != custom.names():
        raise RunFolderError(f"cannot resume {folder}: its own parts are {then.get('custom')}, got {custom.names()}")
    if then.get("layout") not in (None, custom.layout):
        raise RunFolderError(f"cannot resume {folder}: its network has other parameters, by name or shape")
    if then["versions"] != now["versions"]:
        warnings.warn(f"{folder} was begun with {then['versions']}; bits may differ from here on", stacklevel=3)


def flatten(config: Config) -> dict[str, Any]:
    """The configuration as `section.key` -> value."""
    return dotted(config.model_dump())
