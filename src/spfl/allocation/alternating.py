"""The paper's solver: Newton-Raphson for bandwidth, successive convex approximation for power (model.md, section 7)."""

from __future__ import annotations

from spfl.allocation.bandwidth_newton import bandwidth_step
from spfl.allocation.kernels import COLUMN, costs
from spfl.allocation.power_sca import admissible_alpha, split
from spfl.allocation.problem import Problem
from spfl.arrays import Floats

RELATIVE_CHANGE = 1e-8
CHANGE_OF_GAP = 1e-2  # it stops at this part of the tolerance: it knows no gap, only how slowly it still falls
SLACK = 1e-10  # of the bandwidth that the multiplier leaves over, at that change
MAX_ROUNDS = 200


def alternate(
    problem: Problem, beta: Floats, alpha: Floats, *, band_first: bool = False
) -> tuple[Floats, Floats, list[float]]:
    """Alternate from a feasible point; returns beta, alpha (active,) and the objective after every half step.

    Every point is feasible and the history never increases. Ends when a round changes the objective by less than
    a hundredth of the tolerance, relative, or after 200 rounds.
    """
    rows, rules, limits = problem.rows, problem.rules, problem.limits
    change = max(RELATIVE_CHANGE, CHANGE_OF_GAP * limits.tolerance)
    slack = SLACK * change / RELATIVE_CHANGE

    def total() -> float:
        return float(costs(rows, beta, alpha, rows[:, COLUMN["rho"]], rules).sum())

    if not limits.fixed_alpha:
        alpha = admissible_alpha(rows, beta, alpha, rules)
    history = [total()]
    multiplier = max(abs(history[0]), 1e-300)
    for _ in range(MAX_ROUNDS):
        before = history[-1]
        if not (limits.fixed_alpha or (band_first and len(history) == 1)):
            alpha = split(rows, beta, alpha, rules)
            history.append(total())
        if not limits.fixed_beta:
            beta, multiplier = bandwidth_step(problem, beta, alpha, multiplier, slack)
            history.append(total())
        if before - history[-1] <= change * abs(before):
            break
    return beta, alpha, history
