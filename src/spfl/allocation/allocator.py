"""Shares of the band and splits of the power that minimise the one-step cost, with a certificate (model.md, section 7).

    minimise    sum_k J_k(alpha_k, beta_k [, rho_k])
    over        beta >= 0, sum_k beta_k <= 1, beta_k <= max_share, 1 - max_power <= alpha_k <= max_power
    subject to  q_s >= min_success for every scheduled device, at most max_scheduled devices scheduled

Who is scheduled. A device with no weight or no gradient needs no band and costs W ||v||^2 = 0. A device is
*hopeless* when q_s < 1e-12 even with the largest share and all power on its signs: it gets no band and costs its
whole bias W ||v||^2. Every other device counts as scheduled only with q_s >= 1e-12 (below that it is never heard).
Under `unbiased` weights J grows without bound as q_s -> 0, so all of these are scheduled, unless `max_scheduled`
or `allow_drop` lets the solver drop some at W ||v||^2 each. Under the other weights beta = 0 is the limit of small
shares, so the solver may drop, unless there is a `min_success`. If the band cannot carry everybody who must be
scheduled, or only at a higher cost than an equal split that leaves some unheard, the solver may drop too, and the
status is `overloaded`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import numpy as np

from spfl.allocation.alternating import alternate
from spfl.allocation.bound import BOUND, Devices, Objective, device_cost
from spfl.allocation.exact import solve, solve_splits
from spfl.allocation.kernels import COLUMN, least_shares
from spfl.allocation.problem import SUCCESS_FLOOR, UNLIMITED, Limits, Problem, pose
from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.arrays import Floats
from spfl.errors import AllocationError
from spfl.radio.outage import Link, success

Solver = Literal["exact", "alternating", "uniform"]
SOLVERS: tuple[Solver, ...] = ("exact", "alternating", "uniform")
START_ALPHA = (0.5, 0.05, 0.999, 1.0)  # besides alpha = rho, the conventional point
ALPHA_LIMITS = [COLUMN["alpha_min"], COLUMN["alpha_max"]]


def allocate(
    devices: Devices,
    link: Link,
    objective: Objective = BOUND,
    limits: Limits = UNLIMITED,
    *,
    solver: Solver = "exact",
    start: AllocationResult | None = None,
) -> AllocationResult:
    """Minimise the one-step cost over the shares of the band and the splits of the power; see the module's header.

    Args:
        devices: What the server knows of each gradient, arrays (device,).
        link: What it knows of each device's channel.
        objective: The reading of the bound that is minimised.
        limits: What the allocation must keep to. `uniform` keeps to none of it.
        solver: `exact` proves its distance from the optimum; `alternating` is the paper's (monotone, feasible at
            every step); `uniform` is beta = 1/K and alpha = rho.
        start: An earlier result for the same number of devices, to start from.

    Returns:
        Shares, success probabilities and cost of each device, and the certificate of `exact`.

    Raises:
        AllocationError: The problem is malformed or has no feasible point.
    """
    began = time.perf_counter()
    _check(devices, link, limits, solver, start)
    problem = pose(devices, link, objective, limits)
    result = _uniform(problem) if solver == "uniform" else _optimise(problem, solver, start)
    return replace(result, seconds=time.perf_counter() - began)


def _optimise(problem: Problem, solver: Solver, start: AllocationResult | None) -> AllocationResult:
    """Run a solver; again with leave to drop devices when they cannot all be served (status `overloaded`)."""
    run = _alternating if solver == "alternating" else _exact
    if not problem.active.any():
        result = _uniform(problem)
        return replace(result, lower_bound=result.objective, gap=0.0) if solver == "exact" else result
    if problem.droppable or problem.limits.fixed_beta:
        return run(problem, start)
    fits = problem.rows[:, COLUMN["beta_min"]].sum() <= 1.0
    served = run(problem, start) if fits else None
    guaranteed = (problem.rows[:, COLUMN["x_max"]] < -np.log(SUCCESS_FLOOR)).any()
    if served is not None and (guaranteed or served.objective <= _uniform(problem).objective * (1.0 + 1e-9)):
        return served
    return replace(run(replace(problem, droppable=True), start), status=AllocationStatus.OVERLOADED)


def _check(devices: Devices, link: Link, limits: Limits, solver: str, start: AllocationResult | None) -> None:
    if solver not in SOLVERS:
        raise AllocationError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if limits.optimise_rho and solver != "exact":
        raise AllocationError(f"optimise_rho needs solver='exact', got {solver!r}")
    if devices.size != link.size:
        raise AllocationError(f"devices and link must have the same size, got {devices.size} and {link.size}")
    if start is not None and start.beta.size != devices.size:
        raise AllocationError(f"start must have {devices.size} devices, got {start.beta.size}")


def _evaluate(problem: Problem, beta: Floats, alpha: Floats, rho: Floats, **extra: object) -> AllocationResult:
    """The result for shares and splits of all devices, every figure recomputed by the public functions."""
    p = problem
    chances = success(p.link, beta, alpha, rho)
    q_s, r_m = np.where(beta > 0, chances.q_s, 0.0), np.where(beta > 0, chances.r_m, 0.0)
    cost = device_cost(p.devices, q_s, r_m, p.objective)
    fields = {"lower_bound": None, "gap": None, "iterations": 0, "seconds": 0.0} | extra
    return AllocationResult(
        beta,
        alpha,
        rho,
        q_s,
        r_m,
        cost,
        float(cost.sum()),
        hopeless=p.hopeless,
        **fields,  # type: ignore[arg-type]
    )


def _spread(problem: Problem, values: Floats, elsewhere: Floats | float) -> Floats:
    """Values of the active devices in an array of all devices, (device,)."""
    out = np.array(np.broadcast_to(elsewhere, problem.active.shape), np.float64)
    out[problem.active] = values
    return out


def _uniform(problem: Problem) -> AllocationResult:
    split = np.array(problem.link.split)
    beta = np.where(problem.active, 1.0 / problem.devices.size, 0.0)
    status = AllocationStatus.FIXED if problem.active.any() else AllocationStatus.TRIVIAL
    return _evaluate(problem, beta, split, split.copy(), status=status)


def _feasible_start(problem: Problem, alpha: Floats) -> Floats | None:
    """Shares near 1/K (active,) at which all are heard with this split; None if there are none.

    Where devices may be dropped, the unheard ones are.
    """
    rows, equal = problem.rows, 1.0 / problem.devices.size
    if problem.limits.fixed_beta:
        return np.full(len(rows), equal)
    low, high = least_shares(rows, alpha, rows[:, COLUMN["rho"]]) * (1.0 + 1e-9), rows[:, COLUMN["beta_max"]]
    if problem.droppable:
        reached = np.where(np.minimum(equal, high) >= low, np.minimum(equal, high), 0.0)
        return _fewest(reached, problem.limits.max_scheduled)
    if not low.sum() <= 1.0:
        return None
    beta = np.clip(equal, low, high)
    room = (beta - low).sum()
    return low + (beta - low) * min(1.0, (1.0 - low.sum()) / room) if room > 0 else low


def _fewest(beta: Floats, most: int | None) -> Floats:
    """The first `most` of the shares, the others 0; the shares themselves when there is no limit."""
    return beta if most is None else np.where(np.cumsum(beta > 0) <= most, beta, 0.0)


def _alternating(problem: Problem, start: AllocationResult | None = None) -> AllocationResult:
    rows, best = problem.rows, None
    start = start if start is not None and _fits(problem, start) else None
    splits = [rows[:, COLUMN["rho"]], *(np.full(len(rows), value) for value in START_ALPHA)]
    points = [(_feasible_start(problem, a), a) for a in (np.clip(a, *rows[:, ALPHA_LIMITS].T) for a in splits)]
    again = points  # once with the power first from the first of them, then with the band first from all
    if start is not None:  # an earlier result that fits is as good a start as all of these
        again = [(start.beta[problem.active], start.alpha[problem.active])]
    for i, (beta, alpha) in enumerate([*points[:1], *again]):
        if beta is not None:
            end = alternate(problem, beta, alpha, band_first=i > 0)
            best = end if best is None or end[2][-1] < best[2][-1] else best
    assert best is not None  # with all power on the signs, the least shares fit
    beta, alpha, history = best
    split = np.array(problem.link.split)
    return _evaluate(
        problem, _spread(problem, beta, 0.0), _spread(problem, alpha, split), split,
        status=AllocationStatus.CONVERGED, iterations=len(history), history=tuple(history),
    )  # fmt: skip


def _fits(problem: Problem, start: AllocationResult) -> bool:
    """Whether an earlier result is a feasible point of this problem."""
    rows, beta, alpha = problem.rows, start.beta[problem.active], start.alpha[problem.active]
    low, high = rows[:, ALPHA_LIMITS].T
    least = least_shares(rows, alpha, rows[:, COLUMN["rho"]])
    heard = (beta >= least) | ((beta == 0.0) & problem.droppable)
    inside = heard & (beta <= rows[:, COLUMN["beta_max"]]) & (low <= alpha) & (alpha <= high)
    scheduled = np.count_nonzero(beta)
    return bool(inside.all() and beta.sum() <= 1.0 and scheduled <= (problem.limits.max_scheduled or scheduled))


def _exact(problem: Problem, start: AllocationResult | None = None) -> AllocationResult:
    p, rows = problem, problem.rows
    equal, split = np.full(len(rows), 1.0 / p.devices.size), np.array(p.link.split)
    if p.limits.fixed_beta:
        solution = solve_splits(rows, equal, p.rules)
    else:
        starts = [equal] if start is None else [equal, start.beta[p.active]]
        low, high = rows[:, COLUMN["beta_min"]], rows[:, COLUMN["beta_max"]]
        inside = [_fewest(np.where(b >= low, np.minimum(b, high), 0.0), p.limits.max_scheduled) for b in starts]
        inside = [b for b in inside if p.droppable or b.all()]
        solution = solve(p, inside, (start and start.multiplier) or 0.0)
    result = _evaluate(
        p, _spread(p, solution.beta, 0.0), _spread(p, solution.alpha, split), _spread(p, solution.rho, split),
        status=AllocationStatus.OPTIMAL, iterations=solution.iterations, multiplier=solution.multiplier,
    )  # fmt: skip
    bound = solution.lower_bound + float(result.cost[~p.active].sum())
    gap = (result.objective - bound) / abs(result.objective) if result.objective else 0.0
    status = AllocationStatus.OPTIMAL if gap <= 1e-3 else AllocationStatus.FEASIBLE
    return replace(result, lower_bound=bound, gap=gap, status=status)
