"""Numerics without wireless words: safeguarded Newton, Brent's minimiser, dual search, a small Cholesky.

Every search returns a `Solution`: value, named status, iterations. The first two are compiled and take a
compiled function `f(x, args)`, so that kernels can call them in their inner loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from spfl.compiled import CACHE, njit

GOLDEN = 0.3819660112501051  # 2 - golden ratio
ROUNDING = 1e-15


class Status(IntEnum):
    """How a search ended."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    NO_SIGN_CHANGE = 2  # the root lies outside the bracket; the value is the nearer end


class Solution(NamedTuple):
    """Where a search ended, how, and after how many evaluations of the function."""

    value: float
    status: Status
    iterations: int


@njit(nogil=True, inline="always", error_model="numpy")
def newton(f, args, low, high, start, tolerance=1e-12, limit=80):  # type: ignore[no-untyped-def]
    """Root of f on [low, high] where f(low) < 0 < f(high): Newton, with bisection whenever it leaves the bracket.

    `f(x, args)` returns (value, slope). It also falls back to bisection when a step is more than half as long as the
    one before it.
    """
    x, last, first, end = min(max(start, low), high), math.inf, low, high
    for iteration in range(1, limit):
        value, slope = f(x, args)
        if value < 0.0:
            low = x
        else:
            high = x
        step = x - value / slope if slope > 0.0 else low
        if step <= low == first:  # the ends are looked at only when the search reaches for them
            if f(first, args)[0] >= 0.0:
                return Solution(first, Status.NO_SIGN_CHANGE, iteration + 1)
            first = -math.inf
        if step >= high == end:
            if f(end, args)[0] <= 0.0:
                return Solution(end, Status.NO_SIGN_CHANGE, iteration + 1)
            end = math.inf
        if not low < step < high or abs(step - x) > 0.5 * last:
            step = 0.5 * (low + high)
        last = abs(step - x)
        if last <= tolerance * (abs(x) + ROUNDING):
            return Solution(step, Status.CONVERGED, iteration)
        x = step
    return Solution(x, Status.ITERATION_LIMIT, limit)


@njit(nogil=True, inline="always", error_model="numpy")
def minimise(f, args, low, high, start, tolerance=1e-8, limit=60, ends=True):  # type: ignore[no-untyped-def]
    """A local minimiser of f on [low, high] from `start` inside it: Brent's golden section with parabolic steps.

    `tolerance` is relative to |x| plus the width of the bracket. It never returns a worse point than `start`, and with
    `ends` it compares the two ends as well.
    """
    first, last, width = low, high, high - low
    x = second = third = start
    value = at_second = at_third = f(start, args)
    step = previous = 0.0
    iteration = 1
    while iteration < limit:
        middle = 0.5 * (low + high)
        tiny = tolerance * (abs(x) + width)
        if abs(x - middle) <= 2.0 * tiny - 0.5 * (high - low):
            break
        parabolic = False
        if abs(previous) > tiny:
            r = (x - second) * (value - at_third)
            q = (x - third) * (value - at_second)
            p = (x - third) * q - (x - second) * r
            q = 2.0 * (q - r)
            if q > 0.0:
                p = -p
            q = abs(q)
            if abs(p) < abs(0.5 * q * previous) and q * (low - x) < p < q * (high - x):
                previous, step = step, p / q
                parabolic = True
                if x + step - low < 2.0 * tiny or high - x - step < 2.0 * tiny:
                    step = tiny if x < middle else -tiny
        if not parabolic:
            previous = high - x if x < middle else low - x
            step = GOLDEN * previous
        trial = x + (step if abs(step) >= tiny else math.copysign(tiny, step))
        at_trial = f(trial, args)
        iteration += 1
        if at_trial <= value:
            if trial >= x:
                low = x
            else:
                high = x
            third, at_third, second, at_second, x, value = second, at_second, x, value, trial, at_trial
            continue
        if trial < x:
            low = trial
        else:
            high = trial
        if at_trial <= at_second or second == x:
            third, at_third, second, at_second = second, at_second, trial, at_trial
        elif at_trial <= at_third or third in (x, second):
            third, at_third = trial, at_trial
    if ends:
        for end in (first, last):
            at_end = f(end, args)
            if at_end < value:
                x, value = end, at_end
    status = Status.CONVERGED if iteration < limit else Status.ITERATION_LIMIT
    return Solution(x, status, iteration)


