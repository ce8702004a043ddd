"""Packets of a deployment as UDP datagrams (`flower.packets = "udp"`): both ends of a round.

    server    a session for each node of the round, told over TLS with the grant; then its gateway hears the datagrams
    node      cuts its packets, seals and sends them, signs first, at the rate of its share; then it replies over TLS

What arrives is the outcome of the round, and counts of it are the estimate of each link by which the next is allocated.
"""

from __future__ import annotations

import heapq
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from spfl.arrays import Bools
from spfl.config.section import unmet
from spfl.errors import ConfigError, PacketError
from spfl.flower.gateway import Expected, Gateway, Heard, split_address
from spfl.packets.container import Kind
from spfl.packets.datagrams import DSCP, MODULUS, SIGN, Datagram, cut, join
from spfl.packets.sealed import KEY_BYTES, NAME_BYTES, Session, new_session, seal
from spfl.packets.slices import PieceShape, rebuild, slice_packet
from spfl.radio.estimator import Pieces, counted, measured_link, new_counts
from spfl.radio.outage import Link, Outcome, by_segment
from spfl.training import Plan
from spfl.uplink.upload import Upload
from spfl.world.world import World

PACKETS = {"sign_packet": SIGN, "modulus_packet": MODULUS}  # fields of `Upload` that travel as datagrams
COUNTS = "link/counts"  # in the server's memory: what is known of the links
LARGEST_BYTES = 1400  # of a datagram, without seal: what no network cuts
ORDER = "udp"  # name of the record in the grant


def check(world: World) -> None:
    """Raises ConfigError for what datagrams cannot carry, and where the channel model would have a say."""
    channel, scheme = world.config.channel, world.scheme
    if scheme.uplink not in ("split", "sign") or scheme.attempts > 1:
        raise ConfigError(f"scheme {scheme.name} sends no datagrams; take one with sign packets, such as sp_fl_plus_1")
    if scheme.schedule in ("channel", "channel_norm", "fair"):
        raise ConfigError(f"scheme {scheme.name} ranks fades, which flower.packets = udp does not measure")
    if channel.side_information == "lossy":
        raise ConfigError("channel.side_information must be in_packet or reliable with flower.packets = udp, got lossy")
    keys = {"model": "macro", "fading": "block", "link": "outage", "multiplex": "orthogonal", "csi_error_db": 0.0}
    wanted = {f"channel.{key}": (getattr(channel, key), value) for key, value in keys.items()}
    if line := unmet("flower.packets = udp", wanted):
        raise ConfigError(line)
    for kind in world_kinds(world):
        shape = shape_of(world, kind)
        if shape.count + parity_of(world, kind) > 255 or shape.length(world.format.packets.size) > LARGEST_BYTES:
            least = 8 * LARGEST_BYTES
            raise ConfigError(f"channel.segment_bits must be set so that packets make at most 255 datagrams of "
                              f"{LARGEST_BYTES} bytes, such as {least - 1000}, got {channel.segment_bits}")  # fmt: skip


def world_kinds(world: World) -> tuple[int, ...]:
    """The kinds of packets that a scheme sends."""
    return (SIGN, MODULUS) if world.scheme.uplink == "split" else (SIGN,)


def shape_of(world: World, kind: int) -> PieceShape:
    """How packets of a kind are cut."""
    form, count = world.format, world.format.segments[kind]
    if kind == SIGN:
        return PieceShape(Kind.SIGN, 1, 0, count)
    return PieceShape(Kind.MODULUS, form.codec.bits, form.ranges, count)


def parity_of(world: World, kind: int) -> int:
    """Datagrams of parity that go with a packet."""
    return world.format.parity if kind == SIGN else 0


# --- the node --------------------------------------------------------------------------------------------------------


class SendOrder(NamedTuple):
    """What a node is told: where to send under which session, at how many bit/s each of its devices."""

    address: str
    session: Session
    bit_per_s: Mapping[int, float]


