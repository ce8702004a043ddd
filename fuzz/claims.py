"""Hostile side information through a round, for schemes and defences. python fuzz/claims.py [COUNT [SEED [admit]]]

A round of real uploads, in which one to three of six devices claim what they like: their numbers are replaced by
zeros, the largest and smallest floats, NaN, infinities, turned in sign, or multiplied by a power of ten; so are their
gradients, where these are sent. It goes through `prepare` and `complete`. No exception may come of it, the weights
stay finite, shares of the bandwidth stay within the cap, the cap on a vector's length stays within the honest devices'
own while less than half lie, and the step is no longer than the scheme's rule can make of vectors of that length
(`longest_step`); the noise that an analogue receiver adds is drawn again and taken off first. With `admit` it is the
server's first look alone, ten times as fast.
"""

from __future__ import annotations

import math
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from spfl.config.schema import SchemeConfig, build_config
from spfl.data.sources import load_dataset
from spfl.fleet.threads import ThreadFleet
from spfl.radio.over_the_air import noise_variance, receive_power
from spfl.schemes import SCHEMES
from spfl.training import Plan, RoundRecord, Stopwatch, complete, prepare
from spfl.uplink.admission import FLOAT32_MAX, admit, claimed_norm, norm_limit
from spfl.uplink.delivery import analog_unit
from spfl.uplink.reception import Arrived, aggregation_weights, normalizes
from spfl.uplink.robust import RobustRule
from spfl.uplink.upload import Upload, describe
from spfl.world.state import ServerState
from spfl.world.world import World

SCALARS = ("v2", "vbar2", "v_vbar", "delta2", "loss", "samples")
ARRAYS = ("tensor_means", "output_bias", "gradient")
EXTREMES = [0.0, -1.0, 1e-45, 1e-300, 3.4e38, 1e39, 1e77, 1e308, -1e308, math.inf, -math.inf, math.nan]
CAPS = {"device_clip": 1.5, "max_samples": 2.0, "max_share": 0.3}
DEFENCES: list[dict[str, Any]] = [{}, CAPS, *(CAPS | {"aggregation": rule} for rule in get_args(RobustRule))]
RARELY = {"fedtoe": 25, "drive_exact": 12}  # slow ones: as many times they come less often
OPTIMISED = 6
Made = tuple[World, ServerState, list[Upload]]
SLACK = 1e-5  # relative, of sums of float32


def worlds(schemes: Iterable[str] = tuple(SCHEMES)) -> list[Made]:
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
told: Counter[str] = Counter()  # numbers and arrays that were other than honest, by name


def _round(world: World, server: ServerState, uploads: list[Upload]) -> tuple[Plan, RoundRecord]:
    plan = prepare(world, server, uploads, 1, Stopwatch())
    return plan, complete(world, server, plan, Stopwatch())


def lie(rng: random.Random, upload: Upload) -> Upload:
    """The upload with one to three of its claims replaced."""
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice((*SCALARS, *ARRAYS))
        if name == "gradient":
            upload = _other_gradient(rng, upload)
            continue
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


def _other_gradient(rng: random.Random, upload: Upload) -> Upload:
    """Another one than it claims, where the gradient itself is sent."""
    if upload.gradient is None:
        return upload
    with np.errstate(over="ignore", invalid="ignore"):
        return replace(upload, gradient=upload.gradient * np.float32(_value(rng, 1.0)))


def false_claims(honest: Upload, said: Upload) -> Iterator[str]:
    """Names of what is another than honest."""
    yield from (name for name in SCALARS if getattr(honest, name) != getattr(said, name))
    yield from (name for name in ARRAYS if getattr(honest, name) is not getattr(said, name))


def _value(rng: random.Random, now: float) -> float:
    return rng.choice(EXTREMES) if rng.random() < 0.5 else now * 10.0 ** rng.randrange(-40, 40) * rng.choice((1, 1, -1))


def check(world: World, server: ServerState, plan: Plan, record: RoundRecord) -> None:
    """Raises AssertionError for a round in which the lie did harm."""
    settings, config = world.config.scheme, world.config.training
    assert np.isfinite(record.server.weights).all()
    assert record.allocation.beta.min() >= 0.0
    cap = settings.max_share
    assert record.allocation.beta.max() <= (1.0 if cap is None else max(cap, 1 / len(plan.uploads))) + 1e-6
    if settings.device_clip is None:
        return
    moved = record.server.weights.astype(np.float64) - server.weights
    if world.scheme.uplink == "analog" and world.scheme.rule == "mean":
        moved += config.rate * receiver_noise(world, plan, record)
    rounding = np.spacing(np.abs(server.weights).max()) * math.sqrt(moved.size)
    assert np.linalg.norm(moved) <= (1.0 + SLACK) * config.rate * longest_step(world, server, plan, record) + rounding


