"""What a run folder has been: every line, checkpoint and summary carries the SHA-256 of what precedes it.

Line n of metrics.jsonl has under `past` the SHA-256 of config.toml and of all lines before it, as they are on the disk:
`cat config.toml <(head -n 41 metrics.jsonl) | sha256sum` gives that of line 42. A checkpoint carries the digest of all
lines up to its round, and those of the parts of the allocation table; summary.json the digest of every other file.
So rounds that are missing, doubled, swapped or changed, and a checkpoint of another run, are found and named. This
finds accidents and the careless: who rewrites a whole folder can make all digests fit, and `verify` runs it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spfl.errors import RunFolderError
from spfl.files import is_file, open_file, read_file

if TYPE_CHECKING:
    from hashlib import _Hash

PAST = "past"
CONFIG, METRICS = "config.toml", "metrics.jsonl"


@dataclass(frozen=True)
class Past:
    """The lines of metrics.jsonl that are whole and in order: the digest and the size (bytes) up to each round.

    Both begin with those of round 0. `fault` says in one line what is wrong with the rest; None when nothing is.
    """

    digests: Sequence[str]
    sizes: Sequence[int]
    fault: str | None

    @property
    def rounds(self) -> int:
        return len(self.digests) - 1


def begin_past(folder: Path) -> _Hash:
    """The digest before the first round."""
    return hashlib.sha256(read_file(folder / CONFIG))


def read_past(folder: Path) -> Past:
    """Follow the chain. A last line without an end, of a run that was killed, is no fault. Raises OSError."""
    digest, sizes, fault = begin_past(folder), [0], None
    digests = [digest.hexdigest()]
    if not is_file(folder / METRICS):
        return Past(digests, sizes, f"{METRICS} is missing")
    with open(open_file(folder / METRICS), "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            fault = _fault(line, len(digests), digests[-1])
            if fault:
                break
            digest.update(line)
            digests.append(digest.hexdigest())
            sizes.append(sizes[-1] + len(line))
    return Past(digests, sizes, fault)


def _fault(line: bytes, round_: int, past: str) -> str | None:
    try:
        values = json.loads(line)
        found = values["round"]
    except (ValueError, KeyError, TypeError):
        return f"line {round_} of {METRICS} is damaged"
    if found != round_:
        return f"{METRICS} has round {found!r} where round {round_} must be"
    if values.get(PAST) != past:
        return f"{METRICS} was changed before round {round_}"
    return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces. Raises RunFolderError for a link, and OSError."""
    with open(open_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those files of a folder that are there."""
    return {name: file_digest(folder / name) for name in names if is_file(folder / name)}


def changed_file(folder: Path, digests: Mapping[str, Any]) -> str | None:
    """What is wrong with the first file that is not as its digest says, in one line; None when all are."""
    for name, digest in digests.items():
        if Path(name).name != name:
            return f"{name!r} is no name of a file of the folder"
        if not is_file(folder / name):
            return f"{name} is missing"
        if file_digest(folder / name) != digest:
            return f"{name} was changed after it was written"
    return None


def changed_since_the_end(folder: Path, summary: Mapping[str, Any]) -> str | None:
    """The same for a finished folder, by the digests in its summary; 0.1.0 wrote none."""
    files = summary.get("files", {})
    if not isinstance(files, dict):
        raise RunFolderError(f"files in the summary of {folder} must be an object, got {type(files).__name__}")
    return changed_file(folder, files)
