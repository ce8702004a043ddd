"""Which node holds which devices.

Node p of P (`partition-id`, `num-partitions` in its node config) holds the devices k with k mod P = p. Flower's node
ids are random numbers, and the list of nodes is empty at first and changes; so the server asks each new node who it is.
P is what most nodes tell: one that says otherwise, were it the first to answer, does not shut out the others.
With `data.source = "node"` each node is one device, whose number stays with the node's id, and so with its key.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log

from spfl.config.data import DataConfig
from spfl.data.node_data import check_sums
from spfl.errors import ConfigError, DataError, PacketError
from spfl.flower.protocol import NOT_TOLD, Hello, Identity, brief, read_hello

POLL_S = 1.0
HELLO_S = 600.0  # then the question expires, and is asked again
AGAIN_S = 30.0  # a refused node is asked again, for it may have been repaired: each question costs it a process
GRACE_S = 5.0  # for nodes that are a little late, when all that are there were refused


@dataclass(frozen=True)
class Place:
    """A node's place among all: partition p of P."""

    partition: int
    partitions: int

    def __post_init__(self) -> None:
        if not 0 <= self.partition < self.partitions:
            raise ConfigError(
                f"partition-id must be in 0..num-partitions - 1, got {self.partition} of {self.partitions}"
            )

    def devices(self, cohort: Iterable[int]) -> tuple[int, ...]:
        """The devices of a cohort that live here."""
        return tuple(device for device in cohort if device % self.partitions == self.partition)


@dataclass(frozen=True)
class Wanted:
    """What nodes must agree upon with the server, and what they should; with own data, what those are to be.

    `owners` tells which node holds which device of own data, also of nodes that are away; it grows as nodes come.
    """

    identity: Identity
    versions: str
    own: DataConfig | None = None
    owners: dict[int, int] = field(default_factory=dict)