def longest_step(world: World, server: ServerState, plan: Plan, record: RoundRecord) -> float:
    """The longest aggregate of a first round that the scheme's rule can make of vectors within the cap.

    Averaged: the sum of the weights of those received, times the cap. By coordinate: half of n values (of their moduli)
    are no smaller than their median, so its squares add up to 2 caps^2 at most; n / (n - 2 cut) caps^2 when cut. The
    output bias is side information with a cap of its own.
    """
    uploads, settings, rule = plan.uploads, world.config.scheme, world.scheme.rule
    if rule == "vote":
        largest = np.max([upload.tensor_means for upload in uploads], axis=0)
        return float(np.linalg.norm(world.format.layout.expand(largest)))
    cap, bias = norm_limit(settings, uploads), max(float(np.linalg.norm(u.output_bias)) for u in uploads)
    if settings.aggregation != "mean":
        times = math.sqrt(max(_by_coordinate(settings, n + 1) for n in range(len(uploads))))
        return times * math.hypot(cap, bias)
    if normalizes(world.format) or world.scheme.uplink == "analog":
        return math.hypot(cap, bias)
    arrived = Arrived(1, uploads, record.outcome, record.allocation, plan.told)
    weight = aggregation_weights(world.format, arrived, server.memory)
    return math.hypot(cap * float(weight[record.outcome.sign].sum()), bias)


def _by_coordinate(settings: SchemeConfig, count: int) -> float:
    cut = min(int(settings.trim * count), (count - 1) // 2)
    return count / (count - 2 * cut) if settings.aggregation == "trimmed_mean" else 2.0


def receiver_noise(world: World, plan: Plan, record: RoundRecord) -> NDArray[np.floating]:
    """What the receiver of an analogue mean added to the aggregate, (dim,): the next numbers of its own stream."""
    samples = sum(u.samples for u, sent in zip(plan.uploads, record.outcome.sign, strict=True) if sent)
    power_w = receive_power(plan.link, record.allocation.beta > 0)
    if not (samples and power_w):
        return np.zeros(1)
    spread = math.sqrt(noise_variance(plan.link, power_w)) * analog_unit(plan.uploads) / samples
    return spread * world.radio.noise(1).standard_normal(world.format.layout.size, np.float32).astype(np.float64)


def check_cap(world: World, honest: list[Upload], believed: Sequence[Upload], liars: int) -> None:
    """While less than half of the devices lie, the caps are within what they are of the honest ones alone."""
    settings = world.config.scheme
    if settings.device_clip is None or settings.max_samples is None or 2 * liars >= len(believed):
        return
    longest = settings.device_clip * max(claimed_norm(upload) for upload in honest)
    assert norm_limit(settings, believed) <= (1.0 + SLACK) * longest
    most = math.ceil(settings.max_samples * max(upload.samples for upload in honest))
    assert max(upload.samples for upload in believed) <= most


def check_believed(believed: Sequence[Upload]) -> None:
    """What the server works with is what a gradient can have, in numbers whose squares and sums are finite."""
    for u in believed:
        assert all(0.0 <= square <= FLOAT32_MAX for square in (u.v2, u.vbar2, u.delta2))
        assert 0.0 <= u.v_vbar <= 1.01 * math.sqrt(u.v2) * math.sqrt(u.vbar2)
        assert math.isfinite(claimed_norm(u))
        assert np.isfinite(u.output_bias).all()
        assert (u.tensor_means >= 0.0).all()
        assert np.isfinite(u.tensor_means).all()
    weight = describe(believed).weight
    assert math.isclose(weight.sum(), 1.0) or not weight.any()
    assert (weight >= 0.0).all()


def lies(count: int, seed: int, made: list[Made]) -> Iterator[tuple[Made, list[Upload], int]]:
    """So many rounds' uploads with lies in them, and how many lied."""
    rng = random.Random(seed)
    for one in rng.choices(made, [_often(world) for world, _, _ in made], k=count):
        uploads, liars = list(one[2]), rng.sample(range(len(one[2])), rng.choice((1, 1, 2, 3)))
        for liar in liars:
            uploads[liar] = lie(rng, uploads[liar])
            told.update(false_claims(one[2][liar], uploads[liar]))
        yield one, uploads, len(liars)


def fuzz(count: int, seed: int = 0, schemes: Iterable[str] = tuple(SCHEMES)) -> Counter[str]:
    """What came of so many rounds with lies; raises AssertionError, or whatever escapes, for one that does harm."""
    found, made = Counter[str](), worlds(schemes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of sums that overflow: what comes of them is checked
        for (world, server, honest), uploads, liars in lies(count, seed, made):
            plan, record = _round(world, server, uploads)
            check_believed(plan.uploads)
            check_cap(world, honest, plan.uploads, liars)
            check(world, server, plan, record)
            found["refused" if record.rejected else "believed or capped"] += 1
    return found


def fuzz_admission(count: int, seed: int = 0) -> Counter[str]:
    """The server's first look alone, `admit`, which is all that stands between a claim and what is decided by it."""
    found, made = Counter[str](), worlds()
    with np.errstate(all="ignore"):
        for (world, _, honest), uploads, liars in lies(count, seed, made):
            believed = admit(world.format, uploads)
            check_believed(believed)
            check_cap(world, honest, believed, liars)
            found["believed or capped" if all(u.samples for u in believed) else "refused"] += 1
    return found


def _often(world: World) -> float:
    return 1.0 / RARELY.get(world.scheme.name, 1 if world.scheme.solver == "uniform" else OPTIMISED)


if __name__ == "__main__":
    words, began = sys.argv[1:], time.perf_counter()
    numbers, tried = [int(word) for word in words[:2]] or [20_000], fuzz_admission if words[2:] == ["admit"] else fuzz
    ended = dict(tried(*numbers))
    print(f"{told.total()} false claims: {dict(sorted(told.items()))}")
    print(ended, f"{numbers[0]} rounds in {time.perf_counter() - began:.0f} s, nothing else came of any")
    print(f"not taken: {dict(found_why)}")
