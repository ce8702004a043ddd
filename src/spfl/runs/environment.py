"""Where a run was made: versions, machine, commit, and a fingerprint of its data."""

from __future__ import annotations

import os
import platform
import subprocess
import zlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spfl.config.names import EMBEDDED_NAMES
from spfl.data import DATA_DIR_ENV, SUFFIXES, data_root
from spfl.version import __version__

if TYPE_CHECKING:
    from spfl.data.dataset import Dataset

PACKAGES = ("torch", "numpy", "numba", "scipy", "safetensors", "pyarrow")


def describe_environment() -> dict[str, Any]:
    """Versions of all that can change a bit, the processor, and the commit when the package runs from a checkout."""
    return {
        "versions": installed_versions(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "commit": _commit(Path(__file__).resolve().parents[3]),
    }


def describe_devices() -> list[str]:
    """What PyTorch can compute on, one line a device. A build for the CPU is not imported, which takes seconds."""
    lines = [f"cpu: {_cpu_name()}, {os.cpu_count()} cores"]
    if _installed()["torch"].endswith("+cpu"):
        return [*lines, "cuda: none, because this PyTorch is a build for the CPU"]
    import torch

    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory
        lines.append(f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory / 2**30:.0f} GiB")
    return lines


def datasets_at_hand(data_dir: Path | None) -> dict[str, str]:
    """Datasets that need no download: name -> where. The others are looked for on the Hugging Face hub."""
    found = dict.fromkeys(EMBEDDED_NAMES, "embedded")
    root = data_root(data_dir)
    if root is None:
        return found | {"others": f"neither --data-dir nor {DATA_DIR_ENV} is set"}
    if not root.is_dir():
        return found | {"others": f"{root} is not a folder"}
    return found | {path.name: str(path) for path in sorted(root.iterdir()) if _holds_files(path)}


def _holds_files(folder: Path) -> bool:
    return any(any(folder.glob(f"*{suffix}")) for suffix in SUFFIXES)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Name, sizes and a CRC-32 over all inputs, labels and natural clients."""
    crc, clients = 0, [] if dataset.clients is None else [dataset.clients]
    for part in (dataset.train_inputs, dataset.train_labels, dataset.test_inputs, dataset.test_labels, *clients):
        crc = zlib.crc32(np.ascontiguousarray(part.numpy()).data, crc)
    return {
        "name": dataset.name,
        "train": len(dataset.train_labels),
        "test": len(dataset.test_labels),
        "shape": list(dataset.shape),
        "classes": dataset.classes,
        "crc32": f"{crc:08x}",
    }


def installed_versions() -> dict[str, str]:
    """Of all that can change a bit."""
    return {"spfl": __version__, "python": platform.python_version()} | _installed()


@cache
def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit(root: Path) -> str | None:
    """The commit of the checkout at `root`, with "+" when files differ from it; None outside git."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
