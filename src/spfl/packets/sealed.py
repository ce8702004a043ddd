"""Authenticated datagrams: session (8 bytes) | a datagram of `packets.datagrams` | HMAC-SHA-256, cut to 16 bytes.

A session is one node in one round. Its name and key are random, told to the node over TLS; so a datagram of another
node, of another round, or of nobody in particular is refused before anything in it is believed.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NamedTuple

from spfl.errors import PacketError

NAME_BYTES, KEY_BYTES, TAG_BYTES = 8, 32, 16
OVERHEAD_BYTES = NAME_BYTES + TAG_BYTES


class Session(NamedTuple):
    """Who may send in a round: a name that travels in clear, and a key that does not."""

    name: bytes
    key: bytes


def new_session() -> Session:
    """A session that nobody can guess."""
    return Session(secrets.token_bytes(NAME_BYTES), secrets.token_bytes(KEY_BYTES))


def seal(session: Session, datagram: bytes) -> bytes:
    """The datagram as it travels."""
    body = session.name + datagram
    return body + hmac.digest(session.key, body, "sha256")[:TAG_BYTES]


def name_of(sealed: bytes) -> bytes:
    """The session that a datagram names, whether it is of it or not. Raises PacketError for one that is too short."""
    if len(sealed) < OVERHEAD_BYTES:
        raise PacketError(f"sealed datagram must have at least {OVERHEAD_BYTES} bytes, got {len(sealed)}")
    return sealed[:NAME_BYTES]


def unseal(session: Session, sealed: bytes) -> bytes:
    """The datagram. Raises PacketError unless the holder of the session's key sealed it."""
    body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    if name_of(sealed) != session.name or not hmac.compare_digest(
        tag, hmac.digest(session.key, body, "sha256")[:TAG_BYTES]
    ):
        raise PacketError("sealed datagram is not of this session")
    return body[NAME_BYTES:]
