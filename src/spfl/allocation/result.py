"""What an allocator returns: the shares, what they come to, and the certificate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from spfl.arrays import Bools, Floats


class AllocationStatus(StrEnum):
    """How an allocation came about."""

    OPTIMAL = "optimal"  # gap <= 1e-3, proven
    FEASIBLE = "feasible"  # exact solver; the duality gap of few devices leaves more than 1e-3 unproven
    CONVERGED = "converged"  # alternating: a further round changes the objective by next to nothing
    ITERATION_LIMIT = "iteration_limit"
    FIXED = "fixed"  # uniform: nothing was optimised
    OVERLOADED = "overloaded"  # not everybody could be scheduled; the solver was allowed to drop devices
    TRIVIAL = "trivial"  # nobody to schedule


@dataclass(frozen=True)
class AllocationResult:
    """An allocation and its certificate. Arrays have shape (device,), in the order of the devices given.

    beta: share of the band; alpha: share of the power for signs; rho: share of the device's band for signs;
    q_s, r_m: success probabilities of model.md, section 3; cost: J_k; hopeless: no share can make the device succeed.
    objective = sum of cost. lower_bound <= the optimum and gap = (objective - lower_bound) / |objective| come from
    the Lagrange dual; they are None for `alternating` and `uniform`, which prove nothing. multiplier is lambda, the
    worth of the band. history is the objective after every half step of `alternating`, empty otherwise.
    bits: how many bits of its vector each device sends, where that is allocated as well; None where packets are fixed.
    """

    beta: Floats
    alpha: Floats
    rho: Floats
    q_s: Floats
    r_m: Floats
    cost: Floats
    objective: float
    lower_bound: float | None
    gap: float | None
    status: AllocationStatus
    iterations: int
    seconds: float
    hopeless: Bools
    multiplier: float | None = None
    history: tuple[float, ...] = ()
    bits: Floats | None = None
