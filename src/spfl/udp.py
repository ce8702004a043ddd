"""The two packets as real UDP datagrams between processes, through a shim that erases them as the radio would.

    devices (this process) -> shim (erasures by the link's success probabilities, a rate limit) -> server process

Each socket is connected to the one it hears, so the kernel drops what anybody else sends to its port; what does not
belong to the round is counted as damaged, and ends nothing. Loopback stands for the network; the shim is in user
space, because many kernels have no netem. Each datagram is a segment with a fade of its own (`fading = independent`):
the shim drops it with the probability 1 - q that the model of the same configuration has, so a run over sockets
equals the emulated one in distribution.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from spfl.config.schema import Config
from spfl.config.section import unmet
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, WorkerError
from spfl.fleet.threads import ThreadFleet
from spfl.packets.datagrams import MODULUS, SIGN, Datagram, cut, interleave, join, open_datagram
from spfl.packets.sockets import HOST, Loss, bound, mark, relay, serve, until_left
from spfl.radio.outage import Outcome, by_segment, success
from spfl.radio.selective import RadioLaw
from spfl.rng import Purpose, server_stream
from spfl.training import Known, Plan, RoundRecord, Stopwatch, complete, evaluated, prepare
from spfl.uplink.upload import Upload
from spfl.world.world import World


class End:
    """A process at one end of the link, and the pipe to it. Raises WorkerError once the process is gone."""

    def __init__(self, name: str, life: Callable[..., None], *arguments: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=until_left, args=(life, theirs, *arguments), daemon=True)

    def tell(self, what: Any) -> None:
        with self._there():
            self._pipe.send(what)

    def hear(self) -> Any:
        with self._there():
            return self._pipe.recv()

    @contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.process.join(5.0)
            raise WorkerError(f"the {self._name} ended with exit code {self.process.exitcode}") from error


class Wire:
    """A shim process and a server process on loopback sockets; a context manager. Raises WorkerError."""

    def __init__(self, rate_bit_per_s: float | None = None) -> None:
        self._server, self._shim = End("server", serve), End("shim", relay, rate_bit_per_s)
        self._processes = [self._server.process, self._shim.process]
        self._sender = bound()
        # at the end of this process at the latest: `multiprocessing` would wait for ever, since SIGTERM is withheld
        Finalize(self, _kill, args=(self._processes,), exitpriority=1)

    def __enter__(self) -> Wire:
        try:
            with _signals_withheld():
                for process in self._processes:
                    process.start()
            self._shim.tell((self._server.hear(), self._sender.getsockname()[1]))  # whom to send to, whom to hear
            port, outbound = self._shim.hear()
            self._server.tell(outbound)
            self._sender.connect((HOST, port))
        except BaseException:
            _kill(self._processes)
            self._sender.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._shim, self._server):
            with suppress(OSError, WorkerError):  # of a process that is gone
                end.tell(None)
        for process in self._processes:
            process.join(5.0)
        _kill(self._processes)
        self._sender.close()

    def send(self, datagrams: Sequence[bytes], loss: Loss, seed: Sequence[int]) -> list[bytes]:
        """Send in this order; returns what the server's socket received."""
        self._shim.tell((dict(loss), tuple(seed), len(datagrams)))
        self._shim.hear()
        for i, raw in enumerate(datagrams):
            mark(self._sender, raw[0])
            with suppress(ConnectionRefusedError):  # of a shim that is gone, as the next line tells
                self._sender.send(raw)
            if i % 64 == 63:
                time.sleep(0.002)  # a burst larger than the socket's buffer would be lost on loopback itself
        self._server.tell(self._shim.hear())
        received: list[bytes] = self._server.hear()
        return received


