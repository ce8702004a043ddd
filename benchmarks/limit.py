"""A round against the fastest plain PyTorch for the same forward and backward passes, and what else it costs.

    python benchmarks/limit.py [--config configs/cifar10.toml] [--width 16] [--rounds 8] [--out DIR]

The work: a gradient of each of K devices over its own minibatch, same images, model and threads. Arrangements take
turns in every repetition, and what is reported is the median of the ratios within a repetition, for the machine is
never quite the same twice. "one big batch" has one gradient for all devices, so it is no substitute, but a bound on
any arrangement that shares one forward pass between devices. Rates are of float32 multiply-adds, counted by PyTorch,
against square matrix products in the same process. The data set falls back to random images when CIFAR-10 is absent.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import write
from torch.utils.flop_counter import FlopCounterMode

from spfl import training
from spfl.config.files import load_config
from spfl.config.schema import Config
from spfl.data.dataset import Dataset, to_inputs
from spfl.data.partitioning import batch_indices
from spfl.data.sources import load_dataset
from spfl.errors import DataError
from spfl.flat_model import FlatModel
from spfl.fleet.threads import keep_freed_memory
from spfl.rng import Purpose, stream
from spfl.world.world import World

CORES = os.cpu_count() or 1
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def images(name: str) -> Dataset:
    """The configured data, or noise of the same shape: times do not depend on what is in the images."""
    try:
        return load_dataset(name)
    except DataError:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (20000, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (20000,), generator=generator)
        return Dataset("noise", noise[:18000], labels[:18000], noise[18000:], labels[18000:], 10)


def batches(world: World, round_: int) -> Batches:
    """Every device's minibatch of a round as inputs and labels, already normalised."""
    data, size = world.dataset, world.config.training.batch_size
    found = []
    for device in world.cohort(round_):
        rng = stream(world.config.seed, round_, device, Purpose.BATCH)
        index = torch.from_numpy(batch_indices(world.parts[device], size, rng))
        found.append((to_inputs(data.train_inputs[index], data), data.train_labels[index]))
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def contiguous(model: FlatModel) -> FlatModel:
    """The small CNN without its first layer, which makes the activations channels-last; another network as it is."""
    module = model.module
    return FlatModel(module[1:]) if isinstance(module, torch.nn.Sequential) and len(module) > 6 else model


# --- arrangements: each takes the batches of a round, and leaves a gradient of each -----------------------------


def one_at_a_time(model: FlatModel, work: Batches) -> None:
    """A loop over devices, PyTorch's own threads inside each operation."""
    with threads(CORES):
        for inputs, labels in work:
            model.loss_and_gradient(inputs, labels)


def one_big_batch(model: FlatModel, work: Batches) -> None:
    with threads(CORES):
        model.loss_and_gradient(torch.cat([x for x, _ in work]), torch.cat([y for _, y in work]))


def vmap_of_grad(model: FlatModel, work: Batches) -> None:
    """Per-device gradients in one call of torch.func, which knows no channels-last."""
    module = contiguous(model).module
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(values: Any, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(module, values, (inputs,)), labels)

    with threads(CORES):
        per_device = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        per_device(parameters, torch.stack([x for x, _ in work]), torch.stack([y for _, y in work]))


class InThreads:
    """Python threads, each with a model of its own and PyTorch on one thread: what `fleet` does, and nothing else."""

    def __init__(self, models: list[FlatModel]) -> None:
        self._models = models
        self._pool = ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, _: FlatModel, work: Batches) -> None:
        todo = iter(work)  # handed out one by one, as they are done

        def drain(model: FlatModel) -> None:
            for inputs, labels in todo:
                model.loss_and_gradient(inputs, labels)

        list(self._pool.map(drain, self._models))


class InProcesses:
    """Forked processes, each with its share of the devices; batches and gradients lie in shared memory."""

    def __init__(self, world: World, work: Batches) -> None:
        self._x = torch.stack([x for x, _ in work]).share_memory_()
        self._y = torch.stack([y for _, y in work]).share_memory_()
        self._out = torch.zeros(len(work), world.layout.size).share_memory_()
        context = multiprocessing.get_context("fork")
        self._pipes, edges = [], np.linspace(0, len(work), CORES + 1).astype(int)
        for part in (slice(a, b) for a, b in pairwise(edges)):
            ours, theirs = context.Pipe()
            context.Process(target=self._serve, args=(world, part, theirs), daemon=True).start()
            self._pipes.append(ours)

    def _serve(self, world: World, part: slice, pipe: Any) -> None:
        torch.set_num_threads(1)
        model = world.model()
        while pipe.recv():
            for i in range(part.start, part.stop):
                model.loss_and_gradient(self._x[i], self._y[i])
                self._out[i] = model.gradient
            pipe.send(True)

    def __call__(self, _: FlatModel, work: Batches) -> None:
        for i, (inputs, labels) in enumerate(work):
            self._x[i], self._y[i] = inputs, labels
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()


