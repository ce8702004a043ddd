"""The paper's solver: Newton-Raphson for bandwidth, successive convex approximation for power (model.md, section 7)."""

from __future__ import annotations

from spfl.allocation.bandwidth_newton import _bandwidth_step
from spfl.allocation.kernels import COLUMN, Rules, costs
from spfl.allocation.power_sca import _admissible_alpha, _split
from spfl.arrays import Floats

RELATIVE_CHANGE = 1e-8
SLACK = 1e-10  # of the band that the multiplier leaves over, at that change
MAX_ROUNDS = 200


def alternate(
    rows: Floats,
    beta: Floats,
    alpha: Floats,
    droppable: bool,
    max_scheduled: int | None,
    rules: Rules,
    *,
    fixed_alpha: bool,
    fixed_beta: bool,
    band_first: bool = False,
    change: float = RELATIVE_CHANGE,
) -> tuple[Floats, Floats, list[float]]:
    """Alternate from a feasible point; returns beta, alpha (device,) and the objective after every half step.

    Every point is feasible and the history never increases. Ends when a round changes the objective by less than
    `change`, relative, or after 200 rounds.
    """
    if not fixed_alpha:
        alpha = _admissible_alpha(rows, beta, alpha)
    history = [float(costs(rows, beta, alpha, rows[:, COLUMN["rho"]], rules).sum())]
    multiplier = max(abs(history[0]), 1e-300)
    for _ in range(MAX_ROUNDS):
        before = history[-1]
        if not (fixed_alpha or (band_first and len(history) == 1)):
            alpha = _split(rows, beta, alpha, rules)
            history.append(float(costs(rows, beta, alpha, rows[:, COLUMN["rho"]], rules).sum()))
        if not fixed_beta:
            beta, multiplier = _bandwidth_step(
                rows, beta, alpha, droppable, max_scheduled, rules, multiplier, SLACK * change / RELATIVE_CHANGE
            )
            history.append(float(costs(rows, beta, alpha, rows[:, COLUMN["rho"]], rules).sum()))
        if before - history[-1] <= change * abs(before):
            break
    return beta, alpha, history
