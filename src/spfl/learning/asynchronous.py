"""Asynchronous rounds on a virtual clock: who sends in which slot of the uplink, and what the server makes of it.

A round is one slot. It begins when the uplink is free and a device has computed; all that have computed by then send
in it, and share the bandwidth as in any round. At its end each gets the newest model, or leaves its place to another.
When anything happens is a function of the configuration and the seed alone, whatever arrives, so nothing of it is kept.

FedAsync: Xie, Koyejo, Gupta 2019. FedBuff: Nguyen et al. 2022. Axis vocabulary: `sender`, `dim`, `version`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spfl.arrays import Floats, Indices, State, Vector
from spfl.config.asynchronous import AsynchronousConfig
from spfl.learning.selection import Selection
from spfl.rng import Purpose, server_stream

SUM = "asynchronous/sum"  # of what waits in the buffer, weighted, (dim,)
HELD = "asynchronous/held"  # its weight, the updates in it, and the steps of the server so far, (3,)
VERSIONS = "asynchronous/versions"  # the round that a model was broadcast for, and the steps before it, (version, 2)


@dataclass(frozen=True)
class Slot:
    """One round: `senders`, ascending, send from `start_s` to `end_s` what they computed on the model of a round.

    `began` (sender,) is that round. `working` are the rounds whose models are still computed on after this one.
    """

    start_s: float
    end_s: float
    senders: tuple[int, ...]
    began: Indices
    working: Indices


class Timeline:
    """The slots of a run. As many devices as are chosen for a round compute or send at any time; all others wait.

    `compute_s` tells the seconds that a device computes on the model of a round. Who gets a model can be reached in
    that round; with fewer of those than places, places stay empty until the next slot, but one. What is remembered
    saves time only.
    """

    def __init__(self, selection: Selection, airtime_s: float, compute_s: Callable[[int, int], float]) -> None:
        self._selection, self._airtime_s, self._compute_s = selection, airtime_s, compute_s
        first = selection.cohort(1)
        reached = selection.reached(1)
        first = tuple(k for k in first if reached[k]) or first[:1]
        self._work = {device: (compute_s(device, 1), 1) for device in first}  # ready at, on the model of round
        self._slots: list[Slot] = []

    def slot(self, round_: int) -> Slot:
        """The slot of round 1, 2, ..."""
        while len(self._slots) < round_:
            self._slots.append(self._next(len(self._slots) + 1))
        return self._slots[round_ - 1]

    def elapsed_s(self, round_: int) -> float:
        """Seconds from the end of the slot before to the end of this one."""
        before = self.slot(round_ - 1).end_s if round_ > 1 else 0.0
        return self.slot(round_).end_s - before

    def _next(self, round_: int) -> Slot:
        free_s = self._slots[-1].end_s if self._slots else 0.0
        start_s = max(free_s, min(ready_s for ready_s, _ in self._work.values()))
        senders = tuple(sorted(k for k, (ready_s, _) in self._work.items() if ready_s <= start_s))
        began = np.array([self._work.pop(k)[1] for k in senders], np.int64)
        end_s = start_s + self._airtime_s
        self._work |= {
            k: (end_s + self._compute_s(k, round_ + 1), round_ + 1) for k in self._chosen(senders, round_ + 1)
        }
        working = np.unique([model for _, model in self._work.values()])
        return Slot(start_s, end_s, senders, began, working)

    def _chosen(self, senders: Sequence[int], round_: int) -> list[int]:
        """Who begins with the model of a round: as many as places are free, at random from all who do nothing."""
        selection, places = self._selection, self._selection.size - len(self._work)
        if selection.always and selection.devices - len(self._work) == len(senders):
            return list(senders)
        free = np.setdiff1d(np.arange(selection.devices), np.fromiter(self._work, np.int64, len(self._work)))
        there = free if selection.always else free[selection.reached(round_)[free]]
        if not (there.size or self._work):  # somebody has to work, else there is no next slot
            there, places = free, 1
        rng = server_stream(selection.seed, round_, Purpose.COHORT)
        return sorted(rng.choice(there, min(places, there.size), replace=False, shuffle=False).tolist())


def staleness_weight(config: AsynchronousConfig, steps: ArrayLike) -> Floats:
    """The weight of updates whose model is so many steps of the server old, in (0, 1] (Xie et al. 2019, section 5)."""
    old = np.asarray(steps, np.float64)
    if config.staleness == "polynomial":
        return np.asarray((1.0 + old) ** -config.exponent)
    late = np.maximum(old - config.slack, 0.0) if config.staleness == "hinge" else np.zeros_like(old)
    return np.asarray(1.0 / (1.0 + config.slope * late))


def staleness(state: State, slot: Slot) -> Indices:
    """Steps that the server has made since each sender of a slot got its model, (sender,)."""
    now = _held(state)[2]
    before = {int(t): steps for t, steps in state.get(VERSIONS, np.zeros((0, 2), np.float32))}
    return np.array([now - before.get(int(t), now) for t in slot.began], np.int64)


def keep_versions(state: State, slot: Slot, round_: int, steps: float) -> State:
    """The memory after a round: the steps before each model that is still computed on; `steps` are those before it."""
    old = {int(t): before for t, before in state.get(VERSIONS, np.zeros((0, 2), np.float32))} | {round_: steps}
    rows = [[t, before] for t, before in sorted(old.items()) if t in slot.working]
    return state | {VERSIONS: np.array(rows, np.float32).reshape(-1, 2)}


def steps_made(state: State) -> float:
    """Steps of the server so far."""
    return float(_held(state)[2])


class Gathered(NamedTuple):
    """What a slot brings to the buffer: sum_k n_k s_k g_k (dim,), sum_k n_k, and the number of updates received."""

    total: Vector
    whole: float
    updates: int


def gather(config: AsynchronousConfig, state: State, slot: Gathered) -> tuple[State, Vector | None]:
    """Add a slot to the buffer. Returns the memory, and the step's vector (dim,) when there are enough updates.

    The vector is sum_k n_k s_k g_k / sum_k n_k over what the buffer holds: for equal n_k FedBuff's (1 / K) sum s_k g_k.
    """
    whole, count, steps = _held(state)
    total = state.get(SUM, np.float32(0.0)) + slot.total
    whole, count = whole + np.float32(slot.whole), count + np.float32(slot.updates)
    needed = config.buffer if config.rule == "fedbuff" else 1
    if count < needed or whole <= 0:
        return state | {SUM: total, HELD: np.array([whole, count, steps], np.float32)}, None
    rest = {name: array for name, array in state.items() if name != SUM}
    return rest | {HELD: np.array([0, 0, steps + 1], np.float32)}, total / whole


def _held(state: State) -> Vector:
    return state.get(HELD, np.zeros(3, np.float32))


def model_lag(weights: Vector, models: Sequence[Vector], weight: Floats, local_rate: float) -> Vector:
    """What mixing models (FedAsync) adds to a sum of updates, (dim,): sum_k weight_k (w - w_k) / local_rate.

    w_k is the model that a device began with: its new model lags behind the server's by what happened since.
    """
    lag = np.zeros_like(weights)
    for model, part in zip(models, weight, strict=True):
        if part > 0 and model is not weights:
            lag += np.float32(part / local_rate) * (weights - model)
    return lag
