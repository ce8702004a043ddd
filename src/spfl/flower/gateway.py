"""The server's end of packets that travel as UDP datagrams: a socket, and who may send to it.

A thread hears the socket. A datagram counts if its session is one of the round and its seal fits, if it is of a device
of that node, and comes for the first time; everything else is dropped and counted by kind, and changes nothing. What a
flood can do is fill the kernel's buffer, so that good datagrams are lost: it costs packets, as a bad link does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from spfl.errors import FlowerError, PacketError
from spfl.packets.datagrams import Datagram, open_datagram
from spfl.packets.sealed import Session, name_of, unseal

BUFFER, LARGEST, TICK_S = 2**23, 65536, 0.05
KEPT_NAMES = 4096  # of sessions that are over: their datagrams are late, or were recorded and sent again


@dataclass(frozen=True)
class Expected:
    """What one node may send in a round: (device, kind) -> datagrams of data, and all with parity."""

    session: Session
    packets: Mapping[tuple[int, int], tuple[int, int]]


@dataclass
class Heard:
    """What came in a round: datagrams by (device, kind) and number, and counts of what was not taken."""

    round_: int
    parts: dict[tuple[int, int], dict[int, Datagram]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class Gateway:
    """A UDP socket at `listen` ("host:port"), heard for as long as the context lasts."""

    def __init__(self, listen: str) -> None:
        self._listen = split_address(listen, "flower.udp_listen")
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._sessions: dict[bytes, Expected] = {}
        self._over: dict[bytes, None] = {}
        self._heard, self._last = Heard(0), 0.0
        self._thread = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Gateway:
        host, port = self._listen
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise FlowerError(f"flower.udp_listen {host}:{port} cannot be used: {error.strerror or error}") from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise FlowerError(f"flower.udp_listen {host}:{port} cannot be used: {error.strerror or error}") from None
        self._socket.settimeout(TICK_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def open_round(self, round_: int, expected: Sequence[Expected]) -> None:
        """From now on, hear these nodes; all others are refused."""
        with self._lock:
            self._over |= dict.fromkeys(self._sessions)
            self._over = dict.fromkeys(list(self._over)[-KEPT_NAMES:])
            self._sessions = {one.session.name: one for one in expected}
            self._heard = Heard(round_)

    def close_round(self, quiet_s: float) -> Heard:
        """Wait until all is there, or nothing new has come for `quiet_s`; what came. Later ones are late."""
        began = time.monotonic()
        while not self._complete() and time.monotonic() < max(began, self._last) + quiet_s:
            time.sleep(0.01)
        with self._lock:
            heard, self._heard = self._heard, Heard(0)
            self._over |= dict.fromkeys(self._sessions)
            self._sessions = {}
        return heard

    def _complete(self) -> bool:
        with self._lock:
            wanted = sum(all_ for one in self._sessions.values() for _, all_ in one.packets.values())
            return sum(map(len, self._heard.parts.values())) >= wanted

    def _hear(self) -> None:
        while not self._stop.is_set():
            try:
                sealed = self._socket.recv(LARGEST)
            except TimeoutError:
                continue
            except OSError:  # an ICMP error of a stranger's making; the socket lives on
                continue
            with self._lock:
                self._heard.counts[self._take(sealed)] += 1

    def _take(self, sealed: bytes) -> str:
        """Keep a datagram if it is to be believed; says what it was."""
        try:
            name = name_of(sealed)
            expected = self._sessions.get(name)
            if expected is None:
                return "late" if name in self._over else "foreign"
            datagram = open_datagram(unseal(expected.session, sealed))
        except PacketError:
            return "forged" if len(sealed) > LEAST else "foreign"
        key = datagram.device, datagram.kind
        fits = expected.packets.get(key) == (datagram.data, datagram.all_) and datagram.round_ == self._heard.round_
        if not fits:
            return "refused"
        parts = self._heard.parts.setdefault(key, {})
        if datagram.number in parts:
            return "replayed"
        parts[datagram.number] = datagram
        self._last = time.monotonic()
        return "received"


LEAST = 24  # bytes: shorter than any session's name and seal


def split_address(text: str, key: str) -> tuple[str, int]:
    """Host and port of "host:port". Raises FlowerError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise FlowerError(f"{key} must be HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)
