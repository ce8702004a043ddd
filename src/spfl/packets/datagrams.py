"""A packet as datagrams on the wire: numbered, checked, sign first and interleaved; parity by zfec (extra `udp`).

kind, number, data datagrams, all datagrams (1 byte each) | device, round (4 each) | CRC-32 of all else (4) | payload
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from spfl.errors import ConfigError, PacketError

_HEADER = struct.Struct("<4BIII")
HEADER_BYTES = _HEADER.size
SIGN, MODULUS = 0, 1
DSCP = {SIGN: 46, MODULUS: 10}  # expedited forwarding (RFC 3246), assured forwarding AF11 (RFC 2597)


class Datagram(NamedTuple):
    """One datagram, taken apart."""

    kind: int
    number: int
    data: int
    all_: int
    device: int
    round_: int
    payload: bytes


def cut(packet: bytes, count: int, parity: int, kind: int, device: int, round_: int) -> list[bytes]:
    """A packet as `count` datagrams of equal shares, and `parity` more: any `count` of all tell the packet.

    Raises ConfigError for more than 255 in all.
    """
    if not 0 < count <= count + parity <= 255:
        raise ConfigError(f"a packet must make at most 255 datagrams, got {count} + {parity}; raise mtu")
    size = -(-len(packet) // count)
    blocks = [packet[i * size : (i + 1) * size].ljust(size, b"\0") for i in range(count)]
    blocks = list(_fec().Encoder(count, count + parity).encode(blocks)) if parity else blocks
    return [_seal(Datagram(kind, i, count, count + parity, device, round_, block)) for i, block in enumerate(blocks)]


def _seal(d: Datagram) -> bytes:
    check = zlib.crc32(_HEADER.pack(d.kind, d.number, d.data, d.all_, d.device, d.round_, 0) + d.payload)
    return _HEADER.pack(d.kind, d.number, d.data, d.all_, d.device, d.round_, check) + d.payload


def open_datagram(raw: bytes) -> Datagram:
    """Raises PacketError for a datagram that is damaged."""
    if len(raw) < HEADER_BYTES:
        raise PacketError(f"datagram length must be at least {HEADER_BYTES}, got {len(raw)}")
    kind, number, data, all_, device, round_, check = _HEADER.unpack_from(raw)
    found = Datagram(kind, number, data, all_, device, round_, raw[HEADER_BYTES:])
    if zlib.crc32(_HEADER.pack(*found[:-1], 0) + found.payload) != check:
        raise PacketError("datagram CRC-32 does not agree")
    return found


def join(found: Sequence[Datagram], length: int) -> bytes | None:
    """The packet of `length` bytes from any `data` of its datagrams; None from fewer."""
    by_number = {d.number: d.payload for d in found}
    if not found or len(by_number) < found[0].data:
        return None
    data, numbers = found[0].data, sorted(by_number)[: found[0].data]
    blocks = [by_number[n] for n in numbers]
    if numbers[-1] >= data:
        blocks = _fec().Decoder(data, found[0].all_).decode(blocks, numbers)
    return b"".join(blocks)[:length]


def interleave(packets: Sequence[Sequence[bytes]]) -> list[bytes]:
    """First all devices' first datagrams, then their second: a burst of losses hits many packets a little."""
    longest = max(map(len, packets), default=0)
    return [packet[i] for i in range(longest) for packet in packets if i < len(packet)]


def _fec():  # type: ignore[no-untyped-def]
    try:
        import zfec
    except ModuleNotFoundError:
        raise ConfigError("parity needs zfec: pip install 'spfl[udp]'") from None
    return zfec