class Roster:
    """The nodes that take part, by node id.

    A new node is asked who it is, and takes part once it has answered: nobody waits for it. Raises nothing later on.
    """

    def __init__(self, grid: Grid, wanted: Wanted) -> None:
        self._grid, self._wanted = grid, wanted
        self._places: dict[int, Place] = {}
        self._asked: dict[str, int] = {}  # message id -> node, of questions without an answer
        self._refused: dict[int, float] = {}  # node -> when
        self._reasons: dict[int, str] = {}  # of nodes that are or were refused
        self._online: set[int] = set()
        self._votes: dict[int, int] = {}  # node -> the number of partitions that it tells
        self.hellos: dict[int, Hello] = {}  # device or partition -> what its node told

    def refresh(self) -> list[tuple[int, str]]:
        """Look who is there, ask the new ones, read what was answered. Returns the nodes refused anew, and why."""
        self._online, now = set(self._grid.get_node_ids()), time.monotonic()
        self._refused = {n: t for n, t in self._refused.items() if n in self._online and now - t < AGAIN_S}
        new = self._online - self._places.keys() - self._refused.keys() - set(self._asked.values())
        messages = [_question(node) for node in sorted(new)]
        if messages:
            self._asked |= dict(zip(self._grid.push_messages(messages), sorted(new), strict=True))
        return self._listen()

    def _listen(self) -> list[tuple[int, str]]:
        refused, hellos = list[tuple[int, str]](), dict[int, Hello]()
        replies = self._grid.pull_messages(list(self._asked)) if self._asked else ()
        for reply in sorted(replies, key=lambda reply: self._asked.get(reply.metadata.reply_to_message_id, 0)):
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None or reply.has_error():
                continue  # failed: asked again at the next look, as long as it is there
            try:
                hellos[node] = self._sound(node, read_hello(reply.content))
            except (PacketError, ConfigError, DataError) as error:
                refused += self._refuse(node, brief(str(error)))
        for node, hello in hellos.items():  # when all votes are in
            try:
                self._admit(node, hello)
            except (PacketError, ConfigError, DataError) as error:
                refused += self._refuse(node, brief(str(error)))
        return refused + self._outvoted()

    def _refuse(self, node: int, why: str) -> list[tuple[int, str]]:
        """Leave a node out; returns it with the reason, if that is a new one."""
        self._refused[node], before = time.monotonic(), self._reasons.get(node)
        self._reasons[node] = why
        if before == why:
            return []
        log(WARNING, "node %s is refused: %s", node, why)
        return [(node, why)]

    def _outvoted(self) -> list[tuple[int, str]]:
        """Leave out nodes that took part with another number of partitions than most tell; ask again who was right."""
        agreed = self._agreed()
        wrong = [node for node, place in self._places.items() if place.partitions != agreed]
        if self._wanted.own is not None or not wrong:
            return []
        for node in wrong:
            del self._places[node]
        self._refused = {node: t for node, t in self._refused.items() if self._votes.get(node) != agreed}
        return [told for node in wrong for told in self._refuse(node, self._not_agreed(self._votes[node]))]

    def _agreed(self) -> int:
        """The number of partitions that most nodes tell; of equally many, that which is nearer to the nodes here."""
        votes = Counter(count for node, count in self._votes.items() if node in self._online)
        taken = {place.partitions for place in self._places.values()}
        order = {count: (many, -abs(count - len(self._online)), count in taken) for count, many in votes.items()}
        return max(order, key=order.__getitem__, default=0)

    def _not_agreed(self, told: int) -> str:
        return f"num-partitions must be {self._agreed()} as most nodes have it, got {told}"

    def _sound(self, node: int, hello: Hello) -> Hello:
        """The hello of a node that is of this run, whose vote counts. Raises PacketError and ConfigError."""
        self._check_identity(hello.identity)
        if self._wanted.own is None:
            self._votes[node] = Place(hello.partition, hello.partitions).partitions
        return hello

    def _admit(self, node: int, hello: Hello) -> None:
        own = self._wanted.own
        place = self._place(hello) if own is None else self._own_place(node, hello, own)
        if hello.versions != self._wanted.versions:
            log(WARNING, "node %s has %s, the server %s: bits may differ", node, hello.versions, self._wanted.versions)
        self._places = {other: known for other, known in self._places.items() if known != place}  # it was restarted
        self._places[node] = place
        self._reasons.pop(node, None)
        self.hellos[place.partition] = hello
        what = f"partition {place.partition} of {place.partitions}"
        log(INFO, "node %s holds %s", node, what if own is None else f"device {place.partition}")

    def _check_identity(self, identity: Identity) -> None:
        wanted = self._wanted.identity
        for part in fields(Identity):
            here, there = getattr(wanted, part.name), getattr(identity, part.name)
            if here != there:
                raise PacketError(f"its {part.name} is another: {there or 'none'}, the run's is {here or 'none'}")

    def _place(self, hello: Hello) -> Place:
        place = Place(hello.partition, hello.partitions)
        if place.partitions != self._agreed():
            raise PacketError(self._not_agreed(place.partitions))
        for other, known in self._places.items():
            if known == place and other in self._online:
                raise PacketError(f"partition-id {place.partition} is held by node {other}")
        return place

    def _own_place(self, node: int, hello: Hello, data: DataConfig) -> Place:
        """The device of a node with own data: what it had before, what it asks for, or the first that is free."""
        owners, devices = self._wanted.owners, data.devices
        free = next((k for k in range(devices) if k not in owners.values()), devices)
        device = owners.get(node, free if hello.partition == NOT_TOLD else hello.partition)
        if device >= devices:
            raise PacketError(f"it would be device {device}, and the run has {devices} (data.devices)")
        holder = next((other for other, k in owners.items() if k == device), node)
        if holder != node:
            raise PacketError(f"device {device} belongs to node {holder}, which has another key")
        if hello.partition not in (device, NOT_TOLD):
            raise PacketError(f"partition-id must be {device} as before, got {hello.partition}")
        if not hello.samples:
            raise PacketError("it has no samples")
        check_sums(data, hello.sums)
        owners[node] = device
        return Place(device, devices)

    def forget(self, node: int) -> None:
        """A node did not answer in time: it is out until it answers who it is, which nobody waits for."""
        self._places.pop(node, None)

    def wait(self, seconds: float, least: int) -> list[tuple[int, str]]:
        """Refresh until the nodes hold all partitions and are no fewer than `least`, or time is up.

        Raises ConfigError for fewer than `least`, and soon when all that are there were refused: with the reasons.
        """
        began = hopeful = time.monotonic()
        refused = self.refresh()
        while not (self.complete and len(self.online()) >= least) and (now := time.monotonic()) < began + seconds:
            hopeful = hopeful if self._hopeless else now
            if now - hopeful > GRACE_S:
                raise ConfigError(f"all {len(self._online)} nodes that are there were refused: {self._why()}")
            time.sleep(POLL_S)
            refused += self.refresh()
        here = len(self.online())
        if here < least:
            why = f"; {self._why()}" if self._reasons else ""
            raise ConfigError(f"min_nodes must be reached within {seconds:g} s: {least} wanted, {here} there{why}")
        if not self.complete:
            log(WARNING, "beginning with %s nodes; devices of the others are lost until they come", here)
        return refused

    @property
    def _hopeless(self) -> bool:
        """True when nodes are there and all were refused."""
        return bool(self._online) and self._online <= self._reasons.keys()

    def _why(self) -> str:
        return "; ".join(f"node {node}: {reason}" for node, reason in sorted(self._reasons.items()))

    @property
    def complete(self) -> bool:
        """True when every partition is held by a node that is online."""
        here = self.online()
        return bool(here) and len(here) == next(iter(here.values())).partitions

    def online(self) -> dict[int, Place]:
        """Nodes to be asked, in the order of their partitions."""
        here = [(node, place) for node, place in self._places.items() if node in self._online]
        return dict(sorted(here, key=lambda item: item[1].partition))

    def shares(self, cohort: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Node -> its devices of a cohort; nodes without any are left out."""
        parts = {node: place.devices(cohort) for node, place in self.online().items()}
        return {node: devices for node, devices in parts.items() if devices}


def _question(node: int) -> Message:
    return Message(RecordDict({"hello": ConfigRecord({})}), node, MessageType.QUERY, ttl=HELLO_S)
