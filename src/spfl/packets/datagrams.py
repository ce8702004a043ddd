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
    """Raises PacketError for a datagram that is damaged, or whose numbers no sender of `cut` writes."""
    if len(raw) < HEADER_BYTES:
        raise PacketError(f"datagram length must be at least {HEADER_BYTES}, got {len(raw)}")
    kind, number, data, all_, device, round_, check = _HEADER.unpack_from(raw)
    found = Datagram(kind, number, data, all_, device, round_, raw[HEADER_BYTES:])
    if zlib.crc32(_HEADER.pack(*found[:-1], 0) + found.payload) != check:
        raise PacketError("datagram CRC-32 does not agree")
    if kind not in DSCP or not number < all_ or not 0 < data <= all_:
        raise PacketError(f"datagram {number} of {data} and {all_}, of kind {kind}, cannot be")
    return found


def join(found: Sequence[Datagram], length: int) -> bytes | None:
    """The packet of `length` bytes from any `data` of its datagrams; None from fewer.

    Raises PacketError when they are not of one packet of that length: other counts, other sizes, a number beyond.
    """
    if not found:
        return None
    data, all_, size = found[0].data, found[0].all_, len(found[0].payload)
    if not 0 < data <= all_ <= 255 or size != -(-length // data):
        raise PacketError(f"{data} of {all_} datagrams of {size} bytes make no packet of {length}")
    if any((d.data, d.all_, len(d.payload)) != (data, all_, size) or not 0 <= d.number < all_ for d in found):
        raise PacketError("datagrams are not of one packet")
    by_number = {d.number: d.payload for d in found}
    if len(by_number) < data:
        return None
    numbers = sorted(by_number)[:data]
    blocks = [by_number[n] for n in numbers]
    if numbers[-1] >= data:
        blocks = _decoded(blocks, numbers, data, all_)
    return b"".join(blocks)[:length]


def _decoded(blocks: list[bytes], numbers: list[int], data: int, all_: int) -> list[bytes]:
    zfec = _fec()
    try:
        return list(zfec.Decoder(data, all_).decode(blocks, numbers))
    except zfec.Error as error:
        raise PacketError(f"parity cannot be decoded: {error}") from None


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
