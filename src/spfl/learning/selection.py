"""Who takes part in a round: chosen at random or by training loss, among devices that can be reached; who drops out.

All draws are functions of (seed, round), whatever the scheme and whoever computes. Axis vocabulary: `device`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spfl.arrays import Bools, Floats, Indices, Vector
from spfl.config.training import ClientsConfig
from spfl.rng import Purpose, server_stream

LOSSES = "selection/losses"  # the last training loss of every device, (device,); infinite until there is one


@dataclass(frozen=True)
class Selection:
    """The devices of each round of a cell of `devices`, of which `size` are chosen."""

    clients: ClientsConfig
    devices: int
    size: int
    seed: int

    def cohort(self, round_: int, weights: Floats | None = None, losses: Vector | None = None) -> tuple[int, ...]:
        """The devices of a round, ascending. All, or a draw without replacement from those that can be reached.

        `weights` (device,) are the numbers of samples and `losses` (device,) the last training losses, which
        power_of_choice looks at. When too few can be reached, others fill the cohort, and are silent.
        """
        if self.size == self.devices:
            return tuple(range(self.devices))
        rng = server_stream(self.seed, round_, Purpose.COHORT)
        if self.always and self.clients.selection == "random":
            return tuple(sorted(rng.choice(self.devices, self.size, replace=False, shuffle=False).tolist()))
        reached = self.reached(round_)
        there, away = np.flatnonzero(reached), np.flatnonzero(~reached)
        if len(there) < self.size:
            filled = rng.choice(away, self.size - len(there), replace=False, shuffle=False)
            return tuple(sorted([*there.tolist(), *filled.tolist()]))
        if self.clients.selection == "random":
            return tuple(sorted(rng.choice(there, self.size, replace=False, shuffle=False).tolist()))
        return self._power_of_choice(there, rng, weights, losses)

    def _power_of_choice(
        self, there: Indices, rng: np.random.Generator, weights: Floats | None, losses: Vector | None
    ) -> tuple[int, ...]:
        """Cho, Wang, Joshi 2020, rpow-d: the losses are those that devices told when they last took part."""
        count = min(self.clients.candidates or 2 * self.size, len(there))
        chances = np.ones(len(there)) if weights is None else weights[there] / weights[there].sum()
        chances = np.maximum(chances, 1e-12)
        found = rng.choice(there, count, replace=False, p=chances / chances.sum())
        known = np.full(count, np.inf) if losses is None else losses[found]
        largest = found[np.argsort(-known, kind="stable")[: self.size]]
        return tuple(sorted(largest.tolist()))

    @cached_property
    def always(self) -> bool:
        """Whether every device can be reached in every round."""
        return self.clients.availability == 1.0 and self.clients.online is None

    def reached(self, round_: int) -> Bools:
        """Which devices of the cell can be reached in a round, (device,)."""
        reached = self._chance(self.clients.availability, round_, Purpose.AVAILABILITY)
        if self.clients.online is not None:
            recorded = np.zeros(self.devices, np.bool_)
            recorded[[device for device, first, last in self.clients.online if first <= round_ <= last]] = True
            reached &= recorded
        return reached

    def _chance(self, chance: float | tuple[float, ...], round_: int, purpose: Purpose) -> Bools:
        """True with a chance of its own for each device, (device,)."""
        if chance == 1.0:
            return np.ones(self.devices, np.bool_)
        return np.asarray(server_stream(self.seed, round_, purpose).random(self.devices) < np.asarray(chance))

    def lasting(self, round_: int) -> Bools:
        """Which devices of the cell would not drop out in a round, (device,)."""
        if self.clients.dropout == 0.0:
            return np.ones(self.devices, np.bool_)
        return ~self._chance(self.clients.dropout, round_, Purpose.DROPOUT)

    def sending(self, round_: int, compute_s: Floats) -> Bools:
        """Which devices of the cell would send in a round, if chosen: reached, not dropped out, not late, (device,)."""
        sends = self.reached(round_) & self.lasting(round_)
        return sends if self.clients.deadline_s is None else sends & (compute_s <= self.clients.deadline_s)

    @cached_property
    def certain(self) -> bool:
        """Whether every chosen device sends."""
        return self.always and self.clients.dropout == 0.0 and self.clients.deadline_s is None


def remember_losses(old: Vector | None, devices: int, cohort: list[int], losses: list[float]) -> Vector:
    """The last training losses (device,) after a round; a loss that is not finite is none."""
    known = np.full(devices, np.inf, np.float32) if old is None else old.copy()
    told = np.array(losses, np.float32)
    known[np.array(cohort)[np.isfinite(told)]] = told[np.isfinite(told)]
    return known