def read_order(content: RecordDict) -> SendOrder | None:
    """The order in a grant; None when packets travel as records. Raises PacketError for one that is none."""
    note, grant = content.get(ORDER), content.get("grant")
    if not isinstance(note, ConfigRecord) or not isinstance(grant, ConfigRecord):
        return None
    name, key, address, rate = (note.get(field) for field in ("name", "key", "address", "bit_per_s"))
    devices, shares = grant.get("devices"), grant.get("beta")
    if not (isinstance(name, bytes) and isinstance(key, bytes) and isinstance(address, str)):
        raise PacketError("an order to send datagrams must have a name, a key and an address")
    if len(name) != NAME_BYTES or len(key) != KEY_BYTES or type(rate) is not float or not rate > 0:
        raise PacketError("an order to send datagrams has a bad name, key or rate")
    if not isinstance(devices, list) or not isinstance(shares, list) or len(devices) != len(shares):
        raise PacketError("an order to send datagrams must have a share for each device")
    numbers = (np.array(devices, np.int64).tolist(), np.array(shares, np.float64).tolist())
    return SendOrder(address, Session(name, key), {k: rate * share for k, share in zip(*numbers, strict=True)})


def pieces_of(world: World, packet: bytes, kind: int, device: int, round_: int) -> list[bytes]:
    """The datagrams of a packet, with parity."""
    shape = shape_of(world, kind)
    body = b"".join(slice_packet(packet, shape, world.format.packets.size))
    return cut(body, shape.count, parity_of(world, kind), kind, device, round_)


def send(world: World, order: SendOrder, packets: Mapping[tuple[int, int], bytes], round_: int) -> int:
    """Send the packets of (device, kind), each device at its own rate, its signs first; how many datagrams."""
    queues = [_timed(world, order, packets, device, round_) for device in sorted({k for k, _ in packets})]
    host, port = split_address(order.address, "flower.udp_address")
    family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sent, began = 0, time.monotonic()
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for due, kind, raw in heapq.merge(*queues, key=lambda item: item[0]):
            time.sleep(max(0.0, began + due - time.monotonic()))
            _mark(sender, family, kind)
            sender.sendto(seal(order.session, raw), target)
            sent += 1
    return sent


def _timed(
    world: World, order: SendOrder, packets: Mapping[tuple[int, int], bytes], device: int, round_: int
) -> Iterator[tuple[float, int, bytes]]:
    """When which datagram of a device is due: each takes the time that its bits need at the granted rate."""
    due = 0.0
    for kind in (SIGN, MODULUS):
        if (device, kind) in packets and order.bit_per_s.get(device, 0.0) > 0:
            for raw in pieces_of(world, packets[device, kind], kind, device, round_):
                yield due, kind, raw
                due += 8 * len(raw) / order.bit_per_s[device]


def _mark(sender: socket.socket, family: int, kind: int) -> None:
    """The code point of a kind, where the system lets it be set."""
    if family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, getattr(socket, "IPV6_TCLASS", 67), DSCP[kind] << 2)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP[kind] << 2)


