"""What a bandwidth share is worth to each device: psi_k(beta) = min over alpha [, rho] of J_k (model.md, section 7).

psi_k is tabulated on a grid of shares; the tables find the right valley, a local search in it finds the point.
Both matter because psi_k is sigmoidal: flat while nothing gets through, steep, then flat again, for the signs and
again for the moduli.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spfl.allocation.free_split import descend_free
from spfl.allocation.kernels import Device, Rules, device_at, dropped_cost
from spfl.allocation.power_split import EVERYWHERE, Split, best_split, descend, logit
from spfl.allocation.solvers import minimise
from spfl.arrays import Floats, Indices
from spfl.compiled import CACHE, njit
from spfl.radio.outage import LN2

TABLE_TOLERANCE = 1e-3  # of alpha's logit in the table; what is read from the table only picks valleys
TOLERANCE = 1e-7


class Tables(NamedTuple):
    """psi_k and its arguments on each device's own grid of shares; arrays (device, point)."""

    beta: Floats
    psi: Floats
    alpha: Floats
    rho: Floats


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _grid(device: Device, out: Floats) -> None:
    """Shares from beta_min to beta_max, even in ln(2^r - 1) of the signs.

    That is even in ln x where the outage is steep, and in ln beta where the bandwidth is ample.
    """
    rho = device.rho if device.interference == 0.0 else 1.0
    load = max(device.sign_load / rho if rho > 0.0 else 0.0, 1e-12)
    y_low, y_high = LN2 * load / device.beta_min, LN2 * load / device.beta_max
    first, last = y_low + math.log(-math.expm1(-y_low)), y_high + math.log(-math.expm1(-y_high))
    for i in range(out.size):
        w = first + (last - first) * i / (out.size - 1)
        y = w + math.log1p(math.exp(-w)) if w > 0.0 else math.log1p(math.exp(w))
        out[i] = min(max(LN2 * load / y, device.beta_min), device.beta_max)
    out[0], out[-1] = device.beta_min, device.beta_max


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _steady(alpha: Floats, left: int, i: int, right: int) -> float:
    """alpha[i] if it tells where the best alpha lies between the neighbours, EVERYWHERE if it jumps there."""
    here = logit(alpha[i])
    jump = max(abs(logit(alpha[left]) - here), abs(logit(alpha[right]) - here))
    return alpha[i] if jump < 0.6 else EVERYWHERE


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _put(device: Device, tables: Tables, k: int, i: int, beta: float, guess: Split, rules: Rules) -> None:
    split = best_split(device, beta, guess, TABLE_TOLERANCE, rules)
    tables.beta[k, i] = beta
    tables.psi[k, i], tables.alpha[k, i], tables.rho[k, i] = split


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _roughness(tables: Tables, k: int, i: int) -> float:
    """How much a cell may hide: its fall of psi (relative, at most 1) times its width (relative)."""
    high, low = tables.psi[k, i], tables.psi[k, i + 1]
    fall = 1.0 - low / high if high > low else 0.0
    return min(fall, 1.0) * math.log(tables.beta[k, i + 1] / tables.beta[k, i])


