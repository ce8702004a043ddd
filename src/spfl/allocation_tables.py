"""What a share of the band is worth to each device: psi_k(beta) = min over alpha [, rho] of J_k (THEORY 7).

psi_k is tabulated on a grid of shares; the tables find the right valley, a local search in it finds the point.
Both matter because psi_k is sigmoidal: flat while nothing gets through, steep, then flat again, for the signs and
again for the moduli.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spfl.allocation_kernels import (
    ALPHA_MAX,
    ALPHA_MIN,
    BETA_MAX,
    BETA_MIN,
    BIAS_WEIGHT,
    MODULUS_LOAD,
    RHO,
    SIGN_LOAD,
    V2,
    X_MAX,
    Rules,
    cost,
    exponents,
)
from spfl.bound import PLAIN, Floats
from spfl.channel import LN2
from spfl.solvers import minimise

Ints = NDArray[np.int64]

LOST = 41.0  # exp(-41) < 1e-17: a modulus packet that never arrives
SPLIT_POINTS = 16
RHO_POINTS = 9
LOGIT_LIMIT = 36.0  # beyond, 1 - alpha rounds to 0


class Split(NamedTuple):
    """The best division of a device's power (and band) and what it costs."""

    cost: float
    alpha: float
    rho: float


class Tables(NamedTuple):
    """psi_k and its arguments on each device's own grid of shares; arrays (device, point)."""

    beta: Floats
    psi: Floats
    alpha: Floats
    rho: Floats


@njit(cache=True, nogil=True)
def _logit(p: float) -> float:
    if p <= 0.0:
        return -LOGIT_LIMIT
    if p >= 1.0:
        return LOGIT_LIMIT
    return min(max(math.log(p / (1.0 - p)), -LOGIT_LIMIT), LOGIT_LIMIT)


@njit(cache=True, nogil=True)
def _expit(t: float) -> float:
    return 1.0 / (1.0 + math.exp(-t))


@njit(cache=True, nogil=True)
def _cost_at_logit(t, args):  # type: ignore[no-untyped-def]
    row, a, b, low, high, rules = args
    return cost(row, a, b, min(max(_expit(t), low), high), rules)


@njit(cache=True, nogil=True)
def best_alpha(row: Floats, a: float, b: float, guess: float, rules: Rules) -> tuple[float, float]:
    """(least cost, alpha) for the full-power exponents a and b; cost inf when the signs cannot meet X_MAX.

    The function of alpha may have several minima: the point where both packets are equally strong (a kink under
    block fading), an interior point, and all power on the signs. So scan from where the modulus packet stops
    being the stronger one to where it never arrives, then refine the best. A `guess` in (0, 1) replaces the scan
    by a local search around it.
    """
    low, high = max(row[ALPHA_MIN], a / row[X_MAX]), row[ALPHA_MAX]
    if not low <= high:
        return math.inf, high
    best, alpha = cost(row, a, b, high, rules), high
    if low == high or b == 0.0:
        return best, alpha
    args = (row, a, b, low, high, rules)
    first = low
    if rules.block and rules.weights != PLAIN:  # below the kink a stronger modulus packet gains nothing
        first = min(max(a / (a + b) if b < math.inf else 0.0, low), high)
    left, right = _logit(first), min(_logit(high), -_logit(min(b / (LOST + a + b), 1.0) if b < math.inf else 1.0))
    if not left < right:
        value = cost(row, a, b, first, rules)
        return (value, first) if value < best else (best, alpha)
    if 0.0 < guess < 1.0:
        centre = min(max(_logit(guess), left), right)
        left, right = max(left, centre - 0.7), min(right, centre + 0.7)
    else:
        step = (right - left) / (SPLIT_POINTS - 1)
        centre, least = left, math.inf
        for i in range(SPLIT_POINTS):
            value = _cost_at_logit(left + i * step, args)
            if value < least:
                centre, least = left + i * step, value
        left, right = max(left, centre - step), min(right, centre + step)
    found = minimise(_cost_at_logit, args, left, right, centre, 1e-7, 30)
    here = min(max(_expit(found.value), low), high)
    value = cost(row, a, b, here, rules)
    return (value, here) if value < best else (best, alpha)


@njit(cache=True, nogil=True)
def _cost_at_rho(s, args):  # type: ignore[no-untyped-def]
    row, beta, guess, rules = args
    a, b = exponents(row, beta, _expit(s))
    return best_alpha(row, a, b, guess, rules)[0]


