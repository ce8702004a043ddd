"""numba's decorators, and where compiled functions are kept: import them from here.

numba keeps what it has compiled as pickles, which run code when they are read, beside the sources or where
NUMBA_CACHE_DIR says. So that only the user's own are read, the folder is ~/.cache/spfl/kernels with mode 700; one of
somebody else, or that others can write to, is not used, and functions are compiled anew in each process. Files that a
power cut has torn are removed: then they are compiled again.

numba keys its cache by the file of a function, not by what it inlines from other files. So each state of the sources
has a folder of its own, by their digest; of those of other states the latest are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from pathlib import Path

from spfl.private_folder import drop_torn_pickles, private_folder

CACHE_DIR_ENV = "NUMBA_CACHE_DIR"
KEPT = 3  # folders of other states of the sources


def kernels_digest(source: Path) -> str:
    """A digest of all files below `source` that have compiled functions."""
    texts = [path.read_bytes() for path in sorted(source.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(text for text in texts if b"njit" in text)).hexdigest()[:16]


def drop_old(base: Path, digest: str) -> None:
    """Remove the folders of other states, all but the latest."""
    others = [path for path in base.iterdir() if len(path.name) == len(digest) and path.name != digest]
    for path in sorted(others, key=lambda path: path.lstat().st_mtime)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _prepare() -> bool:
    """Choose the folder before numba reads its environment; whether it can be trusted."""
    try:
        base = Path(os.environ.get(CACHE_DIR_ENV) or Path.home() / ".cache" / "spfl" / "kernels")
    except RuntimeError:  # no home
        return False
    digest = kernels_digest(Path(__file__).parent)
    folder = base if base.name == digest else base / digest  # a process of ours finds the name in its environment
    if fault := private_folder(base) or private_folder(folder):
        warnings.warn(f"compiled functions are not kept: {fault}", stacklevel=3)
        return False
    os.environ[CACHE_DIR_ENV] = str(folder)
    drop_old(folder.parent, digest)
    drop_torn_pickles(folder, ".nbi", ".nbc")
    return True


CACHE = _prepare()

import numba  # noqa: E402
from numba import njit, vectorize  # noqa: E402

if CACHE:
    # also where somebody has imported numba before
    numba.config.CACHE_DIR = os.environ[CACHE_DIR_ENV]  # type: ignore[attr-defined]

__all__ = ["CACHE", "njit", "vectorize"]
