"""Bandwidth across devices by a safeguarded Newton-Raphson method on the KKT system (model.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spfl.allocation.kernels import (
    COLUMN,
    Device,
    Rules,
    cost,
    costs,
    device_at,
    dropped_cost,
    exponents,
    least_shares,
    slopes,
)
from spfl.allocation.problem import Problem
from spfl.allocation.solvers import newton, price
from spfl.arrays import Floats
from spfl.compiled import CACHE, njit

SHARE_TO_SLACK = 1e-2  # accuracy of a share for that of their sum


STEEPEST_POINTS = 24


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _stationarity(u, args):  # type: ignore[no-untyped-def]
    """ln lambda - ln(-dJ/dbeta) at u = ln beta, and its slope: near linear in u, so Newton needs few steps.

    A share at which J does not fall counts as far too large.
    """
    device, alpha, log_price, rules = args
    value = _log_worth(device, math.exp(u), alpha, rules)
    ahead = _log_worth(device, math.exp(u + 1e-6), alpha, rules)
    return log_price - value, (value - ahead) * 1e6


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _log_worth(device: Device, beta: float, alpha: float, rules: Rules) -> float:
    slope = slopes(device, beta, alpha, device.rho, rules)[0]
    return math.log(-slope / beta) if slope < 0.0 else -1000.0


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _demand(
    price_: float,
    rows: Floats,
    alpha: Floats,
    low: Floats,
    near: Floats,
    droppable: bool,
    tolerance: float,
    rules: Rules,
) -> Floats:
    """Every device's share at which dJ/dbeta = -lambda, from its bracket [low, beta_max]; (device,).

    The search starts at `near` (device,), where the shares found are left, dropped devices' as well.
    """
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        if not low[k] < math.inf:
            out[k] = 0.0
            continue
        args = (device, alpha[k], math.log(price_) if price_ > 0.0 else -1000.0, rules)
        first, last, start = math.log(low[k]), math.log(device.beta_max), math.log(max(near[k], low[k]))
        found = newton(_stationarity, args, first, last, start, tolerance)
        share = min(max(math.exp(found.value), low[k]), device.beta_max)
        near[k] = share
        a, b = exponents(device, share, device.rho)
        keep = not droppable or cost(device, a, b, alpha[k], rules) + price_ * share < dropped_cost(device, rules)
        out[k] = share if keep else 0.0
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _steepest(rows: Floats, alpha: Floats, low: Floats, rules: Rules) -> Floats:
    """The share where J falls fastest, (device,): J is sigmoidal, and its minima lie to the right of it."""
    out = low.copy()
    for k in range(rows.shape[0]):
        if not low[k] < math.inf:
            continue
        device, best = device_at(rows, k), -math.inf
        step = (math.log(device.beta_max) - math.log(low[k])) / (STEEPEST_POINTS - 1)
        for i in range(STEEPEST_POINTS):
            share = low[k] * math.exp(step * i)
            worth = _log_worth(device, share, alpha[k], rules)
            if worth > best:
                best, out[k] = worth, min(share, device.beta_max)
    return out


def _spread_spare(beta: Floats, rows: Floats, cost_of: Callable[[Floats], Floats]) -> list[Floats]:
    """The shares as they are, with the spare bandwidth spread over all who gain by it, and with all of it for one."""
    limit = rows[:, COLUMN["beta_max"]]
    grown, one = np.minimum(beta / beta.sum(), limit), beta.copy()
    grown = np.where(cost_of(grown) < cost_of(beta), grown, beta)
    alone = np.where(beta > 0.0, np.minimum(beta + 1.0 - beta.sum(), limit), beta)
    favoured = int(np.argmin(cost_of(alone) - cost_of(beta)))
    one[favoured] = alone[favoured]
    return [beta, grown, one]


def bandwidth_step(
    problem: Problem, beta: Floats, alpha: Floats, multiplier: float, slack: float
) -> tuple[Floats, float]:
    """New shares (device,) and multiplier: KKT point of the bandwidth problem, drawn back until the cost falls."""
    rows, rules, droppable, most = problem.rows, problem.rules, problem.droppable, problem.limits.max_scheduled
    rho = np.ascontiguousarray(rows[:, COLUMN["rho"]])
    low = least_shares(rows, alpha, rho)
    if droppable:
        low = _steepest(rows, alpha, low, rules)

    near = beta.copy()  # the last answers: the price moves little from one trial to the next

    def demand(price_: float) -> Floats:
        shares = np.asarray(_demand(price_, rows, alpha, low, near, droppable, SHARE_TO_SLACK * slack, rules))
        if most is None or np.count_nonzero(shares) <= most:
            return shares
        saving = dropped - cost_of(shares) - price_ * shares
        kept = np.argsort(-np.where(shares > 0.0, saving, -np.inf), kind="stable")[:most]
        return np.where(np.isin(np.arange(len(shares)), kept), shares, 0.0)

    def cost_of(shares: Floats) -> Floats:
        return np.asarray(costs(rows, shares, alpha, rho, rules))

    dropped = rows[:, COLUMN["bias_weight"]] * rows[:, COLUMN["v2"]] + rules.silence
    found = price(lambda p: float(demand(p).sum()) - 1.0, multiplier, tolerance=slack, slack=slack)
    target = demand(found.value)
    if 0.0 < target.sum() < 1.0:  # a jump of the demand at the multiplier leaves bandwidth over
        target = min(_spread_spare(target, rows, cost_of), key=lambda shares: float(cost_of(shares).sum()))
    now = cost_of(beta).sum()
    for _ in range(12):
        if target.sum() <= 1.0 + 1e-12 and cost_of(target).sum() <= now:
            return target, max(found.value, 1e-300)
        target = beta + 0.5 * (target - beta)
        if most is not None and np.count_nonzero(target) > most:
            break
    return beta, max(found.value, 1e-300)