# --- the server ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatagramUplink:
    """The server's side: its gateway, the address that nodes send to, the rate that all share, and its patience."""

    world: World
    gateway: Gateway
    address: str
    bit_per_s: float
    quiet_s: float

    def open(self, plan: Plan, asked: Mapping[int, Sequence[int]]) -> dict[int, ConfigRecord]:
        """Begin to hear a round; what each node is told with its grant."""
        granted = {u.device for u, b in zip(plan.uploads, plan.allocation.beta, strict=True) if b > 0}
        expected, notes = [], dict[int, ConfigRecord]()
        for node, devices in asked.items():
            session, packets = new_session(), dict[tuple[int, int], tuple[int, int]]()
            for kind in world_kinds(self.world):
                count = shape_of(self.world, kind).count
                packets |= {(k, kind): (count, count + parity_of(self.world, kind)) for k in devices if k in granted}
            expected.append(Expected(session, packets))
            told: dict[str, Any] = {"name": session.name, "key": session.key, "address": self.address}
            notes[node] = ConfigRecord(told | {"bit_per_s": float(self.bit_per_s)})
        self.gateway.open_round(plan.round_, expected)
        return notes

    def close(self, plan: Plan, counts: NDArray[np.float32], answered: set[int]) -> Arrival:
        """End a round: uploads with the packets that arrived, the outcome, and the counts of the links after it."""
        heard, size = self.gateway.close_round(self.quiet_s), len(plan.uploads)
        arrived = [np.zeros((size, count), np.bool_) for count in self.world.format.segments]
        uploads, taken, sent = list(plan.uploads), np.zeros((2, size)), np.zeros((2, size))
        for row, upload in enumerate(plan.uploads):
            for name, kind in PACKETS.items():
                parts = heard.parts.get((upload.device, kind), {})
                pieces = self._pieces(parts, kind, heard)
                arrived[kind][row, list(pieces)] = True
                told: dict[str, Any] = {name: self._packet(pieces, kind, plan.round_, upload.device)}
                uploads[row] = replace(uploads[row], **told)
                shape = shape_of(self.world, kind)
                counts_here = upload.device in answered and plan.allocation.beta[row] > 0
                taken[kind, row] = len(parts) if counts_here else 0.0
                sent[kind, row] = (shape.count + parity_of(self.world, kind)) if counts_here else 0.0
        sent[MODULUS] *= self.world.scheme.uplink == "split"
        after = counted(counts, [u.device for u in plan.uploads], taken, sent)
        return Arrival(uploads, self._outcome(*arrived), after, heard)

    def _pieces(self, parts: Mapping[int, Datagram], kind: int, heard: Heard) -> dict[int, bytes]:
        """The pieces of a packet that are had, by number: those that came, or all where parity tells them."""
        shape, found = shape_of(self.world, kind), list(parts.values())
        length = shape.length(self.world.format.packets.size)
        try:
            whole = join(found, shape.count * length)
        except PacketError:
            heard.counts["refused"] += len(found)
            return {}
        if whole is not None:
            return {i: whole[i * length : (i + 1) * length] for i in range(shape.count)}
        return {d.number: d.payload for d in found if d.number < shape.count}

    def _packet(self, pieces: Mapping[int, bytes], kind: int, round_: int, device: int) -> bytes:
        if not pieces:
            return b""
        try:
            return rebuild(pieces, shape_of(self.world, kind), self.world.format.packets, round_, device)
        except PacketError:
            return b"\0"  # a node that sends pieces of two packets: refused by the decoder, and counted

    def _outcome(self, sign: Bools, modulus: Bools) -> Outcome:
        if self.world.config.channel.recovery == "segment":
            return by_segment(sign, modulus)
        whole = np.asarray(sign.all(1))
        with_modulus = modulus.all(1) if self.world.scheme.uplink == "split" else np.ones_like(whole)
        return Outcome(whole, whole & np.asarray(with_modulus))

    def measured(self, link: Link, cohort: Sequence[int], counts: NDArray[np.float32]) -> Link:
        """The link with measured rates in place of the channel model's."""
        first, second = self.world.format.segments
        pieces = Pieces(first, second, parity_of(self.world, SIGN), self.world.config.channel.recovery)
        return measured_link(link, cohort, counts, pieces)

    def counts(self, memory: Mapping[str, Any]) -> NDArray[np.float32]:
        """What is known of the links before a round."""
        found: NDArray[np.float32] | None = memory.get(COUNTS)
        return new_counts(self.world.config.data.devices) if found is None else found


@dataclass(frozen=True)
class Arrival:
    """What a round's datagrams made: uploads with their packets, the outcome, counts of the links, and all heard."""

    uploads: Sequence[Upload]
    outcome: Outcome
    counts: NDArray[np.float32]
    heard: Heard
