"""The server's round as a Flower strategy.

    train          the nodes compute; they reply the side information of their devices
    (allocate)     `training.prepare`: band and power from the side information
    train.upload   the nodes reply the packets; with `one_exchange` they came along
    (the air)      `training.complete`: the channel model decides what arrived; aggregate, step

Flower's own strategies do not fit: they refuse two kinds of records, and add up replies in the order of their arrival.
Here uploads are sorted by device, and every random number has its own stream, so the weights are those of
`training.run` to the last bit. A node that fails, is late, or sends what the protocol refuses costs the round its
devices, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO, WARNING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log

from spfl.arrays import Vector
from spfl.errors import PacketError
from spfl.flower import protocol
from spfl.flower.roster import Roster
from spfl.flower.settings import FlowerConfig
from spfl.runs.environment import describe_environment
from spfl.training import Plan, RoundRecord, Stopwatch, complete, prepare
from spfl.uplink.admission import admit
from spfl.uplink.upload import Upload, silent
from spfl.world.state import ServerState
from spfl.world.world import World

UPLOAD = f"{MessageType.TRAIN}.upload"
Evaluate = Callable[[Vector], tuple[float, float]]
Shares = dict[int, tuple[int, ...]]  # node -> its devices
Read = Callable[[RecordDict, tuple[int, ...]], list[Upload]]


@dataclass(frozen=True)
class Fault:
    """What a node did wrong in a round; `devices` were lost by it."""

    round_: int
    node: int
    devices: tuple[int, ...]
    what: str


class SpFl(Strategy):
    """SP-FL, or any other scheme of the configuration. `server` continues after a checkpoint.

    `evaluate` gives (loss, accuracy) of weights (dim,); it runs on the server. After each round `record` is the
    `RoundRecord` and `server` the new state; `faults` lists all that went wrong.
    """

    def __init__(
        self, world: World, evaluate: Evaluate, engine: FlowerConfig | None = None, server: ServerState | None = None
    ) -> None:
        self.world, self.server, self.engine = world, server or world.start(), engine or FlowerConfig()
        self.record: RoundRecord | None = None
        self.faults: list[Fault] = []
        self._evaluate = evaluate
        self._roster: Roster | None = None
        self._grid: Grid | None = None
        self._asked: Shares = {}
        self._sent: list[Message] = []
        self._began = 0.0

    def rounds(self, grid: Grid) -> Iterator[RoundRecord]:
        """The rounds that are left, one record after each: what `training.run` does in one process."""
        while self.server.round_ < self.world.config.training.rounds:
            round_, arrays = self.server.round_ + 1, protocol.weights_record(self.server.weights)
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
        weights = protocol.read_weights(arrays, self.world.layout.size)
        self.server = replace(self.server, weights=weights)
        round_ = self.server.round_ + 1
        self._asked = self._nodes(grid, round_).shares(self.world.cohort(round_))
        self._began = time.perf_counter()
        self._sent = [self._task(node, devices, round_, arrays) for node, devices in self._asked.items()]
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The rest of the round, with the second exchange in the midst of it."""
        world, round_, clock = self.world, self.server.round_ + 1, Stopwatch()
        heard = self._read(round_, self._sent, replies, self._asked, self._read_report)
        clock.seconds["gradients"] = time.perf_counter() - self._began
        plan = prepare(world, self.server, self._cohort(round_, heard), round_, clock)
        if not self.engine.one_exchange:
            with clock("upload"):
                heard |= self._fetch(plan, heard)
        uploads = self._cohort(round_, heard)
        plan = replace(plan, uploads=self._believed(round_, uploads))
        present = np.array([not u.samples or self._has_packets(u) for u in uploads])
        record = complete(world, self.server, plan, self._evaluate, clock, present)
        self.record = replace(record, rejected=record.rejected + int((~present).sum()))
        self.server = record.server
        return protocol.weights_record(self.server.weights), _metrics(self.record)

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
            experiment, versions = protocol.experiment_of(self.world), str(describe_environment()["versions"])
            self._grid, self._roster = grid, Roster(grid, experiment, versions)
            refused = self._roster.wait(self.engine.wait_s, self.engine.min_nodes)
        else:
            refused = self._roster.refresh()
        for node, why in refused:
            self._blame(round_, node, (), why)
        return self._roster

    def _task(self, node: int, devices: tuple[int, ...], round_: int, arrays: ArrayRecord) -> Message:
        memory = protocol.memory_for(self.server.memory, devices)
        content = protocol.task_content(round_, devices, arrays, memory, self.engine.one_exchange)
        return self._message(content, node, MessageType.TRAIN, round_)

    def _message(self, content: RecordDict, node: int, kind: str, round_: int) -> Message:
        """It expires with the time-out, so that no node works for a round that is over."""
        return Message(content, node, kind, group_id=str(round_), ttl=self.engine.timeout_s)

    def _fetch(self, plan: Plan, heard: Mapping[int, Upload]) -> dict[int, Upload]:
        """The second exchange: each node learns its share of band and power, and hands over its packets."""
        if self._grid is None:  # cannot be: configure_train comes first
            return {}
        rows = {device: row for row, device in enumerate(self.world.cohort(plan.round_))}
        asked = {node: tuple(k for k in ks if k in heard and heard[k].samples) for node, ks in self._asked.items()}
        asked = {node: devices for node, devices in asked.items() if devices}
        messages = []
        for node, devices in asked.items():
            content = protocol.grant_content(plan.round_, devices, plan.allocation, [rows[k] for k in devices])
            messages.append(self._message(content, node, UPLOAD, plan.round_))
        replies = self._grid.send_and_receive(messages, timeout=self.engine.timeout_s)

        def read(content: RecordDict, devices: tuple[int, ...]) -> list[Upload]:
            protocol.check_upload(content, plan.round_, devices)
            return protocol.read_packets(content, [heard[k] for k in devices], self.world)

        return self._read(plan.round_, messages, replies, asked, read)

    # --- hearing -----------------------------------------------------------------------------------------------

    def _read(
        self, round_: int, sent: Sequence[Message], replies: Iterable[Message], asked: Shares, read: Read
    ) -> dict[int, Upload]:
        """The uploads of all nodes that answered as they should, by device; every other node is blamed."""
        heard: dict[int, Upload] = {}
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
                heard |= {upload.device: upload for upload in read(reply.content, asked[node])}
            except PacketError as error:
                lost = () if node is None else asked[node]
                self._blame(round_, node or reply.metadata.src_node_id, lost, str(error))
        for node in waiting.values():
            if self._roster is not None:
                self._roster.forget(node)
            self._blame(round_, node, asked[node], f"no answer within {self.engine.timeout_s:g} s")
        return heard

    def _read_report(self, content: RecordDict, devices: tuple[int, ...]) -> list[Upload]:
        uploads = protocol.read_report(content, self.server.round_ + 1, devices, self.world)
        return protocol.read_packets(content, uploads, self.world) if self.engine.one_exchange else uploads

    def _believed(self, round_: int, uploads: Sequence[Upload]) -> Sequence[Upload]:
        """The uploads with their packets, admitted; the nodes of devices that are not are blamed."""
        believed = admit(self.world.scheme, self.world.config.scheme, self.world.layout, uploads)
        nodes = {device: node for node, devices in self._asked.items() for device in devices}
        for upload, other in zip(uploads, believed, strict=True):
            if upload.samples and not other.samples:
                self._blame(round_, nodes[upload.device], (upload.device,), "claims what no gradient has")
        return believed

    def _blame(self, round_: int, node: int, devices: tuple[int, ...], what: str) -> None:
        self.faults.append(Fault(round_, node, devices, what))
        log(WARNING, "round %s: node %s: %s; devices %s", round_, node, what, list(devices))

    def _cohort(self, round_: int, heard: Mapping[int, Upload]) -> list[Upload]:
        """The uploads in the order of the cohort: sums then have one order, whoever answered first."""
        world = self.world
        return [heard.get(device) or silent(world.scheme, world.layout, device) for device in world.cohort(round_)]

    def _has_packets(self, upload: Upload) -> bool:
        parts = [getattr(upload, name) for name in protocol.packet_rows(self.world)]
        return all(part is not None and len(part) for part in parts)


def _metrics(record: RoundRecord) -> MetricRecord:
    """The round for Flower's own log; None is left out."""
    values = {"loss": record.loss, "test_loss": record.test_loss, "test_accuracy": record.test_accuracy}
    counts = {"signs_received": int(record.outcome.sign.sum()), "rejected": record.rejected}
    return MetricRecord({name: value for name, value in (values | counts).items() if value is not None})
