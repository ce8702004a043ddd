"""Asynchronous rounds of a run: models that devices began with, what their age is worth, and the server's buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from spfl.arrays import Bools, Indices, State, Vector
from spfl.config.schema import Config
from spfl.errors import ConfigError, first_true
from spfl.learning.asynchronous import (
    Gathered,
    Timeline,
    gather,
    keep_versions,
    model_lag,
    staleness,
    staleness_weight,
    steps_made,
)
from spfl.radio.downlink import keep_models, model_heard
from spfl.scheme import Scheme
from spfl.uplink.format import Format
from spfl.uplink.reception import Update, normalizes
from spfl.uplink.upload import Upload
from spfl.world.state import ServerState


class Asynchrony(NamedTuple):
    """What a round was on the virtual clock: steps of the server since each sender began, and whether it made one."""

    staleness: Indices
    stepped: bool


class Buffered(NamedTuple):
    """The memory with a slot in the buffer, and what the server steps along (dim,), None while it waits for more."""

    state: State
    gradient: Vector | None


@dataclass(frozen=True)
class Asynchronous:
    """The rounds of a run as slots of a timeline; functions of the server's state before a round."""

    config: Config
    form: Format
    timeline: Timeline

    def models(self, server: ServerState, senders: Sequence[int]) -> list[Vector]:
        """The model that each of these senders of the next round began with, (dim,) each."""
        round_ = server.round_ + 1
        slot = self.timeline.slot(round_)
        began = dict(zip(slot.senders, slot.began.tolist(), strict=True))
        return [model_heard(server.memory, began[k], round_, server.weights) for k in senders]

    def keep_models(self, before: ServerState, memory: State) -> State:
        """The memory with the models that are still computed on, and how old each is."""
        round_ = before.round_ + 1
        slot = self.timeline.slot(round_)
        memory = keep_models(memory, slot.working, round_, before.weights)
        return keep_versions(memory, slot, round_, steps_made(before.memory))

    def told(self, server: ServerState, stepped: bool) -> Asynchrony:
        """What the next round is, for the record."""
        return Asynchrony(staleness(server.memory, self.timeline.slot(server.round_ + 1)), stepped)

    def trusted(self, server: ServerState, uploads: Sequence[Upload]) -> list[Upload]:
        """The uploads of the next round, with less weight for those that began with an old model."""
        old = staleness(server.memory, self.timeline.slot(server.round_ + 1))
        weight = staleness_weight(self.config.asynchronous, old).tolist()
        return [replace(upload, trust=trust) for upload, trust in zip(uploads, weight, strict=True)]

    def buffered(self, server: ServerState, uploads: Sequence[Upload], received: Bools, update: Update) -> Buffered:
        """Add what a round brought to the buffer.

        An aggregate whose weights make up for losses stands for all senders, any other for those received.
        """
        samples = np.array([u.samples for u in uploads], np.float64)
        came = received & (samples > 0)
        by_received = normalizes(self.form) or self.form.scheme.rule == "vote"
        stands_for = came if by_received else np.ones_like(came)
        weight = samples * [u.trust for u in uploads]
        total = np.float32(weight[stands_for].sum()) * update.gradient
        if self.config.asynchronous.rule == "fedasync":
            rate, models = self.config.training.local_rate, self.models(server, [u.device for u in uploads])
            total = total + model_lag(server.weights, models, weight * came, rate)
        if not np.isfinite(total).all():
            return Buffered(update.state, None)
        slot = Gathered(total, float(samples[stands_for].sum()), int(came.sum()))
        return Buffered(*gather(self.config.asynchronous, update.state, slot))


def check_asynchronous(scheme: Scheme, statistics: bool) -> None:
    """Raises ConfigError, with one line, for what needs all devices of a round at once."""
    wrong = {
        f"{scheme.name}, whose devices send at the same time": scheme.uplink == "analog",
        f"{scheme.name}, which fills in for the devices of a round": scheme.rule in ("reuse", "memory"),
        "model.batch_norm = average, which averages the statistics of a round": statistics,
    }
    if what := first_true(wrong):
        raise ConfigError(f"asynchronous.rule must be none with {what}")
