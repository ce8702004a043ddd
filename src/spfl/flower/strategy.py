"""The server's round as a Flower strategy.

    train          the nodes compute; they reply the side information of their devices
    (allocate)     `training.prepare`: bandwidth and power from the side information
    train.upload   the nodes reply the packets; with `one_exchange` they came along
    (the air)      `training.complete`: the channel model decides what arrived; aggregate, step

Flower's own strategies do not fit: they refuse two kinds of records, and add up replies in the order of their arrival.
Here uploads are sorted by device, and every random number has its own stream, so the weights are those of
`training.run` to the last bit. A node that fails, is late, or sends what the protocol refuses costs the round its
devices, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO, WARNING
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log

from spfl.arrays import Vector
from spfl.data.dataset import Moments
from spfl.data.node_data import NodeData, federated_moments
from spfl.errors import ConfigError, PacketError
from spfl.fleet.threads import Score, mean_score
from spfl.flower import datagrams, protocol, records
from spfl.flower.roster import Roster, Wanted
from spfl.flower.settings import FlowerConfig
from spfl.radio.estimator import new_counts
from spfl.runs.environment import installed_versions
from spfl.training import Known, Measured, Plan, RoundRecord, Stopwatch, complete, evaluated, prepare
from spfl.uplink.admission import admit
from spfl.uplink.upload import Upload, silent
from spfl.world.state import ServerState
from spfl.world.world import World

UPLOAD = f"{MessageType.TRAIN}.upload"
Evaluate = Callable[[Vector, Vector | None], tuple[float, float]]
Shares = dict[int, tuple[int, ...]]  # node -> its devices
Told = TypeVar("Told")
Read = Callable[[RecordDict, int], Told]


@dataclass(frozen=True)
class Fault:
    """What a node did wrong in a round; `devices` were lost by it."""

    round_: int
    node: int
    devices: tuple[int, ...]
    what: str


class SpFl(Strategy):
    """SP-FL, or any other scheme of the configuration. `server` continues after a checkpoint.

    `evaluate` gives (loss, score) of weights (dim,) and statistics; it runs on the server. Without it the nodes
    evaluate on test samples of their own, and the mean is weighted by their numbers. After each round `record` is
    the `RoundRecord` and `server` the new state; `faults` lists all that went wrong.
    """

    def __init__(
        self,
        world: World,
        evaluate: Evaluate | None,
        engine: FlowerConfig | None = None,
        server: ServerState | None = None,
    ) -> None:
        self.world, self.server, self.engine = world, server or world.start(), engine or FlowerConfig()
        self.record: RoundRecord | None = None
        self.faults: list[Fault] = []
        self.code, self.owners = "", dict[int, int]()  # see `roster.Wanted`
        self.uplink: datagrams.DatagramUplink | None = None  # where packets travel as datagrams
        self._evaluate = evaluate or self._ask_scores
        self._roster: Roster | None = None
        self._grid: Grid | None = None
        self._asked: Shares = {}
        self._sent: list[Message] = []
        self._began = 0.0
        self._counts = new_counts(0)
        self.heard: dict[str, int] = {}  # datagrams of the last round, by what became of them

    def rounds(self, grid: Grid) -> Iterator[RoundRecord]:
        """The rounds that are left, one record after each: what `training.run` does in one process."""
        while self.server.round_ < self.world.config.training.rounds:
            round_, arrays = self.server.round_ + 1, records.weights_record(self.server.weights)
            messages = self.configure_train(round_, arrays, ConfigRecord(), grid)
            self.aggregate_train(round_, grid.send_and_receive(messages, timeout=self.engine.timeout_s))
            if self.record is not None:
                yield self.record

    # --- Flower's hooks ----------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node that has devices in the cohort. Rounds count on from `server`, whatever `server_round` is.

        Raises ConfigError when fewer than `min_nodes` nodes come before the first round.
        """
        weights = records.read_weights(arrays, self.world.layout.size)
        self.server = replace(self.server, weights=weights)
        round_ = self.server.round_ + 1
        self._asked = self._nodes(grid, round_).shares(self.world.cohort(round_, self.server.memory))
        self._began = time.perf_counter()
        self._sent = [self._task(node, devices, round_, arrays) for node, devices in self._asked.items()]
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The rest of the round, with the second exchange in the midst of it."""
        world, round_, clock = self.world, self.server.round_ + 1, Stopwatch()
        received = by_device(self._read(round_, self._sent, replies, self._asked, self._read_report))
        clock.seconds["gradients"] = time.perf_counter() - self._began
        plan = prepare(world, self.server, self._cohort(round_, received), round_, clock, self._measured())
        if self.uplink is not None:
            with clock("upload"):
                plan, known = self._hear(self.uplink, plan, received)
        else:
            if not self.engine.one_exchange:
                with clock("upload"):
                    received |= self._fetch(plan, received)
            uploads = self._cohort(round_, received)
            plan = replace(plan, uploads=self._believed(round_, uploads))
            known = Known(np.array([not u.samples or records.has_packets(u, self.world) for u in uploads]))
        record = evaluated(world, complete(world, self.server, plan, clock, known), self._evaluate, clock)
        absent = 0 if known.present is None else int((~known.present).sum())
        self.record, self.server = replace(record, rejected=record.rejected + absent), record.server
        if self.uplink is not None:
            self.server = replace(self.server, memory=dict(self.server.memory) | {datagrams.COUNTS: self._counts})
            self.record = replace(self.record, server=self.server)
        return records.weights_record(self.server.weights), _metrics(self.record)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages: the server evaluates, since in a deployment each message starts a process."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """None: see `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """Log scheme, cohort and size."""
        scheme, size = self.world.scheme.name, self.world.layout.size
        log(INFO, "%s: %s devices a round, %s parameters", scheme, self.world.config.cohort, size)

    # --- asking ------------------------------------------------------------------------------------------------

    def _nodes(self, grid: Grid, round_: int) -> Roster:
        """The nodes as they are now; before the first round, wait for them."""
        if self._roster is None or self._grid is not grid:
            self._grid, self._roster = grid, Roster(grid, self._wanted())
            refused = self._roster.wait(self.engine.wait_s, self.engine.min_nodes)
            self._check_test_images(self._roster)
        else:
            refused = self._roster.refresh()
        self.faults += [Fault(round_, node, (), why) for node, why in refused]
        self._learn(self._roster)
        return self._roster

    def _wanted(self) -> Wanted:
        data = self.world.config.data
        own = data if data.source == "node" else None
        versions = str(installed_versions())
        return Wanted(protocol.identity_of(self.world, self.code), versions, own, self.owners)

    def _check_test_images(self, roster: Roster) -> None:
        """Raises ConfigError when the nodes are to evaluate and none has test samples."""
        ask = self._evaluate == self._ask_scores
        if ask and roster.hellos and not any(hello.test_samples for hello in roster.hellos.values()):
            raise ConfigError(
                "nobody has test samples: give flower.test_data, a test part at a node, or data.validation_fraction"
            )

    def _learn(self, roster: Roster) -> None:
        """What the nodes told of their own data: how many, and, before the first round, the sums of their levels."""
        data = self.world.dataset
        if not isinstance(data, NodeData):
            return
        assert isinstance(data.samples, dict)
        data.samples.update({device: hello.samples for device, hello in roster.hellos.items()})
        if not data.moments:
            sums = [hello.sums for hello in roster.hellos.values() if hello.sums is not None]
            if not sums:
                raise ConfigError("data.mean and data.std must be given when no node is there to tell its sums")
            data.moments.append(federated_moments(sums))
            log(INFO, "normalisation of all nodes' inputs: mean %s, std %s", *data.moments[0])

    @property
    def _moments(self) -> Moments | None:
        data = self.world.dataset
        return data.moments[0] if isinstance(data, NodeData) else None

    def _task(self, node: int, devices: tuple[int, ...], round_: int, arrays: ArrayRecord) -> Message:
        memory = protocol.memory_for(self.server.memory, devices)
        task = protocol.RoundTask(round_, devices, self.server.weights, memory, self.engine.one_exchange, self._moments)
        content = protocol.task_content(task, arrays)
        return self._message(content, node, MessageType.TRAIN, round_)

    def _message(self, content: RecordDict, node: int, kind: str, round_: int) -> Message:
        """It expires with the time-out, so that no node works for a round that is over."""
        return Message(content, node, kind, group_id=str(round_), ttl=self.engine.timeout_s)

    def _measured(self) -> Measured | None:
        """What is known of the links, in place of the channel model; None where that tells all."""
        if self.uplink is None:
            return None
        uplink, counts = self.uplink, self.uplink.counts(self.server.memory)
        return lambda link, cohort: uplink.measured(link, cohort, counts)

    def _hear(self, uplink: datagrams.DatagramUplink, plan: Plan, received: Mapping[int, Upload]) -> tuple[Plan, Known]:
        """The second exchange with packets as datagrams: what arrived is the outcome, whoever answers by record."""
        notes = uplink.open(plan, self._asked)
        told = self._fetch(plan, received, notes)
        plan = replace(plan, uploads=self._believed(plan.round_, [told.get(u.device, u) for u in plan.uploads]))
        arrival = uplink.close(plan, uplink.counts(self.server.memory), set(told))
        self._counts, self.heard = arrival.counts, dict(arrival.heard.counts)
        log(INFO, "round %s: datagrams %s", plan.round_, self.heard or "none")
        return replace(plan, uploads=arrival.uploads), Known(outcome=arrival.outcome)

    def _fetch(
        self, plan: Plan, received: Mapping[int, Upload], notes: Mapping[int, ConfigRecord] | None = None
    ) -> dict[int, Upload]:
        """The second exchange: each node learns its share of bandwidth and power, and hands over its packets.

        `notes` tell nodes how to send them as datagrams; then they hand over what is no packet.
        """
        if self._grid is None:  # cannot be: configure_train comes first
            return {}
        rows = {device: row for row, device in enumerate(self.world.cohort(plan.round_, self.server.memory))}
        asked = {
            node: tuple(k for k in ks if k in received and received[k].samples) for node, ks in self._asked.items()
        }
        asked = {node: devices for node, devices in asked.items() if devices}
        messages = []
        for node, devices in asked.items():
            content = protocol.grant_content(plan.round_, devices, plan.allocation, [rows[k] for k in devices])
            if notes is not None:
                content[datagrams.ORDER] = notes[node]
            messages.append(self._message(content, node, UPLOAD, plan.round_))
        replies = self._grid.send_and_receive(messages, timeout=self.engine.timeout_s)

        def read(content: RecordDict, node: int) -> list[Upload]:
            protocol.check_upload(content, plan.round_, asked[node])
            sent = () if notes is None else datagrams.PACKETS
            return protocol.read_packets(content, [received[k] for k in asked[node]], self.world, sent)

        return by_device(self._read(plan.round_, messages, replies, asked, read))

    def _ask_scores(self, weights: Vector, _: Vector | None = None) -> tuple[float, float]:
        """The mean score of the nodes that are there, weighted by their test samples; NaN when none has any."""
        if self._grid is None or self._roster is None:  # cannot be: configure_train comes first
            return math.nan, math.nan
        round_, record = self.server.round_ + 1, records.weights_record(weights)
        places, hellos = self._roster.online(), self._roster.hellos
        counts = {node: hellos[place.partition].test_samples for node, place in places.items()}
        counts = {node: count for node, count in counts.items() if count}
        content = protocol.evaluation_content(round_, record, self._moments)
        messages = [self._message(content, node, MessageType.EVALUATE, round_) for node in counts]
        replies = self._grid.send_and_receive(messages, timeout=self.engine.timeout_s) if messages else ()
        asked: Shares = dict.fromkeys(counts, ())

        def read(content: RecordDict, node: int) -> Score:
            return protocol.read_score(content, counts[node], self.world.task.metric)

        scores = self._read(round_, messages, replies, asked, read)
        if not scores:
            log(WARNING, "round %s: no node that is there has test samples", round_)
            return math.nan, math.nan
        return mean_score(list(scores.values()))

    # --- hearing -----------------------------------------------------------------------------------------------

    def _read(
        self, round_: int, sent: Sequence[Message], replies: Iterable[Message], asked: Shares, read: Read[Told]
    ) -> dict[int, Told]:
        """What all nodes answered that did as they should, by node in the order of asking; every other is blamed."""
        received: dict[int, Told] = {}
        waiting = {message.metadata.message_id: message.metadata.dst_node_id for message in sent}
        for reply in replies:
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            try:
                if node is None:
                    raise PacketError("answered twice, or what it was not asked")
                if reply.has_error():  # of the node, or of the SuperLink in its place
                    raise PacketError(f"failed: {reply.error.reason}")
                if reply.metadata.src_node_id != node:
                    raise PacketError(f"was answered for by node {reply.metadata.src_node_id}")
                received[node] = read(reply.content, node)
            except PacketError as error:
                lost = () if node is None else asked[node]
                self._blame(round_, node or reply.metadata.src_node_id, lost, str(error))
        for node in waiting.values():
            if self._roster is not None:
                self._roster.forget(node)
            self._blame(round_, node, asked[node], f"no answer within {self.engine.timeout_s:g} s")
        return {node: received[node] for node in asked if node in received}

    def _read_report(self, content: RecordDict, node: int) -> list[Upload]:
        uploads = protocol.read_report(content, self.server.round_ + 1, self._asked[node], self.world)
        data = self.world.dataset
        for upload in uploads if isinstance(data, NodeData) else ():
            told = len(self.world.parts[upload.device])
            if upload.samples not in (0, told):
                raise PacketError(f"samples must be {told} as it told, got {upload.samples}")
        return protocol.read_packets(content, uploads, self.world) if self.engine.one_exchange else uploads

    def _believed(self, round_: int, uploads: Sequence[Upload]) -> Sequence[Upload]:
        """The uploads with their packets, admitted; the nodes of devices that are not are blamed."""
        believed = admit(self.world.format, uploads)
        nodes = {device: node for node, devices in self._asked.items() for device in devices}
        for upload, other in zip(uploads, believed, strict=True):
            if upload.samples and not other.samples:
                self._blame(round_, nodes[upload.device], (upload.device,), "claims what no gradient has")
        return believed

    def _blame(self, round_: int, node: int, devices: tuple[int, ...], what: str) -> None:
        what = protocol.brief(what)
        self.faults.append(Fault(round_, node, devices, what))
        log(WARNING, "round %s: node %s: %s; devices %s", round_, node, what, list(devices))

    def _cohort(self, round_: int, received: Mapping[int, Upload]) -> list[Upload]:
        """The uploads in the order of the cohort: sums then have one order, whoever answered first."""
        world = self.world
        cohort = world.cohort(round_, self.server.memory)
        return [received.get(device) or silent(world.format, device) for device in cohort]


def by_device(answers: Mapping[int, Sequence[Upload]]) -> dict[int, Upload]:
    """The uploads of all nodes, by device."""
    return {upload.device: upload for uploads in answers.values() for upload in uploads}


def _metrics(record: RoundRecord) -> MetricRecord:
    """The round for Flower's own log; None is left out."""
    values = {"loss": record.loss, "test_loss": record.test_loss, f"test_{record.metric}": record.test_score}
    counts = {"signs_received": int(record.outcome.sign.sum()), "rejected": record.rejected}
    return MetricRecord({name: value for name, value in (values | counts).items() if value is not None})
