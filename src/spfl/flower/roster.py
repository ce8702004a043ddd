"""Which node holds which devices.

Node p of P (`partition-id`, `num-partitions` in its node config) holds the devices k with k mod P = p. Flower's node
ids are random numbers, and the list of nodes is empty at first and changes; so the server asks each new node.
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
from spfl.flower.protocol import read_hello

POLL_S = 1.0


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
    """The nodes that answered, by node id; `layout` (bytes) tells those that run another experiment."""

    def __init__(self, grid: Grid, layout: bytes, timeout_s: float) -> None:
        self._grid, self._layout, self._timeout_s = grid, layout, timeout_s
        self._places: dict[int, Place] = {}
        self._refused: set[int] = set()
        self._online: set[int] = set()

    def refresh(self) -> list[tuple[int, str]]:
        """Ask the nodes that are new; forget none, since a node may come back. Returns refused nodes and why."""
        self._online = set(self._grid.get_node_ids())
        new = sorted(self._online - self._places.keys() - self._refused)
        if not new:
            return []
        messages = [Message(RecordDict({"hello": ConfigRecord({})}), node, MessageType.QUERY) for node in new]
        refused = []
        for reply in sorted(self._grid.send_and_receive(messages, timeout=self._timeout_s), key=_source):
            try:
                self._admit(reply)
            except (PacketError, ConfigError) as error:
                self._refused.add(_source(reply))
                refused.append((_source(reply), str(error)))
        return refused

    def _admit(self, reply: Message) -> None:
        node = _source(reply)
        if reply.has_error():
            raise PacketError(f"hello failed: {reply.error.reason}")
        partition, partitions, layout = read_hello(reply.content)
        if layout != self._layout:
            raise PacketError("node has another model or other data: layouts differ")
        place = Place(partition, partitions)
        for other, known in self._places.items():
            if known.partitions != partitions:
                raise PacketError(f"num-partitions must be {known.partitions} as at node {other}, got {partitions}")
            if known == place and other in self._online:
                raise PacketError(f"partition-id {partition} is held by node {other}")
        for other in [n for n, known in self._places.items() if known == place]:
            del self._places[other]  # restarted under a new id
        self._places[node] = place
        log(INFO, "node %s holds partition %s of %s", node, partition, partitions)

    def wait(self, seconds: float, least: int) -> list[tuple[int, str]]:
        """Refresh until the nodes hold all partitions, or time is up. Raises ConfigError for fewer than `least`."""
        end, refused = time.monotonic() + seconds, self.refresh()
        while not self.complete and time.monotonic() < end:
            time.sleep(min(POLL_S, seconds))
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


def _source(message: Message) -> int:
    return int(message.metadata.src_node_id)
