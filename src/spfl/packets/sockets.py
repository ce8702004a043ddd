"""Two ends of a loopback link, each a process: a shim that erases datagrams, and the server's socket.

A process that is started imports this module anew, so it needs NumPy and the format of datagrams, and no more.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

from spfl.errors import PacketError
from spfl.packets.datagrams import DSCP, open_datagram

HOST, BUFFER, WAIT_S = "127.0.0.1", 2**22, 2.0
Loss = Mapping[tuple[int, int], float]  # (device, kind) -> probability that a datagram is erased


def until_left(life: Callable[..., None], pipe: Connection, *arguments: float | None) -> None:
    """The life of a process; it ends without a word when whoever started it is gone."""
    with suppress(EOFError, ConnectionError):
        life(pipe, *arguments)


def mark(sender: socket.socket, kind: int) -> None:
    """Give what is sent from here on the code point of its kind."""
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP.get(kind, 0) << 2)


def bound() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    bound.bind((HOST, 0))
    bound.settimeout(WAIT_S)
    return bound


def relay(pipe: Connection, rate_bit_per_s: float | None) -> None:
    """The shim: forwards to the server's port what it does not erase, and tells how many that were."""
    with bound() as inbound, bound() as outbound:
        server, device = pipe.recv()
        inbound.connect((HOST, device))
        outbound.connect((HOST, server))
        pipe.send((inbound.getsockname()[1], outbound.getsockname()[1]))
        while (order := pipe.recv()) is not None:
            loss, seed, count = order
            rng, forwarded = np.random.default_rng(seed), 0
            pipe.send("ready")
            for raw in _received(inbound, count):
                if rng.random() >= _chance(loss, raw):
                    with suppress(ConnectionRefusedError):  # of a server that is gone: whoever asks it will tell
                        outbound.send(raw)
                    forwarded += 1
                if rate_bit_per_s:
                    time.sleep(8 * len(raw) / rate_bit_per_s)
            pipe.send(forwarded)


def _chance(loss: Loss, raw: bytes) -> float:
    """That a datagram is erased: 1 for one that is of no device of the round."""
    try:
        datagram = open_datagram(raw)
    except PacketError:
        return 1.0
    return loss.get((datagram.device, datagram.kind), 1.0)


def _received(inbound: socket.socket, count: int) -> Iterator[bytes]:
    """At most `count` datagrams; the rest is lost on loopback when none comes for a while, and counted as erased."""
    for _ in range(count):
        try:
            yield inbound.recv(65536)
        except (TimeoutError, ConnectionRefusedError):
            return


def serve(pipe: Connection) -> None:
    """The server's socket: hands over what came, once as many came as were forwarded, or in vain."""
    with bound() as inbound:
        pipe.send(inbound.getsockname()[1])
        inbound.connect((HOST, pipe.recv()))
        while (count := pipe.recv()) is not None:
            pipe.send(list(_received(inbound, count)))
