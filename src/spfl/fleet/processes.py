"""The devices' side of a round in several processes: for machines of more cores than one interpreter keeps busy.

Each process is a `ThreadFleet` of its own. Data and network come with the fork, in shared pages (where there is no
fork, they are pickled once); a round sends the server's state and brings back uploads. Results have the bits of one
process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from spfl.arrays import Vector
from spfl.fleet.threads import EVAL_CHUNK, ThreadFleet, mean_score
from spfl.fleet.workers import Failure, Worker
from spfl.learning.server import OWN
from spfl.machine import cores
from spfl.uplink.reception import receive
from spfl.uplink.upload import Upload
from spfl.world.state import ServerState
from spfl.world.world import World


class ProcessFleet:
    """As `ThreadFleet`, the devices dealt out to `config.processes` processes. Raises WorkerError when one is lost."""

    receive = staticmethod(receive)

    def __init__(self, world: World) -> None:
        config = world.config
        threads = max(1, (config.workers or cores()) // config.processes)
        self._images = len(world.dataset.test_labels)
        self._members = [Worker[Any, Any](_Member(world, threads)) for _ in range(config.processes)]

    def __enter__(self) -> ProcessFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.stop()

    def uploads(self, server: ServerState, cohort: Iterable[int], round_: int) -> tuple[list[Upload], float]:
        """See `ThreadFleet.uploads`."""
        cohort, count = list(cohort), len(self._members)
        memory = {name: array for name, array in server.memory.items() if not name.startswith(OWN)}
        told = replace(server, velocity=server.velocity[:0], memory=memory, allocation=None)  # what devices need
        answers = self._ask([("uploads", told, cohort[i::count], round_) for i in range(count)])
        dealt = [iter(part) for part, _ in answers]
        share = sum(len(part) * share for part, share in answers) / max(len(cohort), 1)
        return [next(dealt[i % count]) for i in range(len(cohort))], share

    def evaluate(self, weights: Vector, statistics: Vector | None = None) -> tuple[float, float]:
        """See `ThreadFleet.evaluate`."""
        starts, count = range(0, self._images, EVAL_CHUNK), len(self._members)
        asked = [("scores", weights, starts[i::count], statistics) for i in range(count)]
        dealt = [iter(part) for part in self._ask(asked)]
        return mean_score([next(dealt[i % count]) for i in range(len(starts))])

    def _ask(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What each member answers to its request."""
        for member, request in zip(self._members, requests, strict=True):
            member.give(request)
        answers = []
        for member in self._members:
            wait(member.handles())
            _, answer = member.take()
            if isinstance(answer, Failure):
                raise answer.error("a worker process was lost")
            answers.append(answer)
        return answers


class _Member:
    """One process: a fleet that is opened there, when the first request comes."""

    def __init__(self, world: World, threads: int) -> None:
        self._world, self._threads = world, threads

    @cached_property
    def _fleet(self) -> ThreadFleet:
        return ThreadFleet(self._world, self._threads)

    def __call__(self, request: tuple[Any, ...]) -> Any:
        name, *arguments = request
        return getattr(self._fleet, name)(*arguments)
