"""The round of federated learning, in the paper's order. Yields records, writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from spfl.allocation.bound import Devices
from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, State
from spfl.config.schema import Config
from spfl.config.training import TrainingConfig
from spfl.data.dataset import Dataset
from spfl.data.sources import load_dataset
from spfl.flat_model import STATISTICS
from spfl.fleet import Fleet
from spfl.fleet.gpu import TorchFleet
from spfl.fleet.processes import ProcessFleet
from spfl.fleet.threads import ThreadFleet
from spfl.learning.server import Moved, ServerRule, descend, own_step
from spfl.radio.outage import Link, Outcome, PacketFades
from spfl.uplink.admission import admit
from spfl.uplink.bit_errors import with_bit_errors
from spfl.uplink.delivery import deliver
from spfl.uplink.format import Format
from spfl.uplink.reception import Arrived, Update, receive
from spfl.uplink.scheduling import share_resources
from spfl.uplink.side import heard_uploads, known_uploads, who_told
from spfl.uplink.upload import Upload, describe
from spfl.world.asynchronous import Asynchrony
from spfl.world.energy import Spent
from spfl.world.state import ServerState
from spfl.world.world import World


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round. `seconds` is wall-clock time by phase; all else is a function of the config.

    `loss` is the cohort's weighted mean training loss; `test_loss` and `test_score` are None between evaluations.
    `metric` is what the score is: accuracy, f1, r2 or the caller's own, of which `lower_is_better` may hold.
    `payload_bits` counts packets sent, `received_bits` those that arrived, `side_bits` the side information, of which
    `side_received` packets of their own arrived (None where it has none).
    `rejected` counts devices whose gradient or packets could not be used. `spent`: joules and seconds of each device.
    `server` is the state after the round. `asynchrony` is None where rounds are synchronous.
    """

    round_: int
    cohort: tuple[int, ...]
    loss: float
    test_loss: float | None
    test_score: float | None
    devices: Devices
    allocation: AllocationResult
    outcome: Outcome
    payload_bits: int
    received_bits: int
    side_bits: int
    side_received: int | None
    rejected: int
    spent: Spent
    seconds: dict[str, float]
    server: ServerState
    metric: str = "accuracy"
    asynchrony: Asynchrony | None = None
    lower_is_better: bool = False

    @property
    def test_accuracy(self) -> float | None:
        """The score, where it is an accuracy."""
        return self.test_score if self.metric == "accuracy" else None


def run(config: Config, dataset: Dataset | None = None, start: ServerState | None = None) -> Iterator[RoundRecord]:
    """Train for `config.training.rounds` rounds and yield a record after each.

    `dataset` replaces the configured one (loaded once for many runs); `start` continues after a checkpoint.
    Raises DataError or ConfigError before the first round; later faults are contained and counted.
    """
    return train(World.build(config, dataset or load_dataset(config.data)), start)


def train(world: World, start: ServerState | None = None) -> Iterator[RoundRecord]:
    """The rounds of `run` in a world that is already built."""
    config, server = world.config, start or world.start()
    with open_fleet(world) as fleet:
        for round_ in range(server.round_ + 1, config.training.rounds + 1):
            clock = Stopwatch()
            cohort = world.cohort(round_, server.memory)
            with clock("gradients"):
                uploads, encode_share = fleet.uploads(server, cohort, round_)
            clock.move("gradients", "encode", encode_share)
            plan = prepare(world, server, uploads, round_, clock)
            record = complete(world, server, plan, clock, aggregate=fleet.receive)
            del uploads, plan  # else memory holds packets during the evaluation, and those of two rounds after it
            server = record.server
            yield evaluated(world, record, fleet.evaluate, clock)


def open_fleet(world: World) -> Fleet:
    """The fleet that a configuration asks for; a context manager."""
    if world.config.torch_device is not None:
        return TorchFleet(world)
    return ThreadFleet(world) if world.config.processes == 1 else ProcessFleet(world)


@dataclass(frozen=True)
class Plan:
    """What the server decides from the side information of a cohort, before any packet is sent.

    `uploads` are as the server believes them: see `admission.admit`. `told` (device,): whose side information has come
    by a packet of its own; None where it has none.
    """

    round_: int
    uploads: Sequence[Upload]
    devices: Devices
    link: Link
    fades: PacketFades
    allocation: AllocationResult
    told: Bools | None = None


Measured = Callable[[Link, Sequence[int]], Link]  # of the channel model's link of a cohort: as it was measured


def prepare(
    world: World, server: ServerState, uploads: Sequence[Upload], round_: int, clock: Stopwatch,
    measured: Measured | None = None,
) -> Plan:  # fmt: skip
    """The first half of the server's round: who sends with how much of the bandwidth and power."""
    with clock("allocate"):
        uploads = admit(world.format, uploads)
        uploads = world.asynchronous.trusted(server, uploads) if world.asynchronous else uploads
        cohort = [upload.device for upload in uploads]
        link, fades = world.radio.link(cohort, round_), world.radio.fades(cohort, round_)
        told = world.radio.told(link, fades, [upload.samples for upload in uploads])
        devices = describe(known_uploads(world.format, uploads, server.memory, told))
        link = link if measured is None else measured(link, cohort)
        known = world.radio.estimate(link, cohort, round_)
        previous = server.allocation
        if previous is not None and previous.beta.size != devices.size:  # asynchronous rounds differ in their number
            previous = None
        allocation = share_resources(world.format, devices, known, fades, previous)
    return Plan(round_, uploads, devices, world.radio.granted(link, allocation), fades, allocation, told)


