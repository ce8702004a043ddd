"""Hostile side information through a whole round, for schemes and defences. python fuzz/claims.py [COUNT]

A round of real uploads, in which one to three of six devices claim what they like: their numbers are replaced by
zeros, the largest and smallest floats, NaN, infinities, turned in sign, or multiplied by a power of ten. It goes
through `prepare` and `complete`. No exception may come of it, the weights stay finite, shares of the bandwidth stay
within the cap, and where received vectors are averaged or voted upon, the step is no longer than the cap on each of
them allows.
"""

from __future__ import annotations

import math
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.fleet.threads import ThreadFleet
from spfl.schemes import SCHEMES
from spfl.training import Ends, Plan, RoundRecord, Stopwatch, complete, prepare
from spfl.uplink.admission import norm_limit
from spfl.uplink.reception import normalizes
from spfl.uplink.upload import Upload
from spfl.world.state import ServerState
from spfl.world.world import World

SCALARS = ("v2", "vbar2", "v_vbar", "delta2", "loss", "samples")
EXTREMES = [0.0, -1.0, 1e-45, 1e-300, 3.4e38, 1e39, 1e77, 1e308, -1e308, math.inf, -math.inf, math.nan]
CAPS = {"device_clip": 1.5, "max_samples": 2.0, "max_share": 0.3}
DEFENCES: list[dict[str, Any]] = [{}, CAPS, CAPS | {"aggregation": "median"}, CAPS | {"aggregation": "sign_majority"}]


def worlds(schemes: Iterable[str] = tuple(SCHEMES)) -> list[tuple[World, ServerState, list[Upload]]]:
    """A world, its server and the uploads of its first round, for every scheme that takes the defence."""
    digits, found = load_dataset("digits"), []
    for name in schemes:
        for defence in DEFENCES:
            try:
                world = World.build(build_config({**BASE, "scheme": {"name": name} | defence}), digits)
                server = world.start()
                with ThreadFleet(world) as fleet:
                    uploads, _ = fleet.uploads(server, world.cohort(1), 1)
                _round(world, server, list(uploads))
            except Exception as error:  # a defence that the scheme refuses, in one line
                found_why[f"{name}: {error}"] += 1
                continue
            found.append((world, server, list(uploads)))
    return found


BASE: dict[str, Any] = {
    "workers": 1,
    "data": {"devices": 6},
    "model": {"name": "softmax"},
    "training": {"rounds": 2, "eval_every": 2, "batch_size": 8},
    "channel": {"median_snr_db": 6.0},
}
found_why: Counter[str] = Counter()


def _round(world: World, server: ServerState, uploads: list[Upload]) -> tuple[Plan, RoundRecord]:
    plan = prepare(world, server, uploads, 1, Stopwatch())
    return plan, complete(world, server, plan, Ends(lambda _: (0.0, 0.0)), Stopwatch())


def lie(rng: random.Random, upload: Upload) -> Upload:
    """The upload with one to three of its claims replaced."""
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice((*SCALARS, "tensor_means", "output_bias"))
        if name in ("tensor_means", "output_bias"):
            array = getattr(upload, name).copy()
            if array.size:
                with np.errstate(over="ignore"):
                    array[rng.randrange(array.size)] = np.float32(_value(rng, 1.0))
            upload = replace(upload, **{name: array})
            continue
        value = _value(rng, float(getattr(upload, name)))
        if name == "samples":
            value = int(value) if math.isfinite(value) else 2**63
        upload = replace(upload, **{name: value})
    return upload


def _value(rng: random.Random, now: float) -> float:
    return rng.choice(EXTREMES) if rng.random() < 0.5 else now * 10.0 ** rng.randrange(-40, 40) * rng.choice((1, 1, -1))


def check(world: World, server: ServerState, plan: Plan, record: RoundRecord) -> None:
    """Raises AssertionError for a round in which the lie did harm."""
    settings, moved = world.config.scheme, record.server.weights - server.weights
    assert np.isfinite(record.server.weights).all()
    assert record.allocation.beta.min() >= 0.0
    cap = settings.max_share
    assert record.allocation.beta.max() <= (1.0 if cap is None else max(cap, 1 / len(plan.uploads))) + 1e-6
    if settings.device_clip is None or not (normalizes(world.format) or settings.aggregation != "mean"):
        return
    longest = math.hypot(norm_limit(settings, plan.uploads), *(np.linalg.norm(u.output_bias) for u in plan.uploads))
    times = 1.0 if settings.aggregation == "mean" else math.sqrt(len(plan.uploads))  # coordinate by coordinate
    times = 3.0 if world.scheme.uplink == "analog" else times  # the receiver's noise comes on top
    assert np.linalg.norm(moved) <= 1.001 * world.config.training.rate * times * longest


def fuzz(count: int, seed: int = 0, schemes: Iterable[str] = tuple(SCHEMES)) -> Counter[str]:
    """What came of so many rounds with lies; raises AssertionError, or whatever escapes, for one that does harm."""
    rng, found, made = random.Random(seed), Counter[str](), worlds(schemes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of sums that overflow: what comes of them is checked
        for _ in range(count):
            world, server, honest = rng.choice(made)
            uploads = list(honest)
            for liar in rng.sample(range(len(uploads)), rng.choice((1, 1, 2, 3))):
                uploads[liar] = lie(rng, uploads[liar])
            plan, record = _round(world, server, uploads)
            check(world, server, plan, record)
            found["refused" if record.rejected else "believed or capped"] += 1
    return found


if __name__ == "__main__":
    total, began = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, time.perf_counter()
    print(dict(fuzz(total)), f"{total} rounds in {time.perf_counter() - began:.0f} s, nothing else came of any")
    print(f"not taken: {dict(found_why)}")