def _kill(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        if process.pid is not None:
            process.kill()


@contextmanager
def _signals_withheld() -> Iterator[None]:
    """What is started in here gets no signal of the terminal, which sends to all processes: its end is decided here.

    A signal that comes meanwhile is heeded afterwards, so that no process is left half started.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # else the first start starts it, and it unblocks the signals
    numbers, came = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), list[int]()
    handlers = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def exchange(wire: Wire, world: World, uploads: Sequence[Upload], plan: Plan) -> tuple[Outcome, dict[str, int]]:
    """Send the packets of a round; what arrived, and counts of datagrams sent, received and damaged."""
    segments, loss, groups = world.format.segments, _loss(world, plan), ([], [])  # type: ignore[var-annotated]
    for k, upload in enumerate(uploads):
        for kind, packet in ((SIGN, upload.sign_packet), (MODULUS, upload.modulus_packet)):
            if packet and plan.allocation.beta[k] > 0:
                more = world.format.parity if kind == SIGN else 0
                groups[kind].append(cut(packet, segments[kind], more, kind, k, plan.round_))
    datagrams = [raw for group in groups for raw in interleave(group)]  # signs first
    seed = server_stream(world.config.seed, plan.round_, Purpose.SCHEME).integers(2**32, size=4).tolist()
    received = wire.send(datagrams, loss, seed)
    found, damaged = _sorted(received, set(datagrams))
    arrived = [np.zeros((len(uploads), count), np.bool_) for count in segments]
    for (k, kind), parts in found.items():
        packet = uploads[k].sign_packet if kind == SIGN else uploads[k].modulus_packet
        whole = join(parts, len(packet))
        numbers = range(segments[kind]) if whole else [d.number for d in parts if d.number < segments[kind]]
        arrived[kind][k, list(numbers)] = True
    return by_segment(*arrived), {"sent": len(datagrams), "received": len(received), "damaged": damaged}


def _sorted(received: Sequence[bytes], sent: Set[bytes]) -> tuple[dict[tuple[int, int], list[Datagram]], int]:
    """Datagrams by device and kind, and how many were none of those that were sent, whatever their CRC says."""
    found: dict[tuple[int, int], list[Datagram]] = {}
    for raw in received:
        if raw in sent:
            datagram = open_datagram(raw)
            found.setdefault((datagram.device, datagram.kind), []).append(datagram)
    return found, sum(raw not in sent for raw in received)


def _loss(world: World, plan: Plan) -> Loss:
    a, law = plan.allocation, world.radio.law
    if isinstance(law, RadioLaw):
        each = law.sent_success(plan.link, a.beta, a.alpha, a.rho)
    else:  # each packet is one datagram: the closed form, where the modulus has a fade of its own
        whole = success(plan.link, a.beta, a.alpha, a.rho)
        each = whole.q_s, whole.r_m
    return {(k, kind): 1.0 - float(each[kind][k]) for k in range(a.beta.size) for kind in (SIGN, MODULUS)}


def run_over_udp(
    config: Config, dataset: Dataset, *, rate_bit_per_s: float | None = None
) -> Iterator[tuple[RoundRecord, dict[str, int]]]:
    """`training.run` with every packet sent as datagrams. Raises ConfigError for what datagrams cannot carry."""
    world = World.build(config, dataset)
    check(world)
    with Wire(rate_bit_per_s) as wire:
        yield from rounds_over(wire, world)


def rounds_over(wire: Wire, world: World) -> Iterator[tuple[RoundRecord, dict[str, int]]]:
    """The rounds of a world over a wire, and what `exchange` counted in each."""
    server = world.start()
    with ThreadFleet(world) as fleet:
        for round_ in range(1, world.config.training.rounds + 1):
            clock = Stopwatch()
            uploads, _ = fleet.uploads(server, world.cohort(round_, server.memory), round_)
            plan = prepare(world, server, uploads, round_, clock)
            arrived, counts = exchange(wire, world, uploads, plan)
            record = complete(world, server, plan, clock, Known(outcome=arrived))
            del uploads, plan  # as in `training.train`
            server = record.server
            yield evaluated(world, record, fleet.evaluate, clock), counts


def check(world: World) -> None:
    """Raises ConfigError unless packets are cut into segments with fades of their own, and sent once."""
    channel = world.config.channel
    keys = {"fading": "independent", "recovery": "segment", "link": "outage", "doppler_hz": None}
    wanted = {f"channel.{key}": (getattr(channel, key), value) for key, value in keys.items()}
    if line := unmet("packets over UDP", {"torch_device": (world.config.torch_device, None)} | wanted):
        raise ConfigError(line)
    if world.scheme.uplink not in ("split", "sign") or world.scheme.attempts > 1:
        raise ConfigError(f"scheme {world.scheme.name} sends no datagrams; take one with sign packets, such as sp_fl")
