"""`spfl archive`: a sweep as a folder that can be deposited as it is; and the check of such a folder."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spfl import training
from spfl.config.files import to_toml
from spfl.config.schema import Config
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, RunFolderError, WorkerError
from spfl.files import check_folder, is_file, read_file
from spfl.runs.environment import fingerprint
from spfl.runs.experiment import ENVIRONMENT, check_own_code, read_json
from spfl.runs.folders import below, write_atomically, writing
from spfl.runs.jsons import Json, as_written
from spfl.runs.metrics import metrics
from spfl.studies.plan import PLAN
from spfl.studies.points import Point, load_points
from spfl.studies.readme import readme
from spfl.studies.runner import DONE, RESULTS, SWEEP, measure, name_of_data, read_results
from spfl.studies.tables import CURVES, SUMMARY, TABLE

SUMS, README, REQUIREMENTS, CONFIGS, OWN, FIGURES = (
    *("SHA256SUMS", "README.md", "requirements.txt", "configs", "own", "figures"),
)
COPIED = (PLAN, SWEEP, ENVIRONMENT, RESULTS, TABLE, CURVES, SUMMARY)
NEEDED = (PLAN, ENVIRONMENT, RESULTS, TABLE)
MACHINE = ("key", "settings", "commit", "status", "error", "wall_s", "seconds_per_round", "uplink_s_per_round")


def archive(folder: Path, out: Path | None = None) -> Path:
    """Copy what a sweep was and found into a new folder, or into OUT.zip, and return its path.

    In it are the frozen plan, a configuration for each point, results, versions, own parts, figures if there are any, a
    README made from all that, and SHA256SUMS. Raises RunFolderError for a folder that is no finished sweep's, and where
    `out` (FOLDER-archive) is there already.
    """
    target = out or folder.resolve().with_name(f"{folder.resolve().name}-archive")
    if target.exists():
        raise RunFolderError(f"output {target} is there already; take another --out")
    for name in NEEDED:
        if not is_file(folder / name):
            hint = (
                "; spfl sweep FILE --resume --out DIR writes it" if name == PLAN and is_file(folder / RESULTS) else ""
            )
            raise RunFolderError(f"{folder} cannot be archived: it holds no {name}{hint}")
    points, rows = _points(folder)
    place = target.with_name(f"{target.stem}.partial") if target.suffix == ".zip" else target
    with writing(target.parent):
        place.mkdir(parents=True)
        try:
            _fill(place, folder, points, rows)
            if place is not target:
                shutil.make_archive(str(target.with_suffix("")), "zip", place)
        finally:
            if place is not target:
                shutil.rmtree(place, ignore_errors=True)
    return target


def _fill(place: Path, folder: Path, points: Sequence[Point], rows: Sequence[Json]) -> None:
    files = {name: read_file(folder / name) for name in COPIED if is_file(folder / name)}
    files |= {f"{CONFIGS}/{point.key}.toml": to_toml(point.config).encode() for point in points}
    for path in sorted(below(folder, FIGURES).glob("*")):
        files[f"{FIGURES}/{path.name}"] = read_file(path)
    for name in {point.config.plugin.path for point in points} - {None}:
        files[f"{OWN}/{Path(str(name)).name}"] = _own(str(name))
    environment = read_json(folder / ENVIRONMENT)
    versions = {name: number for name, number in environment["versions"].items() if name not in ("python", "spfl")}
    pinned = [f"{name}=={number}" for name, number in versions.items() if number != "absent"]
    files[REQUIREMENTS] = "\n".join([*pinned, ""]).encode()
    files[README] = readme(folder.resolve().name, [p.config for p in points], rows, environment, sorted(files)).encode()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    for name, content in {**files, SUMS: sums.encode()}.items():
        (place / name).parent.mkdir(exist_ok=True)
        write_atomically(place / name, content)


def _own(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RunFolderError(f"the own part {path} of this sweep cannot be read: {error.strerror}") from None


def _points(folder: Path) -> tuple[list[Point], list[Json]]:
    """The points of the plan, and their finished rows. Raises RunFolderError when they are not of each other."""
    try:
        points = load_points(folder / PLAN)
    except ConfigError as error:
        raise RunFolderError(f"{folder / PLAN} cannot be used here: {error}") from None
    rows = {row["key"]: row for row in read_results(folder) if row["status"] == DONE}
    if missing := [point for point in points if point.key not in rows]:
        raise RunFolderError(
            f"{folder} has no result for {len(missing)} of {len(points)} points of {PLAN}; --resume the sweep"
        )
    return points, [rows[point.key] for point in points]


# --- is it as it was ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyVerdict:
    """What came of it: files with their checksum, points run again, and the first difference in one line, if any."""

    files: int
    points: Sequence[str]
    difference: str | None


class Sample(NamedTuple):
    """How many points of a study are run again; `seed` chooses the same ones again."""

    points: int = 3
    seed: int | None = None


THREE = Sample()


def verify_study(
    folder: Path,
    sample: Sample = THREE,
    *,
    tolerance: float = 0.0,
    data_dir: Path | None = None,
    own_code: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> StudyVerdict:
    """Check every checksum of an archive, and run some of its points again, chosen at random. Writes nothing.

    A sweep's own folder has no checksums; all else is the same. `tolerance` is relative; 0 asks for equal digests.
    Raises RunFolderError for other folders, for data that are not the same, and without `own_code` for a study whose
    points name code to run.
    """
    files = list(_listed(folder)) if is_file(folder / SUMS) else []
    if (fault := _changed(folder, files)) is not None:
        return StudyVerdict(len(files), [], fault)
    every, rows = _points(folder)
    for point in () if own_code else every:
        check_own_code(folder, point.config)
    chosen = np.random.default_rng(sample.seed).permutation(len(every))[: sample.points].tolist()
    done: list[str] = []
    for index in chosen:
        point = every[index]
        progress(_words(point))
        if (difference := _again(folder, point, rows[index], tolerance, data_dir)) is not None:
            return StudyVerdict(len(files), done, f"{_words(point)}: {difference}")
        done.append(_words(point))
    return StudyVerdict(len(files), done, None)


def _words(point: Point) -> str:
    return ", ".join(str(v) if k == "scheme.name" else f"{k} = {v}" for k, v in point.settings.items() if v is not None)


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    for line in read_file(folder / SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunFolderError(f"{folder / SUMS} is damaged: '{line[:80]}'")
        yield digest, name


def _changed(folder: Path, files: Sequence[tuple[str, str]]) -> str | None:
    for digest, name in files:
        path = check_folder((folder / name).parent) / Path(name).name
        if not is_file(path):
            return f"{name} is missing"
        if hashlib.sha256(read_file(path)).hexdigest() != digest:
            return f"{name} was changed: its SHA-256 is not that of {SUMS}"
    listed = {SUMS, *(name for _, name in files)}
    for root, _, names in os.walk(folder if files else os.devnull):
        for name in sorted(names):
            if (found := (Path(root) / name).relative_to(folder).as_posix()) not in listed:
                return f"{found} is not in {SUMS}"
    return None


def _again(folder: Path, point: Point, old: Json, tolerance: float, data_dir: Path | None) -> str | None:
    """The first difference between a row and the same point run again."""
    config = point.config.model_copy(update={"processes": 1, "workers": 1})
    dataset = load_dataset(config.data, data_dir)
    then = read_json(folder / ENVIRONMENT).get("datasets", {}).get(name_of_data(config.data))
    if then != fingerprint(dataset):
        raise RunFolderError(f"cannot verify {folder}: its data are {then}, got {fingerprint(dataset)}")
    new = as_written(measure(_rounds(config, dataset)))
    for name in [name for name in old if name in new and name not in MACHINE]:
        if not (tolerance and name == "digest") and not _alike(old[name], new[name], tolerance):
            return f"{name} is {_short(old[name])}, again {_short(new[name])}"
    return None


def _rounds(config: Config, dataset: Any) -> list[Json]:
    try:
        return [as_written(metrics(record)) for record in training.run(config, dataset)]
    except WorkerError as error:
        raise RunFolderError(f"a point cannot be run again: {error}") from None


def _alike(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_alike(a, b, tolerance) for a, b in zip(old, new, strict=True))
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
    return bool(old == new)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