@njit(cache=True, nogil=True)
def best_split(row: Floats, beta: float, guess: Split, rules: Rules) -> Split:
    """psi_k(beta) and its arguments. A guess with alpha in (0, 1) makes the search local; alpha = -1 makes it global."""
    a, b = exponents(row, beta, row[RHO])
    value, alpha = best_alpha(row, a, b, guess.alpha, rules)
    best = Split(value, alpha, row[RHO])
    if not rules.optimise_rho:
        return best
    a, b = exponents(row, beta, 1.0)
    value, alpha = best_alpha(row, a, b, -1.0, rules)
    if value < best.cost:
        best = Split(value, alpha, 1.0)
    args = (row, beta, guess.alpha, rules)
    centre, left, right = _logit(guess.rho), _logit(guess.rho) - 0.7, _logit(guess.rho) + 0.7
    if not 0.0 < guess.alpha < 1.0:
        step, least = 10.0 / (RHO_POINTS - 1), math.inf
        for i in range(RHO_POINTS):
            value = _cost_at_rho(-5.0 + i * step, args)
            if value < least:
                centre, least = -5.0 + i * step, value
        left, right = centre - step, centre + step
    found = minimise(_cost_at_rho, args, left, right, centre, 1e-6, 30)
    rho = _expit(found.value)
    a, b = exponents(row, beta, rho)
    value, alpha = best_alpha(row, a, b, guess.alpha, rules)
    return Split(value, alpha, rho) if value < best.cost else best


@njit(cache=True, nogil=True)
def _grid(row: Floats, load: float, out: Floats) -> None:
    """Shares from BETA_MIN to BETA_MAX, even in ln(2^r - 1) for a packet of this load per unit of band.

    That is even in ln x where the outage is steep, and in ln beta where the band is ample.
    """
    y_low, y_high = LN2 * load / row[BETA_MIN], LN2 * load / row[BETA_MAX]
    first, last = y_low + math.log(-math.expm1(-y_low)), y_high + math.log(-math.expm1(-y_high))
    for i in range(out.size):
        w = first + (last - first) * i / (out.size - 1)
        y = w + math.log1p(math.exp(-w)) if w > 0.0 else math.log1p(math.exp(w))
        out[i] = min(max(LN2 * load / y, row[BETA_MIN]), row[BETA_MAX])
    out[0], out[-1] = row[BETA_MIN], row[BETA_MAX]


@njit(cache=True, nogil=True)
def _shares(row: Floats, out: Floats) -> None:
    """The grid of one device: for its signs, and where the modulus packet is much heavier half of it for that."""
    sign = row[SIGN_LOAD] / row[RHO] if row[RHO] > 0.0 else 0.0
    modulus = row[MODULUS_LOAD] / (1.0 - row[RHO]) if row[RHO] < 1.0 else 0.0
    if sign > 0.0 and modulus <= 1.5 * sign:
        _grid(row, sign, out)
    elif sign <= 0.0:
        _grid(row, max(modulus, 1e-12), out)
    else:
        half = out.size // 2
        _grid(row, sign, out[:half])
        _grid(row, min(modulus, 60.0 * row[BETA_MAX] / LN2), out[half:])
        out.sort()


@njit(cache=True, nogil=True)
def fill(rows: Floats, tables: Tables, rules: Rules) -> None:
    """Tabulate psi_k for every device, in place."""
    for k in range(rows.shape[0]):
        row = rows[k]
        _shares(row, tables.beta[k])
        for i in range(tables.beta.shape[1]):
            split = best_split(row, tables.beta[k, i], Split(0.0, -1.0, 0.0), rules)
            tables.psi[k, i], tables.alpha[k, i], tables.rho[k, i] = split


@njit(cache=True, nogil=True)
def _priced(u, args):  # type: ignore[no-untyped-def]
    row, price, guess, rules = args
    beta = math.exp(u)
    return best_split(row, beta, guess, rules).cost + price * beta


@njit(cache=True, nogil=True)
def _steady(alpha: Floats, left: int, i: int, right: int) -> float:
    """alpha[i] if it tells where the best alpha lies between the neighbours, -1 (search everywhere) if it jumps there."""
    here = _logit(alpha[i])
    jump = max(abs(_logit(alpha[left]) - here), abs(_logit(alpha[right]) - here))
    return alpha[i] if jump < 0.6 else -1.0


@njit(cache=True, nogil=True)
def _refine(row: Floats, tables: Tables, k: int, i: int, price: float, rules: Rules) -> tuple[float, float]:
    """(least psi + price * beta, beta) between the neighbours of grid point i."""
    beta = tables.beta[k]
    left, right = max(i - 1, 0), min(i + 1, beta.size - 1)
    centre = math.log(beta[i])
    guess = Split(0.0, _steady(tables.alpha[k], left, i, right), tables.rho[k, i])
    args = (row, price, guess, rules)
    found = minimise(_priced, args, math.log(beta[left]), math.log(beta[right]), centre, 1e-8, 40)
    share = min(max(math.exp(found.value), row[BETA_MIN]), row[BETA_MAX])
    value = best_split(row, share, guess, rules).cost + price * share
    at_point = tables.psi[k, i] + price * beta[i]
    return (value, share) if value < at_point else (at_point, beta[i])


