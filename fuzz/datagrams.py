"""Mutated datagrams: what was sent, a PacketError, or too few. python fuzz/datagrams.py [COUNT [SEED]]

Every input is a round's datagrams of one packet, of which one is flipped, cut, spliced, or given numbers of its own
with a CRC-32 that is made to fit, and some of which are lost or doubled. They are opened and joined. Nothing but a
PacketError may come of it; a packet that is joined has the length that was asked for, and without a forged CRC it is
the one that was sent.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from spfl.errors import PacketError
from spfl.packets.datagrams import HEADER_BYTES, Datagram, _seal, cut, join, open_datagram

SHAPES = [(1, 0), (2, 0), (4, 2), (3, 5), (100, 4)]  # data and parity datagrams
NUMBERS = [0, 1, 2, 3, 4, 7, 99, 103, 104, 254, 255]


def mutate(rng: random.Random, raw: bytes) -> tuple[bytes, bool]:
    """A changed datagram, and whether its CRC was made to fit."""
    kind = rng.randrange(4)
    if kind == 0:
        place = rng.randrange(8 * len(raw))
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        return bytes(changed), False
    if kind == 1:
        return raw[: rng.randrange(len(raw) + 1)], False
    if kind == 2:
        return rng.randbytes(rng.randrange(80)), False
    found = Datagram(
        rng.choice((0, 1, 2, 255)), *(rng.choice(NUMBERS) for _ in range(3)), rng.choice((0, 7, 2**32 - 1)), 1, b""
    )
    kept = open_datagram(raw)
    found = rng.choice((found, kept._replace(number=found.number), kept._replace(data=found.data, all_=found.all_)))
    size = rng.choice((len(raw) - HEADER_BYTES, 0, 1, rng.randrange(60)))
    return _seal(found._replace(payload=rng.randbytes(size))), True


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """What came of so many inputs; raises AssertionError, or whatever escapes, for one that does harm."""
    rng, found = random.Random(seed), Counter[str]()
    for _ in range(count):
        (data, parity), packet = rng.choice(SHAPES), rng.randbytes(rng.randrange(1, 200))
        raws = cut(packet, data, parity, rng.randrange(2), 7, 1)
        place = rng.randrange(len(raws))
        raws[place], forged = mutate(rng, raws[place])
        rng.shuffle(raws)
        found[_judge(raws[rng.randrange(2) :], packet, forged)] += 1
    return found


def _judge(raws: list[bytes], packet: bytes, forged: bool) -> str:
    opened, refused = [], False
    for raw in raws:
        try:
            opened.append(open_datagram(raw))
        except PacketError:
            refused = True
    try:
        joined = join(opened, len(packet))
    except PacketError:
        return "refused to join"
    if joined is None:
        return "refused, too few left" if refused else "too few"
    assert len(joined) == len(packet)
    assert forged or joined == packet
    return "joined" if joined == packet else "forged, joined"


if __name__ == "__main__":
    numbers, began = [int(word) for word in sys.argv[1:]] or [100_000], time.perf_counter()
    print(dict(fuzz(*numbers)), f"{numbers[0]} inputs in {time.perf_counter() - began:.0f} s, nothing else came of any")
