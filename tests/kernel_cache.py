"""Compiled kernels of the tests are kept in the checkout; imported before anything that imports a kernel."""

from __future__ import annotations

import os
from pathlib import Path


def keep_kernels() -> None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))