@njit(cache=True, nogil=True)
def coarse_demand(tables: Tables, price: float, beta: Floats, value: Floats) -> None:
    """`demand` on the grid points alone."""
    for k in range(beta.size):
        value[k], beta[k] = math.inf, 0.0
        for i in range(tables.beta.shape[1]):
            here = tables.psi[k, i] + price * tables.beta[k, i]
            if here < value[k]:
                value[k], beta[k] = here, tables.beta[k, i]


@njit(cache=True, nogil=True)
def demand(rows: Floats, tables: Tables, price: float, window: Ints, rules: Rules, beta: Floats, value: Floats) -> None:
    """Each device's best share > 0 at a price of the band, and its priced cost, into `beta` and `value` (device,).

    Only the grid points window[k, 0] <= i < window[k, 1] are searched. The best valley of the table is refined, and
    the next best one too when it could still win.
    """
    points = tables.beta.shape[1]
    for k in range(rows.shape[0]):
        value[k], beta[k] = math.inf, 0.0
        first = second = -1
        best = runner_up = math.inf
        start, stop = window[k, 0], window[k, 1]
        for i in range(start, stop):
            here = tables.psi[k, i] + price * tables.beta[k, i]
            before = tables.psi[k, i - 1] + price * tables.beta[k, i - 1] if i > start else math.inf
            after = tables.psi[k, i + 1] + price * tables.beta[k, i + 1] if i + 1 < stop else math.inf
            if not (here <= before and here <= after and here < math.inf):
                continue
            if here < best:
                second, runner_up, first, best = first, best, i, here
            elif here < runner_up:
                second, runner_up = i, here
        for i in (first, second):
            if i < 0:
                continue
            around = 0.0
            if i == second:
                for j in (max(i - 1, 0), min(i + 1, points - 1)):
                    around = max(around, tables.psi[k, j] + price * tables.beta[k, j] - runner_up)
                if runner_up - 0.5 * around > value[k]:
                    continue
            found, share = _refine(rows[k], tables, k, i, price, rules)
            if found < value[k]:
                value[k], beta[k] = found, share


@njit(cache=True, nogil=True)
def convex_windows(tables: Tables, beta: Floats, window: Ints) -> None:
    """The run of grid points around each share on which the table is convex, into `window` (device, 2)."""
    points = tables.beta.shape[1]
    for k in range(beta.size):
        grid, psi = tables.beta[k], tables.psi[k]
        cell = min(max(np.searchsorted(grid, beta[k]) - 1, 0), points - 2)
        left = right = cell
        while left > 0 and _slope(grid, psi, left - 1) <= _slope(grid, psi, left):
            left -= 1
        while right < points - 2 and _slope(grid, psi, right + 1) >= _slope(grid, psi, right):
            right += 1
        window[k, 0], window[k, 1] = left, right + 2


@njit(cache=True, nogil=True)
def _slope(grid: Floats, psi: Floats, i: int) -> float:
    width = grid[i + 1] - grid[i]
    return (psi[i + 1] - psi[i]) / width if width > 0.0 else -math.inf


@njit(cache=True, nogil=True)
def split_all(rows: Floats, beta: Floats, rules: Rules, cost_: Floats, alpha: Floats, rho: Floats) -> None:
    """psi_k(beta_k) and its arguments for every device with band, by the global search; (device,)."""
    for k in range(beta.size):
        if beta[k] > 0.0:
            cost_[k], alpha[k], rho[k] = best_split(rows[k], beta[k], Split(0.0, -1.0, 0.0), rules)
        else:
            cost_[k], alpha[k], rho[k] = rows[k, BIAS_WEIGHT] * rows[k, V2], rows[k, RHO], rows[k, RHO]


@njit(cache=True, nogil=True)
def knapsack(tables: Tables, dropped: Floats, units: int) -> Floats:
    """Shares (device,) on the grids that minimise the cost when each is rounded up to 1 / units: dynamic programming.

    beta = 0 costs `dropped` (inf if forbidden). All zero when nothing fits.
    """
    devices, points = tables.beta.shape
    best = np.zeros(units + 1)
    choice = np.empty((devices, units + 1), np.int64)
    for k in range(devices):
        fresh = best + dropped[k]
        choice[k] = -1
        for i in range(points):
            size = int(math.ceil(tables.beta[k, i] * units - 1e-9))
            for used in range(size, units + 1):
                value = best[used - size] + tables.psi[k, i]
                if value < fresh[used]:
                    fresh[used], choice[k, used] = value, i
        best = fresh
    beta, used = np.zeros(devices), units
    if not best[units] < math.inf:
        return beta
    for k in range(devices - 1, -1, -1):
        i = choice[k, used]
        if i >= 0:
            beta[k] = tables.beta[k, i]
            used -= int(math.ceil(beta[k] * units - 1e-9))
    return beta
