"""What the server carries from round to round."""

from __future__ import annotations

from dataclasses import dataclass

from spfl.allocation.result import AllocationResult
from spfl.arrays import State, Vector


@dataclass(frozen=True)
class ServerState:
    """All that the server carries from round to round: weights and velocity (dim,), what both ends remember, and the
    last allocation, from which the next one starts. A run continued from it gives the bits of one never stopped.
    """

    round_: int
    weights: Vector
    velocity: Vector
    memory: State
    allocation: AllocationResult | None = None
