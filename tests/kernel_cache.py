"""Compiled kernels are kept by a digest of their sources; imported before anything that imports a kernel.

numba keys its cache by the file of a function, not by what it inlines from other files: without this, a change in one
kernel leaves the old code in the others.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def kernels_digest(source: Path) -> str:
    """A digest of all files below `source` that have compiled functions."""
    texts = [path.read_bytes() for path in sorted(source.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(text for text in texts if b"njit" in text)).hexdigest()[:16]


def keep_kernels() -> None:
    digest = kernels_digest(ROOT / "src" / "spfl")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "kernels" / digest))
