"""Statistical assertions: a sample against its exact expectation, five standard errors wide.

With a true null hypothesis five standard errors are left about once in two million checks. Every test that uses
these also shows a *biased twin*: the same check with a small error in it, which must fail.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIGMAS = 5.0
ROUNDING = 1e-9  # relative: what float64 sums of a million terms may lose, and samples without spread


def assert_mean(samples: NDArray[np.floating], expected: ArrayLike, what: str = "mean") -> None:
    """Means over the first axis equal `expected` within five standard errors, each element on its own."""
    values = np.asarray(samples, np.float64)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    _assert_close(values.mean(axis=0), expected, error, f"{what} of n = {len(values)}")


def assert_mean_at_most(samples: NDArray[np.floating], bound: float, what: str = "mean") -> None:
    """The mean does not exceed `bound` by more than five standard errors."""
    values = np.asarray(samples, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values))
    limit = bound + SIGMAS * error + ROUNDING * abs(bound)
    assert values.mean() <= limit, f"{what} {values.mean():.6g} > bound {bound:.6g} + 5 x {error:.2g}"


def assert_proportion(hits: NDArray[np.bool_], probability: ArrayLike, what: str = "proportion") -> None:
    """Shares of hits over the first axis equal `probability` within five standard errors of the binomial law."""
    p = np.asarray(probability, np.float64)
    error = np.sqrt(p * (1.0 - p) / len(hits)) + 1.0 / len(hits)  # the second: one event, for p near 0 or 1
    _assert_close(hits.mean(axis=0), p, error, f"{what} of n = {len(hits)}")


def _assert_close(got: ArrayLike, expected: ArrayLike, error: ArrayLike, what: str) -> None:
    got, expected, error = np.broadcast_arrays(got, expected, error)
    off = np.abs(got - expected) - SIGMAS * error - ROUNDING * np.abs(expected)
    worst = np.unravel_index(int(np.argmax(off)), off.shape)
    assert off[worst] <= 0, f"{what}: got {got[worst]:.6g}, expected {expected[worst]:.6g} +- 5 x {error[worst]:.2g}"
