"""The devices' side of a round, computed by worker threads that share one set of weights.

Each worker owns a copy of the network and runs torch on one thread, so a gradient does not depend on how many
workers there are; results come back in the order of the cohort. PyTorch and the codec release the interpreter
lock, so threads keep all cores busy without copying data between processes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import get_native_id, local
from types import TracebackType
from typing import TypeVar

import torch

from spfl.arrays import Vector
from spfl.data.dataset import to_inputs
from spfl.errors import PacketError
from spfl.flat_model import STATISTICS, FlatModel
from spfl.learning.local import SHARED, Local, LocalTask, checked_local, configured, kept_key
from spfl.machine import cores
from spfl.own_code import called
from spfl.rng import Purpose, stream
from spfl.uplink.reception import receive
from spfl.uplink.upload import Origin, Upload, encode, silent
from spfl.world.attack import FIRST_ROUND, disguise, tamper
from spfl.world.state import ServerState
from spfl.world.world import World

Score = tuple[float, float, int]  # mean loss, score, samples
Item = TypeVar("Item")
Result = TypeVar("Result")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LAST_ACTS_S = 1.0  # no longer than that: a number may be that of a new thread
EVAL_CHUNK = 500  # images evaluated at a time; fixed, because the order of sums is part of reproducibility


@dataclass(frozen=True)
class Work:
    """A device's upload, and the seconds its gradient and its packets took."""

    upload: Upload
    gradient_s: float
    encode_s: float


class ThreadFleet:
    """Worker threads that compute gradients and evaluate; a context manager. `threads`: as configured, unless given."""

    receive = staticmethod(receive)

    def __init__(self, world: World, threads: int | None = None) -> None:
        self._world = world
        self._local = local()
        self._native_ids: list[int] = []
        keep_freed_memory()
        self._pool = ThreadPoolExecutor(threads or world.config.workers or cores(), initializer=self._start_worker)

    def __enter__(self) -> ThreadFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        _wait_ended(self._native_ids)
        del self._pool  # it refers back to this fleet: data would stay in memory until the next full collection

    def _start_worker(self) -> None:
        torch.set_num_threads(1)
        self._native_ids.append(get_native_id())
        self._local.model = self._world.model()

    def _map(self, function: Callable[[FlatModel, Item], Result], items: Iterable[Item]) -> list[Result]:
        return list(self._pool.map(lambda item: function(self._local.model, item), items))

    def uploads(self, server: ServerState, cohort: Iterable[int], round_: int) -> tuple[list[Upload], float]:
        """Every device's upload in cohort order, and the share of the time that went into making packets."""
        cohort = list(cohort)
        pairs = zip(cohort, self._world.models(server, cohort, round_), strict=True)
        work = self._map(lambda model, pair: self._work(model, server, pair[1], pair[0], round_), pairs)
        gradient_s, encode_s = sum(w.gradient_s for w in work), sum(w.encode_s for w in work)
        return [w.upload for w in work], encode_s / max(gradient_s + encode_s, 1e-9)

    def _work(self, model: FlatModel, server: ServerState, weights: Vector | None, device: int, round_: int) -> Work:
        world = self._world
        if weights is None:
            return Work(silent(world.format, device), 0.0, 0.0)
        started = time.perf_counter()
        attack, moment = world.config.attack if device in world.hostile else None, round_
        if attack is not None and attack.kind in ("replay", "stale"):
            weights, moment = world.start().weights, FIRST_ROUND
        model.load_statistics(server.memory.get(STATISTICS))
        gradient, loss, kept = local_gradient(world, model, torch.from_numpy(weights), device, moment, server.memory)
        if attack is not None:
            gradient = disguise(attack, gradient, seed=world.config.seed, round_=round_, device=device)
        middle = time.perf_counter()
        try:
            sent = moment if attack is not None and attack.kind == "replay" else round_
            origin = Origin(device, sent, len(world.parts[device]), loss)
            upload = encode(world.format, gradient, server.memory, origin)
            upload = upload if kept is None else replace(upload, kept=kept)
            upload = replace(upload, statistics=model.statistics()) if model.traits.statistics else upload
        except PacketError:  # a gradient that is not finite: the device is out of this round
            upload = silent(world.format, device)
        upload = upload if attack is None else tamper(attack, upload)
        return Work(upload, middle - started, time.perf_counter() - middle)

    def evaluate(self, weights: Vector, statistics: Vector | None = None) -> tuple[float, float]:
        """(mean loss, score) on the whole test (or validation) part; `statistics` are those of BatchNorm."""
        starts = range(0, len(self._world.dataset.test_labels), EVAL_CHUNK)
        return mean_score(self.scores(weights, starts, statistics))

    def scores(self, weights: Vector, starts: Sequence[int], statistics: Vector | None = None) -> list[Score]:
        """The score of each chunk of test samples that begins at one of `starts`."""
        images, labels = self._world.dataset.test_inputs, self._world.dataset.test_labels
        flat = torch.from_numpy(weights)

        def chunk(model: FlatModel, start: int) -> Score:
            model.load(flat)
            model.load_statistics(statistics)
            part = slice(start, start + EVAL_CHUNK)
            loss, accuracy = model.evaluate(images[part], labels[part], lambda x: to_inputs(x, self._world.dataset))
            return loss, accuracy, len(labels[part])

        return self._map(chunk, starts)


def mean_score(scores: Sequence[Score]) -> tuple[float, float]:
    """(mean loss, score) of chunks, summed in their order."""
    size = sum(count for _, _, count in scores)
    return sum(loss * count for loss, _, count in scores) / size, sum(a * count for _, a, count in scores) / size


def _wait_ended(native_ids: Iterable[int]) -> None:
    """Until the system has ended threads that Python has joined, which it does before their last acts.

    As its last act a thread gives back what MKL and PyTorch keep for it, and holds their locks. A process that is
    forked meanwhile has the locks and not the thread, and waits for ever.
    """
    until = time.monotonic() + LAST_ACTS_S
    for number in native_ids:
        while os.path.exists(f"/proc/self/task/{number}") and time.monotonic() < until:
            time.sleep(1e-4)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 32 MB a block: the activations of the next minibatch take its place.

    Without it every minibatch may hand its activations back to the system and fault them in again, page by page: up to
    a quarter of the time of a small CNN (benchmarks/limit.py). Elsewhere than with glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 25)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def local_gradient(
    world: World, model: FlatModel, weights: torch.Tensor, device: int, round_: int, memory: Mapping[str, Vector] = {}
) -> Local:
    """What a device sends, its loss, and what it keeps: by the local rule of the world (`spfl.learning.local`)."""
    task = LocalTask(
        weights,
        world.config.training,
        memory.get(kept_key(device)),
        memory.get(SHARED),
        model,
        world.dataset,
        world.parts[device],
        stream(world.config.seed, round_, device, Purpose.BATCH),
    )
    rule = world.custom.local
    return configured(task) if rule is None else checked_local(called("local", rule, task), world.layout.size)