class Known(NamedTuple):
    """What is known of a round's packets without the channel model.

    `present` (device,) is false where packets were lost elsewhere than in the air: such a device is not received.
    `outcome` is what arrived, where packets were really sent.
    """

    present: Bools | None = None
    outcome: Outcome | None = None


MODEL = Known()  # all of it is left to the channel model


def complete(
    world: World, server: ServerState, plan: Plan, clock: Stopwatch, known: Known = MODEL,
    aggregate: Callable[[Format, Arrived, State], Update] = receive,
) -> RoundRecord:  # fmt: skip
    """The second half: what arrives, the aggregate, the step. The record has no test scores yet: see `evaluated`."""
    config, scheme, uploads = world.config, world.scheme, plan.uploads
    round_, allocation, before = plan.round_, plan.allocation, server
    with clock("transmit"):
        outcome = known.outcome or deliver(
            scheme, uploads, plan.link, allocation, plan.fades, world.radio.noise(round_)
        )
        if known.present is not None:
            outcome = replace(outcome, sign=outcome.sign & known.present, modulus=outcome.modulus & known.present)
    uploads = with_bit_errors(uploads, outcome, round_, config.seed)
    told = who_told(world.format, outcome.sign, plan.told)
    with clock("aggregate"):
        heard = heard_uploads(world.format, uploads, told, server.memory)
        update = aggregate(world.format, Arrived(round_, heard, outcome, allocation, plan.told), server.memory)
    with clock("step"):
        update = world.remember(uploads, outcome.sign, update, told)
        after = advance(world, server, uploads, outcome, update)
        server = replace(after, memory=world.keep_models(server, after.memory), allocation=allocation)
    return RoundRecord(
        round_,
        tuple(upload.device for upload in uploads),
        mean_loss(uploads),
        None,
        None,
        plan.devices,
        allocation,
        outcome,
        world.format.payload_bits(allocation),
        world.format.received_bits(allocation, outcome),
        world.format.side_bits * len(uploads),
        None if plan.told is None else int(plan.told.sum()),
        update.rejected,
        world.spent([upload.device for upload in uploads], plan.link, allocation, outcome, plan.fades[0], round_),
        clock.seconds,
        server,
        world.task.metric,
        world.asynchronous.told(before, server.weights is not before.weights) if world.asynchronous else None,
        world.task.lower_is_better,
    )


def evaluated(
    world: World, record: RoundRecord, evaluate: Callable[..., tuple[float, float]], clock: Stopwatch
) -> RoundRecord:
    """The record of a round with its test loss and score, where the round has an evaluation."""
    if record.round_ % world.eval_every and record.round_ != world.config.training.rounds:
        return record
    with clock("evaluate"):
        loss, score = evaluate(record.server.weights, record.server.memory.get(STATISTICS))
    return replace(record, test_loss=loss, test_score=score)


def advance(
    world: World, server: ServerState, uploads: Sequence[Upload], outcome: Outcome, update: Update
) -> ServerState:
    """The server after a round: one step on, or with a fuller buffer where rounds are asynchronous."""
    if world.asynchronous is not None:
        state, gradient = world.asynchronous.buffered(server, uploads, outcome.sign, update)
        if gradient is None:
            return ServerState(server.round_ + 1, server.weights, server.velocity, state)
        update = replace(update, gradient=gradient, state=state)
    return step(world.config.training, server, update, world.custom.server)


def step(training: TrainingConfig, server: ServerState, update: Update, own: ServerRule | None = None) -> ServerState:
    """The server's step on the aggregate, clipped and decayed. An aggregate that is not finite is skipped."""
    round_, gradient = server.round_ + 1, update.gradient
    if not np.isfinite(gradient).all():
        return ServerState(round_, server.weights, server.velocity, server.memory)
    if training.clip_norm is not None:
        norm = float(np.linalg.norm(gradient))
        gradient = gradient * np.float32(min(1.0, training.clip_norm / max(norm, 1e-30)))
    if training.weight_decay > 0:
        gradient = gradient + np.float32(training.weight_decay) * server.weights
    before = Moved(server.weights, server.velocity, update.state)
    if own is not None:
        return ServerState(round_, *own_step(own, before, gradient, round_))
    return ServerState(round_, *descend(training, learning_rate(training, round_), before, gradient))


def learning_rate(training: TrainingConfig, round_: int) -> float:
    """eta of a round (counted from 1): linear warm-up, then constant, or cosine down to zero after the last round."""
    warm = min(1.0, round_ / training.warmup_rounds) if training.warmup_rounds else 1.0
    if training.schedule == "constant":
        return training.rate * warm
    return training.rate * warm * 0.5 * (1.0 + math.cos(math.pi * (round_ - 1) / training.rounds))


def mean_loss(uploads: Sequence[Upload]) -> float:
    """Training loss of the cohort, weighted by samples; NaN when no device has a finite one."""
    finite = [(u.samples, u.loss) for u in uploads if u.samples and math.isfinite(u.loss)]
    total = sum(samples for samples, _ in finite)
    return math.fsum(samples * loss for samples, loss in finite) / total if total else math.nan


class Stopwatch:
    """Wall-clock seconds by phase: `with clock("phase"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def move(self, source: str, target: str, share: float) -> None:
        """Book a share of one phase under another name: phases that overlap in worker threads."""
        self.seconds[target] = self.seconds[source] * share
        self.seconds[source] *= 1.0 - share
