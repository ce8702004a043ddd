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
    """An allocation, and the certificate of how near the optimum it is.

    Arrays have shape (device,), in the order of the devices given. The certificate comes from the Lagrange dual; it is
    None for `alternating` and `uniform`, which prove nothing.

    Args:
        beta: Share of the bandwidth.
        alpha: Share of the device's power for its sign packet.
        rho: Share of the device's bandwidth for its sign packet.
        q_s: Probability that the sign packet arrives (model.md, section 3).
        r_m: Probability that the modulus packet arrives if the sign packet does.
        cost: J_k (model.md, section 6).
        objective: Sum of the cost.
        lower_bound: A number that no allocation can go below.
        gap: (objective - lower_bound) / |objective|.
        status: How the allocation came about.
        iterations: Steps of the solver.
        seconds: Wall-clock time.
        hopeless: Devices that no share can make succeed.
        multiplier: lambda, what more bandwidth would be worth.
        history: The objective after every half step of `alternating`; empty otherwise.
        bits: Bits of its vector that each device sends, where they are allocated; None where packets are fixed.
        adapted: Whether each link adapts to the fade of the round: then what is sent arrives.
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
    adapted: bool = False