def compiled(model: FlatModel) -> Callable[[FlatModel, Batches], None]:
    """The loop, with the network through torch.compile."""
    module = torch.compile(model.module)

    def run(_: FlatModel, work: Batches) -> None:
        with threads(CORES):
            for inputs, labels in work:
                model.gradient.zero_()
                F.cross_entropy(module(inputs), labels).backward()

    return run


# --- measurement --------------------------------------------------------------------------------------------------


def matrix_rate() -> float:
    """Multiply-adds a second of float32 square products, one a core at a time: the best of a few sizes."""
    best = 0.0
    with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for size in (256, 512, 1024):
            factors = [(torch.rand(size, size), torch.rand(size, size)) for _ in range(CORES)]
            for _ in range(4):
                began = time.perf_counter()
                list(pool.map(lambda pair: torch.mm(*pair), factors * 4))
                best = max(best, 4 * CORES * size**3 / (time.perf_counter() - began))
    return best


def multiply_adds(model: FlatModel, work: Batches) -> float:
    """Of one round's forward and backward passes."""
    with FlopCounterMode(display=False) as counter:
        model.loss_and_gradient(*work[0])
    return counter.get_total_flops() / 2 * len(work)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timed_round(records: Iterator[training.RoundRecord], spent: list[float]) -> training.RoundRecord:
    """The next round; its seconds, evaluation aside, are added to `spent`."""
    began = time.perf_counter()
    record = next(records)
    spent.append(time.perf_counter() - began - record.seconds.get("evaluate", 0.0))
    return record


def measure(config: Config, data: Dataset, rounds: int, compile_too: bool) -> dict[str, Any]:
    """Medians over `rounds` repetitions of ratios to the fastest arrangement; shares of a round by phase."""
    keep_freed_memory()
    world = World.build(config, data)
    model, first = world.model(), batches(world, 1)
    ways: dict[str, Callable[[FlatModel, Batches], None]] = {
        "processes": InProcesses(world, first),
        "threads": InThreads([world.model() for _ in range(CORES)]),
        "threads, contiguous": InThreads([contiguous(world.model()) for _ in range(CORES)]),
        "loop": one_at_a_time,
        "one big batch": one_big_batch,
        "vmap(grad)": vmap_of_grad,
    }
    if compile_too:
        ways["loop, torch.compile"] = compiled(world.model())
    for way in ways.values():
        way(model, first)
    names = (*ways, "spfl gradients", "spfl round", "spfl round, a process a core")
    rate, spent = matrix_rate(), {name: [] for name in names}
    phases: dict[str, list[float]] = {}
    records = training.train(world)
    in_processes = training.train(World.build(config.model_copy(update={"processes": CORES}), data))
    next(records)
    next(in_processes)
    for round_ in range(2, rounds + 2):
        work = batches(world, round_)
        for name, way in ways.items():
            spent[name].append(seconds(lambda way=way, work=work: way(model, work)))
        record = timed_round(records, spent["spfl round"])
        timed_round(in_processes, spent["spfl round, a process a core"])
        spent["spfl gradients"].append(record.seconds["gradients"])
        for phase, value in record.seconds.items():
            phases.setdefault(phase, []).append(value)
        rate = max(rate, matrix_rate())
    exact = [name for name in ways if name != "one big batch"]
    fastest = [min(spent[name][i] for name in exact) for i in range(rounds)]
    ratio = {
        name: statistics.median(s / f for s, f in zip(values, fastest, strict=True)) for name, values in spent.items()
    }
    adds = multiply_adds(model, first)
    round_s = sum(spent["spfl round"])
    return {
        "scheme": config.scheme.name,
        "model": f"{config.model.name}, {config.model.width} channels, d = {world.layout.size}",
        "devices": config.data.devices,
        "batch": config.training.batch_size,
        "repetitions": rounds,
        "cores": CORES,
        "ratio_to_fastest": ratio,
        "fastest": min(exact, key=lambda name: statistics.median(spent[name])),
        "share_of_round": {k: sum(v) / round_s for k, v in phases.items() if k != "evaluate"},
        "share_of_matrix_rate": adds / statistics.median(spent["spfl gradients"]) / rate,
        "share_of_matrix_rate_fastest": adds / statistics.median(fastest) / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cifar10.toml"))
    parser.add_argument(
        "--scheme", nargs="+", default=["error_free", "single_packet", "sp_fl", "sp_fl_plus_1", "sp_fl_plus"]
    )
    parser.add_argument(
        "--width", type=int, nargs="+", default=[16, 32], help="channels; all schemes at the first only"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="try torch.compile as well; takes minutes")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows, data = [], images(load_config(given.config).data.name)
    for width, schemes in [(given.width[0], given.scheme), *((w, given.scheme[-1:]) for w in given.width[1:])]:
        for scheme in schemes:
            overrides = [f"model.width={width}", f"scheme.name={scheme}", f"training.rounds={given.rounds + 2}"]
            config = load_config(given.config, [*overrides, "training.eval_every=1000"])
            rows.append(measure(config, data, given.rounds, given.compile and scheme == schemes[0]))
    write(given.out, "limit", rows)


if __name__ == "__main__":
    main()
