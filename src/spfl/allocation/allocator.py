"""Bandwidth shares and power splits that minimise the one-step cost, with a certificate (model.md, section 7).

    minimise    sum_k J_k(alpha_k, beta_k [, rho_k])
    over        beta >= 0, sum_k beta_k <= 1, beta_k <= max_share, 1 - max_power <= alpha_k <= max_power
    subject to  q_s >= min_success for every scheduled device, at most max_scheduled devices scheduled

Who is scheduled. A device with no weight or no gradient needs no bandwidth and costs W ||v||^2 = 0. A device is
*hopeless* when q_s < 1e-12 even with the largest share and all power on its signs: it gets no bandwidth and costs its
whole bias W ||v||^2. Every other device counts as scheduled only with q_s >= 1e-12 (below that it is never received).
Unless there is a `min_success`, the solver may drop any of these at W ||v||^2 each. It does where serving costs more:
under `unbiased` weights, where q_s would be below about kappa w_k^2 / W_k. With `allow_drop=False` all are scheduled.
If the bandwidth cannot carry everybody then, or only at a higher cost than an equal split that leaves some silent, the
solver may drop after all, and the status is `overloaded`.

No more silence. An allocation that favours weak devices can be received less often, in all, than equal shares. Under
`unbiased` weights it must not be (`keep_received`): silence then has a price, the least that brings the expected number
of received devices up to that of equal shares.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from spfl.allocation.alternating import alternate
from spfl.allocation.bound import BOUND, Devices, Objective, device_cost
from spfl.allocation.exact import solve, solve_splits
from spfl.allocation.kernels import COLUMN, conventional_power, least_shares
from spfl.allocation.problem import SUCCESS_FLOOR, UNLIMITED, Limits, Problem, pose
from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.arrays import Floats
from spfl.errors import AllocationError
from spfl.radio.outage import Link, effective_power, sent_power, success

Solver = Literal["exact", "alternating", "uniform"]
Method = Callable[[Problem, AllocationResult | None], AllocationResult]
SOLVERS: tuple[Solver, ...] = ("exact", "alternating", "uniform")
PROVEN = 1e-3  # a gap that counts as optimal
RECEIVED_SLACK = 1e-6  # by which the expected number of received devices may fall short, relative
SILENCE_START, SILENCE_STEPS = 0.1, 7  # of the cost of a device; runs of a solver that look for the price, at most
SILENCE_COST = 5e-4  # by which the price may cost more than it must before another one is looked for, relative
NARROW = 1.05  # ratio of two prices between which none is looked for
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
    """Minimise the one-step cost over the shares of the bandwidth and the splits of the power; see the module's header.

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
        found = run(problem, start)
        return _audible(problem, run, found) if problem.keep_received else found
    fits = problem.rows[:, COLUMN["beta_min"]].sum() <= 1.0
    served = run(problem, start) if fits else None
    guaranteed = (problem.rows[:, COLUMN["x_max"]] < -np.log(SUCCESS_FLOOR)).any()
    if served is not None and (guaranteed or served.objective <= _uniform(problem).objective * (1.0 + 1e-9)):
        return served
    return replace(run(replace(problem, droppable=True), start), status=AllocationStatus.OVERLOADED)


def _audible(problem: Problem, run: Method, found: AllocationResult) -> AllocationResult:
    """`found`, or the best allocation with a price of silence at which as many are received as with equal shares."""
    equal = _equal_shares(problem)
    least = float(equal.q_s.sum()) * (1.0 - RECEIVED_SLACK)
    if found.q_s.sum() >= least:
        return found
    low, high = (0.0, float(found.q_s.sum())), (np.inf, np.inf)  # prices, and how many are received at them
    price, best, last, bound = SILENCE_START * found.objective / len(problem.rows), equal, found, found.lower_bound
    for _ in range(SILENCE_STEPS):
        priced = replace(problem, rules=problem.rules._replace(silence=price), least_received=least)
        last = run(priced, last)
        received = float(last.q_s.sum())
        if last.lower_bound is not None and bound is not None:  # each price bounds the problem with the floor
            bound = max(bound, last.lower_bound)
        if received >= least:
            high, best = (price, received), last if last.objective < best.objective else best
        else:
            low = price, received
        allowed = SILENCE_COST * best.objective
        if best.objective <= found.objective + allowed or 0.0 <= price * (received - least) <= allowed:
            break
        if high[0] <= NARROW * low[0]:  # the number received jumps between these prices
            break
        price = 8.0 * price if high[0] == np.inf else _between(low, high, least)
    if bound is None:
        return best
    gap = (best.objective - bound) / abs(best.objective)
    status = AllocationStatus.OPTIMAL if gap <= PROVEN else AllocationStatus.FEASIBLE
    return replace(best, lower_bound=bound, gap=gap, status=status)


def _between(low: tuple[float, float], high: tuple[float, float], least: float) -> float:
    """The price at which `least` should be received, by a straight line in its logarithm, well inside the two."""
    first = math.log(max(low[0], 0.02 * high[0]))
    part = (least - low[1]) / max(high[1] - low[1], 1e-300)
    return math.exp(first + min(max(part, 0.1), 0.9) * (math.log(high[0]) - first))


