"""numba's decorators, and where compiled functions are kept: import them from here.

numba keeps what it has compiled as pickles, which run code when they are read, beside the sources or where
NUMBA_CACHE_DIR says. So that only the user's own are read, the folder is ~/.cache/spfl/kernels with mode 700; one of
somebody else, or that others can write to, is not used, and functions are compiled anew in each process. Files that a
power cut has torn are removed: then they are compiled again.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from spfl.private_folder import drop_torn_pickles, private_folder

CACHE_DIR_ENV = "NUMBA_CACHE_DIR"


def _prepare() -> bool:
    """Choose the folder before numba reads its environment; whether it can be trusted."""
    try:
        folder = Path(os.environ.get(CACHE_DIR_ENV) or Path.home() / ".cache" / "spfl" / "kernels")
    except RuntimeError:  # no home
        return False
    if fault := private_folder(folder):
        warnings.warn(f"compiled functions are not kept: {fault}", stacklevel=3)
        return False
    os.environ[CACHE_DIR_ENV] = str(folder)
    drop_torn_pickles(folder, ".nbi", ".nbc")
    return True


CACHE = _prepare()

import numba  # noqa: E402
from numba import njit, vectorize  # noqa: E402

if CACHE:
    # also where somebody has imported numba before
    numba.config.CACHE_DIR = os.environ[CACHE_DIR_ENV]  # type: ignore[attr-defined]

__all__ = ["CACHE", "njit", "vectorize"]
