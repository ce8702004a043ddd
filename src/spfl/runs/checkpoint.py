"""The server's state on disk: written whole or not at all, checked when read, no pickle.

A checkpoint is a safetensors file with every array of the `ServerState`; its metadata hold the round, the scalars of
the last allocation, the version of the format, and a SHA-256 over all of it. The last two are kept, so that a torn
one costs a few rounds only.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.errors import RunFolderError
from spfl.machine import native
from spfl.runs.folders import write_atomically
from spfl.world.state import ServerState

PATTERN = "checkpoint-*.safetensors"
VERSION = "1"
KEPT = 2
DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError)  # what reading a torn or altered file raises
Arrays = dict[str, NDArray[Any]]


def save_checkpoint(folder: Path, server: ServerState) -> None:
    """Write the state after round `server.round_` and forget all but the last two checkpoints."""
    arrays, scalars = _take_apart(server)
    text = json.dumps(scalars, sort_keys=True)
    metadata = {"version": VERSION, "state": text, "sha256": _checksum(arrays, VERSION, text)}
    write_atomically(folder / f"checkpoint-{server.round_:08d}.safetensors", save(arrays, metadata))
    for old in checkpoint_files(folder)[KEPT:]:
        old.unlink()


def load_checkpoint(folder: Path) -> ServerState | None:
    """The newest whole checkpoint; None if there is none. Warns about each damaged one that it passes over.

    Raises RunFolderError for a whole one of another version: passing over it would begin anew, over its head.
    """
    for path in checkpoint_files(folder):
        try:
            return _read(path)
        except DAMAGE as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}); trying an older one", stacklevel=2)
    return None


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def _read(path: Path) -> ServerState:
    with native(path) as name, safe_open(name, framework="np") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    version = metadata["version"]
    if _checksum(arrays, version, metadata["state"]) != metadata["sha256"]:
        raise ValueError("checksum does not agree")
    if version != VERSION:
        raise RunFolderError(f"checkpoint {path} is of version {version}, this spfl reads {VERSION}; left as it is")
    return _put_together(arrays, json.loads(metadata["state"]))


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