@njit(cache=CACHE, nogil=True, error_model="numpy")
def fill(rows: Floats, tables: Tables, rules: Rules) -> None:
    """Tabulate psi_k for every device, in place: half the points even, the others where the table is roughest."""
    points = tables.beta.shape[1]
    start = points // 2
    shares, rough = np.empty(start), np.empty(points)
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        _grid(device, shares)
        for i in range(start):
            _put(device, tables, k, i, shares[i], Split(0.0, EVERYWHERE, 0.0), rules)
        for i in range(start - 1):
            rough[i] = _roughness(tables, k, i)
        for last in range(start, points):
            cell = int(np.argmax(rough[: last - 1]))
            for i in range(last, cell + 1, -1):
                for table in (tables.beta, tables.psi, tables.alpha, tables.rho):
                    table[k, i] = table[k, i - 1]
                rough[i] = rough[i - 1]
            middle = math.sqrt(tables.beta[k, cell] * tables.beta[k, cell + 2])
            guess = Split(0.0, _steady(tables.alpha[k], cell, cell, cell + 2), tables.rho[k, cell])
            _put(device, tables, k, cell + 1, middle, guess, rules)
            rough[cell], rough[cell + 1] = _roughness(tables, k, cell), _roughness(tables, k, cell + 1)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _priced(u, args):  # type: ignore[no-untyped-def]
    device, price, guess, rules = args
    beta = math.exp(u)
    return best_split(device, beta, guess, TOLERANCE, rules).cost + price * beta


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _refine(device: Device, tables: Tables, k: int, i: int, price: float, near: Floats, rules: Rules):  # type: ignore[no-untyped-def]
    """(least psi + price * beta, beta) between the neighbours of grid point i.

    Newton from `near` (the last answer, when it lies there) or from the grid point; a nested search if that fails.
    """
    beta = tables.beta[k]
    left, right = max(i - 1, 0), min(i + 1, beta.size - 1)
    at_point = tables.psi[k, i] + price * beta[i]
    share, alpha, rho = beta[i], tables.alpha[k, i], tables.rho[k, i]
    if beta[left] < near[0] < beta[right]:
        share, alpha, rho = near[0], near[1], near[2]
    if rules.optimise_rho:
        value, share, alpha, rho, settled = descend_free(device, share, alpha, rho, price, rules)
    else:
        value, share, alpha, settled = descend(device, share, alpha, price, rules)
    if settled and value <= at_point and beta[left] <= share <= beta[right]:
        near[:] = share, alpha, rho
        return value, share
    guess = Split(0.0, _steady(tables.alpha[k], left, i, right), tables.rho[k, i])
    args = (device, price, guess, rules)
    found = minimise(_priced, args, math.log(beta[left]), math.log(beta[right]), math.log(beta[i]), 1e-8, 40)
    share = min(max(math.exp(found.value), device.beta_min), device.beta_max)
    split = best_split(device, share, guess, TOLERANCE, rules)
    value = split.cost + price * share
    if value < at_point:
        near[:] = share, split.alpha, split.rho
        return value, share
    return at_point, beta[i]


@njit(cache=CACHE, nogil=True, error_model="numpy")
def coarse_demand(tables: Tables, price: float, beta: Floats, value: Floats) -> None:
    """`demand` on the grid points alone."""
    for k in range(beta.size):
        value[k], beta[k] = math.inf, 0.0
        for i in range(tables.beta.shape[1]):
            here = tables.psi[k, i] + price * tables.beta[k, i]
            if here < value[k]:
                value[k], beta[k] = here, tables.beta[k, i]


@njit(cache=CACHE, nogil=True, error_model="numpy")
def demand(
    rows: Floats,
    tables: Tables,
    price: float,
    window: Indices,
    near: Floats,
    rules: Rules,
    beta: Floats,
    value: Floats,
) -> None:
    """Each device's best share > 0 at a price of the bandwidth, and its priced cost, into `beta` and `value` (device,).

    Only the grid points window[k, 0] <= i < window[k, 1] are searched. The best valley of the table is refined, and
    the next best one too when it could still win.
    `near` (device, 2, 3): the last beta, alpha and rho in both valleys, 0 for none; updated.
    """
    points = tables.beta.shape[1]
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
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
            if i == second:  # psi falls, so its neighbours bound what this valley can hold
                floor = tables.psi[k, min(i + 1, points - 1)] + price * tables.beta[k, i]
                if min(floor, tables.psi[k, i] + price * tables.beta[k, max(i - 1, 0)]) > value[k]:
                    continue
            found, share = _refine(device, tables, k, i, price, near[k, 0 if i == first else 1], rules)
            if found < value[k]:
                value[k], beta[k] = found, share


@njit(cache=CACHE, nogil=True, error_model="numpy")
def convex_windows(tables: Tables, beta: Floats, window: Indices) -> None:
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


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _slope(grid: Floats, psi: Floats, i: int) -> float:
    width = grid[i + 1] - grid[i]
    return (psi[i + 1] - psi[i]) / width if width > 0.0 else -math.inf


@njit(cache=CACHE, nogil=True, error_model="numpy")
def split_all(rows: Floats, beta: Floats, rules: Rules, cost_: Floats, alpha: Floats, rho: Floats) -> None:
    """psi_k(beta_k) and its arguments for every device with bandwidth, by the global search; (device,)."""
    for k in range(beta.size):
        device = device_at(rows, k)
        if beta[k] > 0.0:
            cost_[k], alpha[k], rho[k] = best_split(device, beta[k], Split(0.0, EVERYWHERE, 0.0), TOLERANCE, rules)
        else:
            cost_[k], alpha[k], rho[k] = dropped_cost(device, rules), device.rho, device.rho


@njit(cache=CACHE, nogil=True, error_model="numpy")
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
            size = math.ceil(tables.beta[k, i] * units - 1e-9)
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
            used -= math.ceil(beta[k] * units - 1e-9)
    return beta
