"""Hostile answers of nodes: read as they should be, or a PacketError. python fuzz/answers.py [COUNT [SEED]]

Every input is an answer that a node of this package gave (who it is, side information, packets, a score), in which one
to three things are changed: a record or a value is taken away, doubled or put elsewhere, numbers become others or of
another type, texts grow, arrays get other bytes, shapes, types or names. It is read as the server reads it. Nothing but
a PacketError may come of it, and what is read goes through `admit` and is decoded.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.errors import PacketError
from spfl.fleet.threads import ThreadFleet
from spfl.flower import protocol, records
from spfl.uplink.admission import admit
from spfl.world.world import World

CONFIG: dict[str, Any] = {
    "workers": 1,
    "data": {"devices": 4},
    "model": {"name": "softmax"},
    "training": {"rounds": 2, "batch_size": 8},
    "channel": {"median_snr_db": 6.0},
    "scheme": {"name": "sp_fl_plus_1"},
}
NUMBERS = [0, 1, -1, 3, 4, 2**31, 2**53, 2**62, -(2**62), 0.0, 1e308, -1e308, math.nan, math.inf, -math.inf]
OTHERS: list[Any] = [*NUMBERS, True, "", "x" * 10**5, "\x1b[2J", b"", [], [0] * 1000, [1, 2], [math.nan], ["a"]]
DTYPES = ["float32", "float64", "uint8", "int64", "object", "O", ">f4", "V8", "", "nonsense"]


class Answers:
    """The honest answers of a node with all devices of a small world, and how each is read."""

    def __init__(self) -> None:
        self.world = World.build(build_config(CONFIG), load_dataset("digits"))
        server, self.devices = self.world.start(), self.world.cohort(1)
        with ThreadFleet(self.world) as fleet:
            self.uploads, _ = fleet.uploads(server, self.devices, 1)
        hello = protocol.Hello(
            0, 1, protocol.identity_of(self.world), "{}", 10, 4, protocol.GreySums((90,), (5,), (9,))
        )
        packets = records.packets_record(self.uploads, self.world)
        self.kinds: list[tuple[RecordDict, Callable[[RecordDict], object]]] = [
            (protocol.hello_content(hello), protocol.read_hello),
            (protocol.refusal_content("no data"), protocol.read_hello),
            (protocol.report_content(1, self.uploads), self._report),
            (protocol.upload_content(1, self.devices, packets), self._packets),
            (protocol.score_content(0.5, 0.25, 4), lambda content: protocol.read_score(content, 4, "accuracy")),
        ]

    def _report(self, content: RecordDict) -> object:
        return admit(self.world.format, protocol.read_report(content, 1, self.devices, self.world))

    def _packets(self, content: RecordDict) -> object:
        protocol.check_upload(content, 1, self.devices)
        return protocol.read_packets(content, list(self.uploads), self.world)


def mutate(rng: random.Random, honest: RecordDict) -> RecordDict:
    """A copy with one to three changes."""
    records: dict[str, dict[str, Any]] = {name: dict(record.items()) for name, record in honest.items()}
    kinds = {name: type(record) for name, record in honest.items()}
    for _ in range(rng.randrange(1, 4)):
        if not records:
            break
        name = rng.choice(list(records))
        way = rng.randrange(10)
        if way == 0:
            del records[name], kinds[name]
        elif way == 1:
            other = rng.choice(["hello", "refusal", "report", "side", "sums", "upload", "packets", "score"])
            records[other], kinds[other] = records[name], kinds[name]
        elif records[name]:
            _spoil(rng, records[name], kinds[name] is ArrayRecord)
    made = RecordDict()
    for name, values in records.items():
        made[name] = kinds[name](values)
    return made


def _spoil(rng: random.Random, values: dict[str, Any], arrays: bool) -> None:
    key = rng.choice(list(values))
    way = rng.randrange(6)
    if way == 0:
        del values[key]
    elif way == 1:
        values[rng.choice(["a", *values])] = values[key]
    elif arrays:
        values[key] = _spoilt_array(rng, values[key])
    elif isinstance(values[key], list) and values[key] and way < 4:
        place, same = rng.randrange(len(values[key])), type(values[key][0])
        row = list(values[key])
        row[place] = same(rng.choice([n for n in NUMBERS if math.isfinite(n) or same is float]))
        values[key] = row
    else:
        values[key] = rng.choice(OTHERS)


def _spoilt_array(rng: random.Random, array: Array) -> Array:
    dtype, shape, stype, data = array.dtype, tuple(array.shape), array.stype, array.data
    way = rng.randrange(6)
    if way == 0:
        dtype = rng.choice(DTYPES)
    elif way == 1:
        shape = rng.choice([(), (0,), (10**12, 2), (-1, 2), shape[::-1], (*shape, 1), shape[1:]])
    elif way == 2:
        stype = rng.choice(["numpy.ndarray", "", "pickle"])
    elif way == 3:
        data = rng.choice([b"", data[:-1], data + data, rng.randbytes(len(data))])
    elif data:
        spoilt = bytearray(data)
        if way == 4:
            spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            kind = dtype if dtype in ("float64", "int64") else "f4"
            value = np.array([rng.choice(NUMBERS)], np.float64).astype(kind).tobytes()
            place = rng.randrange(0, max(1, len(data) - 7), max(1, len(value)))
            spoilt[place : place + len(value)] = value
            del spoilt[len(data) :]
        data = bytes(spoilt)
    return Array(dtype, shape, stype, data)


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """What came of so many answers; raises whatever escapes, and AssertionError for what should not have been read."""
    rng, found, words, answers = random.Random(seed), Counter[str](), list[str](), Answers()
    with np.errstate(all="ignore"):
        for _ in range(count):
            honest, read = rng.choice(answers.kinds)
            content = mutate(rng, honest)
            try:
                told = read(content)
            except PacketError as error:
                words.append(protocol.brief(str(error)))
                continue
            if isinstance(told, protocol.Hello):
                assert all(len(text) <= 4 * protocol.MOST_TEXT for text in (told.versions, told.identity.data))
            found["read"] += 1
    assert all(text.isprintable() and len(text) <= 4 * protocol.MOST_TEXT for text in words)
    return found + Counter(refused=len(words))


if __name__ == "__main__":
    numbers, began = [int(word) for word in sys.argv[1:]] or [100_000], time.perf_counter()
    found = dict(fuzz(*numbers))
    print(found, f"{numbers[0]} answers in {time.perf_counter() - began:.0f} s, nothing else came of any")