def price(
    excess: Callable[[float], float],
    start: float,
    *,
    factor: float | None = 2.0,
    tolerance: float = 1e-12,
    slack: float = 0.0,
    limit: int = 300,
) -> Solution:
    """Multiplier at which a non-increasing excess demand changes sign, from the side on which excess <= 0.

    Brackets from `start` by `factor`, squared at each step (None: a factor that fits a relative excess), then
    closes in on the logarithm of the price by regula falsi (Illinois) with a bisection every third step, until the
    bracket is `tolerance` narrow or -slack <= excess <= 0. Returns 0 when the demand is met for free. A discontinuous
    excess (non-convex terms) is cut at its jump.
    """
    bracket = _bracket(excess, start, factor, limit)
    if isinstance(bracket, Solution):
        return bracket
    low, at_low, high, at_high, count = bracket
    side = 0
    while high > low * (1.0 + tolerance) and at_high < -slack and count < limit:
        weight = 0.5 if count % 3 == 0 else at_low / (at_low - at_high)
        trial = math.exp((1.0 - weight) * math.log(low) + weight * math.log(high))
        if not low < trial < high:
            trial = math.sqrt(low) * math.sqrt(high)
        value, count = excess(trial), count + 1
        if value <= 0.0:
            high, at_high, at_low, side = trial, value, at_low * (0.5 if side == 1 else 1.0), 1
        else:
            low, at_low, at_high, side = trial, value, at_high * (0.5 if side == -1 else 1.0), -1
    return Solution(high, Status.CONVERGED if count < limit else Status.ITERATION_LIMIT, count)


def _bracket(
    excess: Callable[[float], float], start: float, factor: float | None, limit: int
) -> Solution | tuple[float, float, float, float, int]:
    """(low, excess > 0 there, high, excess <= 0 there, evaluations), or the answer itself where there is no bracket."""
    spent = 1
    if start <= 0.0:
        if excess(0.0) <= 0.0:
            return Solution(0.0, Status.CONVERGED, 1)
        start, spent = 1e-6, 2
    value, count, known_free = excess(start), spent, False
    if factor is None:
        factor = 1.0 + min(max(2.0 * abs(value), 1e-6), 1.0)
    low = high = start
    at_low = at_high = value
    if value > 0.0:
        while at_high > 0.0:
            if count >= limit or high > 1e300:
                return Solution(high, Status.NO_SIGN_CHANGE, count)
            low, at_low = high, at_high
            high, factor = high * factor, min(factor * factor, 1e6)
            at_high, count = excess(high), count + 1
        return low, at_low, high, at_high, count
    while at_low <= 0.0:
        if not known_free and factor > 1e3:  # so cheap: perhaps there is bandwidth for everybody
            if excess(0.0) <= 0.0:
                return Solution(0.0, Status.CONVERGED, count + 1)
            known_free, count = True, count + 1
        if count >= limit or low < 1e-300:
            return Solution(high, Status.NO_SIGN_CHANGE, count)
        high, at_high = low, at_low
        low, factor = low / factor, min(factor * factor, 1e6)
        at_low, count = excess(low), count + 1
    return low, at_low, high, at_high, count


@njit(cache=CACHE, nogil=True, error_model="numpy")
def solve_positive(matrix, right, out):  # type: ignore[no-untyped-def]
    """Solve matrix @ out = right for a small matrix, its symmetric part taken, by Cholesky in place.

    False, and `out` undefined, unless it is positive definite.
    """
    n = right.size
    for i in range(n):
        for j in range(i + 1):
            total = 0.5 * (matrix[i, j] + matrix[j, i]) if i != j else matrix[i, i]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i != j:
                matrix[i, j] = total / matrix[j, j]
            elif total > 0.0:
                matrix[i, i] = math.sqrt(total)
            else:
                return False
    for i in range(n):
        out[i] = right[i]
        for k in range(i):
            out[i] -= matrix[i, k] * out[k]
        out[i] /= matrix[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            out[i] -= matrix[k, i] * out[k]
        out[i] /= matrix[i, i]
    return True
