"""The certified solver: Lagrange dual over tables of psi_k, primal repair at the break point (model.md, section 7).

D(lambda) = sum_k min(W_k ||v_k||^2 where dropping is allowed, min_beta psi_k(beta) + lambda beta) - lambda is a lower
bound of the optimum for every lambda >= 0. The demand sum_k beta_k(lambda) falls in lambda, so its best value lies
where the demand meets the bandwidth. psi_k is sigmoidal, the demand may jump there: the dual leaves a gap (at most the
share of a few devices, by Shapley-Folkman), and the repair looks for the primal point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spfl.allocation.kernels import COLUMN, Rules
from spfl.allocation.problem import Problem
from spfl.allocation.solvers import price
from spfl.allocation.value_tables import (
    Tables,
    coarse_demand,
    convex_windows,
    demand,
    fill,
    knapsack,
    split_all,
)
from spfl.arrays import Bools, Floats, Indices
from spfl.machine import in_chunks

POINTS = 32
FINE_POINTS = 80
FEW_DEVICES = 64  # so few that dynamic programming and a finer table cost little
KNAPSACK_UNITS = 1000
FILL_CHUNKS, FILL_CHUNK = 64, 8  # while tables are filled: so many chunks, each of at least so many devices
FEW_MARGIN = 1e-7  # taken off the bound, relative: inner searches end within this of the minimum
MARGIN = 1e-5  # the same for the coarser table of many devices, which may hide a valley of one in a thousand


class Certified(NamedTuple):
    """Shares and splits (device,) of the rows, the dual bound, the multiplier, and the number of demand evaluations."""

    beta: Floats
    alpha: Floats
    rho: Floats
    lower_bound: float
    multiplier: float
    iterations: int


class _Dual:
    """The demand at a price, and the best dual value seen. Holds the tables; chunks run over threads."""

    def __init__(self, problem: Problem) -> None:
        rows, rules, limits = problem.rows, problem.rules, problem.limits
        size = len(rows)
        self.fine = size <= FEW_DEVICES and limits.tolerance < 10 * MARGIN
        points, self.margin = (FINE_POINTS, FEW_MARGIN) if self.fine else (POINTS, MARGIN)
        self.rows, self.rules, self.max_scheduled = rows, rules, limits.max_scheduled
        self.dropped_cost = rows[:, COLUMN["bias_weight"]] * rows[:, COLUMN["v2"]] + rules.silence
        self.dropped = self.dropped_cost if problem.droppable else np.full(size, np.inf)
        self.tables = Tables(*(np.empty((size, points)) for _ in range(4)))
        self.everywhere = np.tile(np.array([0, points]), (size, 1))
        self.near = np.zeros((size, 2, 3))
        self.bound, self.count = -math.inf, 0
        chunk = max(FILL_CHUNK, size // FILL_CHUNKS)
        in_chunks(lambda part: fill(rows[part], self.part(part), rules), size, chunk)

    def part(self, part: slice) -> Tables:
        return Tables(*(array[part] for array in self.tables))

    def respond(self, multiplier: float, window: Indices | None = None) -> Floats:
        """Shares (device,) that minimise the Lagrangian; without a window the dual value counts towards the bound."""
        beta, value = np.empty(len(self.rows)), np.empty(len(self.rows))
        limits = self.everywhere if window is None else window
        in_chunks(
            lambda s: demand(
                self.rows[s], self.part(s), multiplier, limits[s], self.near[s], self.rules, beta[s], value[s]
            ),
            len(self.rows),
        )
        self.count += 1
        if window is None:
            keep = self._scheduled(value)
            total = float(np.where(keep, value, self.dropped_cost).sum())
            self.bound = max(self.bound, total - multiplier - self.margin * abs(total - multiplier))
            beta = np.where(keep, beta, 0.0)
        return beta

    def coarse(self, multiplier: float) -> Floats:
        """`respond` on the grid points only, without a bound."""
        beta, value = np.empty(len(self.rows)), np.empty(len(self.rows))
        coarse_demand(self.tables, multiplier, beta, value)
        return np.where(self._scheduled(value), beta, 0.0)

    def _scheduled(self, value: Floats) -> Bools:
        saving = self.dropped - value
        keep = saving > 0.0
        if self.max_scheduled is not None and keep.sum() > self.max_scheduled:
            best = np.argsort(-saving, kind="stable")[: self.max_scheduled]
            keep = np.zeros_like(keep)
            keep[best] = True
        return keep

    def split(self, beta: Floats) -> tuple[float, Floats, Floats]:
        """(objective of the rows, alpha, rho) with the best split for these shares."""
        cost, alpha, rho = (np.empty(len(beta)) for _ in range(3))
        in_chunks(lambda s: split_all(self.rows[s], beta[s], self.rules, cost[s], alpha[s], rho[s]), len(self.rows))
        return float(cost.sum()), alpha, rho

    def meet(self, guess: float, slack: float, window: Indices | None = None, scheduled: Bools | None = None) -> Floats:
        """Shares (device,) at the price where the demand meets the bandwidth; the largest demand seen that fits.

        With `scheduled` only these devices may have bandwidth. Sets `multiplier`.
        """
        best = np.zeros(len(self.rows))

        def excess(multiplier: float) -> float:
            nonlocal best
            beta = self.respond(multiplier, window)
            beta = beta if scheduled is None else np.where(scheduled, beta, 0.0)
            over = float(beta.sum()) - 1.0
            if over <= 0.0 and beta.sum() > best.sum():
                best = beta
            return over

        # the bound is flat in the multiplier at its best: no need to close in on a jump of the demand
        tolerance = max(0.1 * slack, 1e-12)
        self.multiplier = price(excess, guess, factor=None, tolerance=tolerance, slack=slack, limit=60).value
        return best

    def polish(self, beta: Floats, guess: float) -> Floats:
        """The optimum over the convex stretches of psi around these shares, for the devices they schedule."""
        window = np.empty((len(beta), 2), np.int64)
        convex_windows(self.tables, beta, window)
        return self.meet(guess, 1e-10, window, beta > 0.0)


def solve_splits(rows: Floats, beta: Floats, rules: Rules) -> Certified:
    """The best splits for shares (device,) that are given: no coupling, so the bound is the optimum less the margin."""
    cost, alpha, rho = (np.empty(len(beta)) for _ in range(3))
    split_all(rows, beta, rules, cost, alpha, rho)
    return Certified(beta, alpha, rho, float(cost.sum()) * (1.0 - FEW_MARGIN), 0.0, 1)


def _use_spare(beta: Floats, limit: Floats) -> Floats:
    """Shares scaled up to fill the bandwidth, none above its limit."""
    total = beta.sum()
    return np.minimum(beta / total, limit) if 0.0 < total < 1.0 else beta


def solve(problem: Problem, starts: list[Floats], multiplier: float) -> Certified:
    """Minimise the cost of the rows over shares that sum to at most one.

    `starts` are feasible shares to compare with (and improve on); `multiplier` > 0 is a guess of lambda, 0 for none.
    The search for better shares ends when the gap is at most the tolerance of the problem's limits.
    """
    rows, limits, dual = problem.rows, problem.limits, _Dual(problem)
    guess = multiplier
    if guess <= 0.0:
        guess = price(lambda p: float(dual.coarse(p).sum()) - 1.0, 1.0, factor=8.0, tolerance=1e-3).value
    few = len(rows) <= FEW_DEVICES
    candidates = [dual.meet(guess, 1e-9 if few else 1e-4), *starts]
    multiplier = dual.multiplier
    best, beta = math.inf, candidates[0]
    alpha, rho = rows[:, COLUMN["rho"]], rows[:, COLUMN["rho"]]

    def compare(candidate: Floats) -> None:
        nonlocal best, beta, alpha, rho
        if candidate.sum() > 1.0 + 1e-12:
            return
        value, *split = dual.split(candidate)
        if value < best:
            best, beta, (alpha, rho) = value, candidate, split

    def improve(candidate: Floats) -> None:
        compare(dual.polish(candidate, max(multiplier, 1e-300)))

    def proven(tolerance: float) -> bool:
        return best - dual.bound <= tolerance * abs(best)

    for candidate in candidates:
        compare(candidate)
        if (whole := _use_spare(candidate, rows[:, COLUMN["beta_max"]])) is not candidate:
            compare(whole)
    if not proven(max(2.0 * dual.margin, limits.tolerance)):
        improve(beta)
    if few and not proven(1e-4):
        for candidate in [knapsack(dual.tables, dual.dropped, KNAPSACK_UNITS), *candidates]:
            if candidate.any() and np.count_nonzero(candidate) <= (limits.max_scheduled or len(rows)):
                improve(candidate)
    return Certified(beta, alpha, rho, dual.bound, multiplier, dual.count)
