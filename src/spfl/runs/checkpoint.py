"""The server's state on disk: written whole or not at all, checked when read, no pickle.

A checkpoint is a safetensors file with every array of the `ServerState`; its metadata hold the round, the scalars of
the last allocation, the digests of the run until then (see `past`), the version of the format, and a SHA-256 over all
of it. The last two are kept, so that a torn one costs a few rounds only.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.errors import RunFolderError, reason
from spfl.files import read_file
from spfl.runs.folders import remove, write_atomically
from spfl.world.state import ServerState

PATTERN = "checkpoint-*.safetensors"
VERSION = "2"  # 1 kept no digests of what preceded it
KEPT = 2
DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError)  # what reading a torn or altered file raises
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A state, and what preceded it: the digest of its metrics, and SHA-256 by name of the parts of its allocations."""

    server: ServerState
    past: str
    parts: Mapping[str, str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the state after round `server.round_` and forget all but the last two checkpoints."""
    arrays, scalars = _take_apart(checkpoint.server)
    scalars |= {"past": checkpoint.past, "parts": dict(checkpoint.parts)}
    text = json.dumps(scalars, sort_keys=True)
    metadata = {"version": VERSION, "state": text, "sha256": _checksum(arrays, VERSION, text)}
    write_atomically(folder / f"checkpoint-{checkpoint.server.round_:08d}.safetensors", save(arrays, metadata))
    for old in checkpoint_files(folder)[KEPT:]:
        remove(old)


def read_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """The whole checkpoints, newest first. Warns about each damaged one that it passes over.

    Raises RunFolderError for a whole one of another version: passing over it would begin anew, over its head.
    """
    for path in checkpoint_files(folder):
        try:
            checkpoint = _read(path)
        except DAMAGE as error:
            warnings.warn(f"checkpoint {path} is damaged ({reason(error)}); trying an older one", stacklevel=2)
        else:
            yield checkpoint


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def _read(path: Path) -> Checkpoint:
    raw = read_file(path)
    arrays, metadata = load(raw), _metadata(raw)
    version = metadata["version"]
    if _checksum(arrays, version, metadata["state"]) != metadata["sha256"]:
        raise ValueError("checksum does not agree")
    if version != VERSION:
        raise RunFolderError(f"checkpoint {path} is of version {version}, this spfl reads {VERSION}; left as it is")
    scalars = json.loads(metadata["state"])
    return Checkpoint(_put_together(arrays, scalars), scalars["past"], scalars["parts"])


def _metadata(raw: bytes) -> dict[str, str]:
    """Of a safetensors file that was loaded, so its length, a little-endian uint64, and its JSON header are sound."""
    return dict(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"])


def _checksum(arrays: Arrays, version: str, text: str) -> str:
    digest = hashlib.sha256(f"{version} {text}".encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _take_apart(server: ServerState) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {"weights": server.weights, "velocity": server.velocity}
    arrays |= {f"memory/{name}": array for name, array in server.memory.items()}
    scalars: dict[str, Any] = {"round": server.round_, "allocation": None}
    if server.allocation is not None:
        parts = {field.name: getattr(server.allocation, field.name) for field in fields(AllocationResult)}
        arrays |= {f"allocation/{name}": part for name, part in parts.items() if isinstance(part, np.ndarray)}
        scalars["allocation"] = {name: part for name, part in parts.items() if not isinstance(part, np.ndarray)}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, scalars


def _put_together(arrays: Arrays, scalars: dict[str, Any]) -> ServerState:
    allocation = None
    if scalars["allocation"] is not None:
        parts = scalars["allocation"] | _under("allocation/", arrays)
        parts |= {"status": AllocationStatus(parts["status"]), "history": tuple(parts["history"])}
        allocation = AllocationResult(**parts)
    memory = _under("memory/", arrays)
    return ServerState(scalars["round"], arrays["weights"], arrays["velocity"], memory, allocation)


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
