"""Which node holds which devices.

Node p of P (`partition-id`, `num-partitions` in its node config) holds the devices k with k mod P = p. Flower's node
ids are random numbers, and the list of nodes is empty at first and changes; so the server asks each new node who it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log

from spfl.errors import ConfigError, PacketError
from spfl.flower.protocol import Hello, read_hello

POLL_S = 1.0
HELLO_S = 600.0  # then the question expires, and is asked again


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


class Roster:
    """The nodes that take part, by node id. `experiment` is what they must agree upon, `versions` what they should.

    A new node is asked who it is, and takes part once it has answered: nobody waits for it. Raises nothing later on.
    """

    def __init__(self, grid: Grid, experiment: str, versions: str) -> None:
        self._grid, self._experiment, self._versions = grid, experiment, versions
        self._places: dict[int, Place] = {}
        self._asked: dict[str, int] = {}  # message id -> node, of questions without an answer
        self._refused: set[int] = set()
        self._online: set[int] = set()

    def refresh(self) -> list[tuple[int, str]]:
        """Look who is there, ask the new ones, read what was answered. Returns the nodes refused, and why."""
        self._online = set(self._grid.get_node_ids())
        new = self._online - self._places.keys() - self._refused - set(self._asked.values())
        messages = [_question(node) for node in sorted(new)]
        if messages:
            self._asked |= dict(zip(self._grid.push_messages(messages), sorted(new), strict=True))
        return self._listen()

    def _listen(self) -> list[tuple[int, str]]:
        refused = []
        replies = self._grid.pull_messages(list(self._asked)) if self._asked else ()
        for reply in sorted(replies, key=lambda reply: self._asked.get(reply.metadata.reply_to_message_id, 0)):
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None or reply.has_error():
                continue  # failed: asked again at the next look, as long as it is there
            try:
                self._admit(node, read_hello(reply.content))
            except (PacketError, ConfigError) as error:
                self._refused.add(node)
                refused.append((node, str(error)))
        return refused

    def _admit(self, node: int, hello: Hello) -> None:
        if hello.experiment != self._experiment:
            raise PacketError(f"node has another network or other data: {hello.experiment}, not {self._experiment}")
        place = Place(hello.partition, hello.partitions)
        for other, known in self._places.items():
            if known.partitions != place.partitions:
                raise PacketError(
                    f"num-partitions must be {known.partitions} as at node {other}, got {place.partitions}"
                )
            if known == place and other in self._online:
                raise PacketError(f"partition-id {place.partition} is held by node {other}")
        if hello.versions != self._versions:
            log(WARNING, "node %s has %s, the server %s: bits may differ", node, hello.versions, self._versions)
        self._places = {other: known for other, known in self._places.items() if known != place}  # it was restarted
        self._places[node] = place
        log(INFO, "node %s holds partition %s of %s", node, place.partition, place.partitions)

    def forget(self, node: int) -> None:
        """A node did not answer in time: it is out until it answers who it is, which nobody waits for."""
        self._places.pop(node, None)

    def wait(self, seconds: float, least: int) -> list[tuple[int, str]]:
        """Refresh until the nodes hold all partitions, or time is up. Raises ConfigError for fewer than `least`."""
        end, refused = time.monotonic() + seconds, self.refresh()
        while not self.complete and time.monotonic() < end:
            time.sleep(POLL_S)
            refused += self.refresh()
        here = len(self.online())
        if here < least:
            raise ConfigError(f"min_nodes must be reached within {seconds:g} s: {least} wanted, {here} there")
        if not self.complete:
            log(WARNING, "beginning with %s nodes; devices of the others are lost until they come", here)
        return refused

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
