"""The paper's solver: Newton-Raphson for the bandwidth, successive convex approximation for the power (THEORY 7)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from spfl.allocation_kernels import (
    ALPHA_MAX,
    ALPHA_MIN,
    BETA_MAX,
    BIAS_WEIGHT,
    NOISE,
    RHO,
    SIGN_LOAD,
    V2,
    X_MAX,
    Rules,
    cost,
    costs,
    exponents,
    least_shares,
    slopes,
)
from spfl.bound import Floats
from spfl.channel import outage_exponent_scalar
from spfl.solvers import newton, price

RELATIVE_CHANGE = 1e-8
MAX_ROUNDS = 200


@njit(cache=True, nogil=True)
def _stationarity(beta, args):  # type: ignore[no-untyped-def]
    """dJ/dbeta + lambda, and its slope by a symmetric difference (dJ/dbeta is analytic)."""
    row, alpha, price_, rules = args
    step = 1e-5 * beta
    above = slopes(row, beta + step, alpha, row[RHO], rules)[0]
    below = slopes(row, beta - step, alpha, row[RHO], rules)[0]
    return slopes(row, beta, alpha, row[RHO], rules)[0] + price_, (above - below) / (2.0 * step)


@njit(cache=True, nogil=True)
def _demand(
    price_: float, rows: Floats, alpha: Floats, low: Floats, start: Floats, droppable: bool, rules: Rules
) -> Floats:
    """Every device's share at which dJ/dbeta = -lambda, from its bracket [low, BETA_MAX]; (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        row = rows[k]
        if not low[k] < math.inf:
            out[k] = 0.0
            continue
        found = newton(_stationarity, (row, alpha[k], price_, rules), low[k], row[BETA_MAX], start[k])
        a, b = exponents(row, found.value, row[RHO])
        dropped = row[BIAS_WEIGHT] * row[V2]
        keep = not droppable or cost(row, a, b, alpha[k], rules) + price_ * found.value < dropped
        out[k] = found.value if keep else 0.0
    return out


@njit(cache=True, nogil=True)
def _split_step(row: Floats, beta: float, alpha: float, rules: Rules) -> float:
    """One SCA step: minimise a convex quadratic that touches J at alpha and lies above it where it ends.

    The curvature starts at J's own and is raised until the surrogate is above J at its minimiser.
    """
    a, b = exponents(row, beta, row[RHO])
    low = max(row[ALPHA_MIN], min(a / row[X_MAX], row[ALPHA_MAX]))
    now = cost(row, a, b, alpha, rules)
    step = 1e-6 * min(alpha, 1.0 - alpha)
    if step <= 0.0:
        return alpha
    right = slopes(row, beta, min(alpha + step, row[ALPHA_MAX]), row[RHO], rules)[1]
    left = slopes(row, beta, max(alpha - step, low), row[RHO], rules)[1]
    slope = right if right < 0.0 else left
    if right >= 0.0 and left <= 0.0:
        return alpha
    curvature = max((right - left) / (2.0 * step), abs(slope) / 0.5)
    for _ in range(40):
        trial = min(max(alpha - slope / curvature, low), row[ALPHA_MAX])
        move = trial - alpha
        value = cost(row, a, b, trial, rules)
        if value <= now + move * (slope + 0.5 * curvature * move) and value <= now:
            return float(trial)
        curvature *= 4.0
    return alpha


@njit(cache=True, nogil=True)
def _split(rows: Floats, beta: Floats, alpha: Floats, rules: Rules, limit: int) -> Floats:
    """SCA over the power of every device until it moves by less than 1e-9, (device,)."""
    out = alpha.copy()
    for k in range(rows.shape[0]):
        if beta[k] <= 0.0:
            continue
        for _ in range(limit):
            before = out[k]
            out[k] = _split_step(rows[k], beta[k], before, rules)
            if abs(out[k] - before) <= 1e-9 * before:
                break
    return out


@njit(cache=True, nogil=True)
def _admissible_alpha(rows: Floats, beta: Floats, alpha: Floats) -> Floats:
    """The nearest power split at which the signs meet X_MAX, (device,)."""
    out = alpha.copy()
    for k in range(rows.shape[0]):
        row = rows[k]
        a = outage_exponent_scalar(row[SIGN_LOAD], row[RHO] * beta[k], 1.0, row[NOISE])
        if a < math.inf:
            out[k] = min(max(alpha[k], row[ALPHA_MIN], a / row[X_MAX]), row[ALPHA_MAX])
    return out


def _bandwidth_step(
    rows: Floats, beta: Floats, alpha: Floats, droppable: bool, rules: Rules, multiplier: float
) -> tuple[Floats, float]:
    """New shares (device,) and multiplier: KKT point of the bandwidth problem, drawn back until the cost falls."""
    low = least_shares(rows, alpha, rows[:, RHO])
    found = price(
        lambda p: float(_demand(p, rows, alpha, low, beta, droppable, rules).sum()) - 1.0, multiplier, tolerance=1e-10
    )
    target = _demand(found.value, rows, alpha, low, beta, droppable, rules)
    spare = 1.0 - target.sum()
    if found.value > 0 and spare > 0:  # a jump of the demand at the multiplier leaves band over
        grown = np.minimum(target * (1.0 + spare / max(target.sum(), 1e-300)), rows[:, BETA_MAX])
        better = costs(rows, grown, alpha, rows[:, RHO], rules) < costs(rows, target, alpha, rows[:, RHO], rules)
        target = np.where(better, grown, target)
    now = costs(rows, beta, alpha, rows[:, RHO], rules).sum()
    for _ in range(12):
        if costs(rows, target, alpha, rows[:, RHO], rules).sum() <= now:
            return target, max(found.value, 1e-300)
        target = beta + 0.5 * (target - beta)
    return beta, max(found.value, 1e-300)


def alternate(
    rows: Floats, beta: Floats, alpha: Floats, droppable: bool, rules: Rules, *, fixed_alpha: bool, fixed_beta: bool
) -> tuple[Floats, Floats, list[float]]:
    """Alternate from a feasible point; returns beta, alpha (device,) and the objective after every half step.

    Every point is feasible and the history never increases. Ends at a relative change of 1e-8 or after 200 rounds.
    """
    if not fixed_alpha:
        alpha = _admissible_alpha(rows, beta, alpha)
    history = [float(costs(rows, beta, alpha, rows[:, RHO], rules).sum())]
    multiplier = max(abs(history[0]), 1e-300)
    for _ in range(MAX_ROUNDS):
        before = history[-1]
        if not fixed_alpha:
            alpha = _split(rows, beta, alpha, rules, 30)
            history.append(float(costs(rows, beta, alpha, rows[:, RHO], rules).sum()))
        if not fixed_beta:
            beta, multiplier = _bandwidth_step(rows, beta, alpha, droppable, rules, multiplier)
            history.append(float(costs(rows, beta, alpha, rows[:, RHO], rules).sum()))
        if before - history[-1] <= RELATIVE_CHANGE * abs(before):
            break
    return beta, alpha, history