def _equal_shares(problem: Problem) -> AllocationResult:
    """Equal shares and the conventional split, within the limits; who is not reached with them gets none."""
    rows, split = problem.rows, np.array(problem.link.split)
    alpha = np.clip(conventional_power(rows, np.full(len(rows), 1.0 / problem.devices.size)), *rows[:, ALPHA_LIMITS].T)
    beta = _feasible_start(replace(problem, droppable=True), alpha)
    assert beta is not None  # whoever may be dropped needs no room
    return _evaluate(
        problem, _spread(problem, beta, 0.0), _spread(problem, alpha, split), split, status=AllocationStatus.FEASIBLE
    )


def _check(devices: Devices, link: Link, limits: Limits, solver: str, start: AllocationResult | None) -> None:
    if solver not in SOLVERS:
        raise AllocationError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if link.superposed and (limits.optimise_rho or np.any(np.asarray(limits.max_power) < 1.0)):
        raise AllocationError(
            "optimise_rho and max_power need multiplex='orthogonal': superposed packets share their bandwidth"
        )
    if limits.optimise_rho and solver != "exact":
        raise AllocationError(f"optimise_rho needs solver='exact', got {solver!r}")
    if devices.size != link.size:
        raise AllocationError(f"devices and link must have the same size, got {devices.size} and {link.size}")
    if start is not None and start.beta.size != devices.size:
        raise AllocationError(f"start must have {devices.size} devices, got {start.beta.size}")


def _evaluate(problem: Problem, beta: Floats, alpha: Floats, rho: Floats, **extra: object) -> AllocationResult:
    """The result for shares and splits of all devices, every figure recomputed by the public functions."""
    p = problem
    alpha = _sent_power(p, beta, alpha)
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


def _sent_power(problem: Problem, beta: Floats, effective: Floats) -> Floats:
    """alpha of all devices for the effective powers that the kernels search over, (device,)."""
    link, split = problem.link, np.array(problem.link.split)
    if not link.superposed:
        return effective
    if problem.limits.fixed_alpha:
        effective = _spread(problem, conventional_power(problem.rows, beta[problem.active]), split)
    return np.where(beta > 0.0, sent_power(link, beta, effective), split)


def _effective_power(problem: Problem, beta: Floats, alpha: Floats) -> Floats:
    """What the kernels search over, (active,), for shares and powers of all devices."""
    if not problem.link.superposed:
        return alpha[problem.active]
    if problem.limits.fixed_alpha:
        return np.ones(len(problem.rows))
    return np.asarray(np.clip(effective_power(problem.link, beta, alpha), 0.0, 1.0))[problem.active]


def _spread(problem: Problem, values: Floats, elsewhere: Floats | float) -> Floats:
    """Values of the active devices in an array of all devices, (device,)."""
    out = np.array(np.broadcast_to(elsewhere, problem.active.shape), np.float64)
    out[problem.active] = values
    return out


def _uniform(problem: Problem) -> AllocationResult:
    split = np.array(problem.link.split)
    beta = np.where(problem.active, 1.0 / problem.devices.size, 0.0)
    status = AllocationStatus.FIXED if problem.active.any() else AllocationStatus.TRIVIAL
    alpha = _spread(problem, conventional_power(problem.rows, beta[problem.active]), split)
    return _evaluate(problem, beta, alpha, split, status=status)


def _feasible_start(problem: Problem, alpha: Floats) -> Floats | None:
    """Shares near 1/K (active,) at which all are received with this split; None if there are none.

    Where devices may be dropped, the not received ones are.
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
    conventional = conventional_power(rows, np.full(len(rows), 1.0 / problem.devices.size))
    splits = [conventional, *(np.full(len(rows), value) for value in START_ALPHA)]
    points = [(_feasible_start(problem, a), a) for a in (np.clip(a, *rows[:, ALPHA_LIMITS].T) for a in splits)]
    again = points  # once with the power first from the first of them, then with the bandwidth first from all
    if start is not None:  # an earlier result that fits is as good a start as all of these
        again = [(start.beta[problem.active], _effective_power(problem, start.beta, start.alpha))]
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
    rows, beta = problem.rows, start.beta[problem.active]
    alpha = _effective_power(problem, start.beta, start.alpha)
    low, high = rows[:, ALPHA_LIMITS].T
    least = least_shares(rows, alpha, rows[:, COLUMN["rho"]])
    received = (beta >= least) | ((beta == 0.0) & problem.droppable)
    inside = received & (beta <= rows[:, COLUMN["beta_max"]]) & (low <= alpha) & (alpha <= high)
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
    allowance = p.rules.silence * (
        len(rows) - p.least_received
    )  # what the price adds to any allocation that is allowed
    bound = solution.lower_bound - allowance + float(result.cost[~p.active].sum())
    gap = (result.objective - bound) / abs(result.objective) if result.objective else 0.0
    status = AllocationStatus.OPTIMAL if gap <= PROVEN else AllocationStatus.FEASIBLE
    return replace(result, lower_bound=bound, gap=gap, status=status)
