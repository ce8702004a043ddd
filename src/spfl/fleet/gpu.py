"""A whole round on one PyTorch device: minibatches, gradients and evaluation; packets where `gpu_packets` has them.

The host gets the side information (model.md, section 2), shares the resources and draws what arrives, by the same code
as for worker threads. Minibatches, rotations and dither are those of the worker threads, so both ways meet the same
numbers, and differ in the last bits of sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from types import TracebackType

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from spfl.arrays import State, Vector
from spfl.data.dataset import draw_moves, mirrored, moved, to_inputs
from spfl.data.partitioning import batch_indices
from spfl.errors import ConfigError, named
from spfl.flat_model import drawing, evaluating
from spfl.fleet.gpu_packets import Chunk, packets_for, small
from spfl.fleet.gpu_steps import Steps
from spfl.fleet.graphs import Graphs
from spfl.models import ChannelsLast
from spfl.rng import Purpose, stream
from spfl.uplink.format import Format
from spfl.uplink.reception import Arrived, Update
from spfl.uplink.upload import Upload, silent
from spfl.world.state import ServerState
from spfl.world.torch_device import repeatable, use_device
from spfl.world.world import World

EVAL_CHUNK = 1000
CPU_CHUNK = 4  # devices whose gradients are computed at a time
MEMORY_SHARE = 0.4  # of a GPU's memory, for the activations and code words of a chunk
WORDS = 12  # 8-byte words a parameter that a chunk's codec holds at its largest
PASSES = 4  # a layer's outputs are held so many times over: forward, backward, workspace


class TorchFleet:
    """As `threads.ThreadFleet`, on the PyTorch device of the configuration, with a `receive` of its own."""

    def __init__(self, world: World) -> None:
        assert world.config.torch_device is not None
        self._world, self._device = world, use_device(world.config.torch_device)
        self._packets = packets_for(world, self._device)
        self._data = world.dataset.on(self._device)
        model = world.model()
        self._task, self._draws = model.task, model.traits.draws
        self._module = _without_memory_format(model.module).to(self._device)
        self._many: Callable[..., tuple[torch.Tensor, ...]] = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0))
        self._looped = not self._takes_vmap()
        if self._device.type == "cuda" and small(world):
            self._many = Graphs(self._many)
        self._steps = None if world.config.training.one_gradient else Steps(world, self._module, self._data)

    def __enter__(self) -> TorchFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the device's memory back, which other processes wait for; a garbage collection does not see it."""
        self._packets.close()
        del self._many, self._steps, self._module, self._data  # `_many` knows this object: a cycle
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # --- the devices' side ---------------------------------------------------------------------------------------

    @repeatable()
    def uploads(self, server: ServerState, cohort: Iterable[int], round_: int) -> tuple[list[Upload], float]:
        """Every device's side information in cohort order, and the share of the time that went into packets.

        Raises ConfigError when the device has too little memory.
        """
        try:
            return self._uploads(server, list(cohort), round_)
        except torch.OutOfMemoryError:
            name, many = self._world.config.torch_device, min(self.chunk, self._world.config.cohort)
            raise ConfigError(
                f"torch_device {name!r} is out of memory with {many} devices at a time: let less run on it at once "
                "(--workers of a sweep), or lower training.batch_size or model.width"
            ) from None

    def _uploads(self, server: ServerState, cohort: list[int], round_: int) -> tuple[list[Upload], float]:
        world = self._world
        weights = torch.from_numpy(server.weights).to(self._device)
        received = [k for k, w in zip(cohort, world.models(server, cohort, round_), strict=True) if w is not None]
        found = {k: silent(world.format, k) for k in cohort}
        chunks = self._chunks if self._steps is None else self._stepped
        spent, began = [0.0, 0.0], self._now()
        for chunk in chunks(weights, received, round_, server.memory):
            middle = self._now()
            uploads = self._packets.encode(chunk, server.memory)
            found |= {k: replace(upload, kept=chunk.kept.get(k)) for k, upload in uploads.items()}
            ended = self._now()
            spent, began = [spent[0] + middle - began, spent[1] + ended - middle], ended
        return [found[k] for k in cohort], spent[1] / max(sum(spent), 1e-9)

    def _chunks(
        self, weights: torch.Tensor, cohort: Sequence[int], round_: int, _: Mapping[str, Vector]
    ) -> Iterator[Chunk]:
        """One gradient a device, of as many devices at once as fit."""
        for number, (members, batch) in enumerate(self._batches(cohort, round_)):
            gradients, losses = self._gradients(weights, *batch)
            yield Chunk(round_, number, gradients, list(zip(members, losses.tolist(), strict=True)))

    def _stepped(
        self, weights: torch.Tensor, cohort: Sequence[int], round_: int, memory: Mapping[str, Vector]
    ) -> Iterator[Chunk]:
        """Local steps, one device after the other."""
        assert self._steps is not None
        for number, start in enumerate(range(0, len(cohort), self.chunk)):
            members = cohort[start : start + self.chunk]
            made = [self._steps.take(weights, k, round_, memory) for k in members]
            vectors = torch.from_numpy(np.stack([local.vector for local in made])).to(self._device)
            kept = {k: local.kept for k, local in zip(members, made, strict=True) if local.kept is not None}
            yield Chunk(round_, number, vectors, [(k, m.loss) for k, m in zip(members, made, strict=True)], kept)

    def _now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _batches(
        self, cohort: Sequence[int], round_: int
    ) -> Iterator[tuple[list[int], tuple[torch.Tensor, torch.Tensor, Sequence[int | None]]]]:
        """Devices with minibatches of one size, a chunk at a time: inputs (device, sample, ...), labels and seeds."""
        training, seed = self._world.config.training, self._world.config.seed
        by_size: dict[int, list[tuple[int, np.ndarray, np.ndarray, np.ndarray, int | None]]] = {}
        for k in cohort:
            rng = stream(seed, round_, k, Purpose.BATCH)
            index = batch_indices(self._world.parts[k], training.batch_size, rng)
            flips = rng.random(len(index)) < 0.5 if training.flip else np.zeros(len(index), np.bool_)
            moves = draw_moves(len(index), training.crop_px, rng)
            by_size.setdefault(len(index), []).append((k, index, flips, moves, self._seed(rng)))
        for rows in by_size.values():
            for start in range(0, len(rows), self.chunk):
                members, index, flips, moves, seeds = zip(*rows[start : start + self.chunk], strict=True)
                places = torch.from_numpy(np.stack(index)).to(self._device)
                images = self._data.train_inputs[places.flatten()]
                if training.flip:
                    images = mirrored(images, np.concatenate(flips))
                if training.crop_px:
                    images = moved(images, np.concatenate(moves))
                inputs = self._inputs(images).view(*places.shape, *images.shape[1:])
                yield list(members), (inputs, self._data.train_labels[places], seeds)

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        return to_inputs(images, self._data)

    def _seed(self, rng: np.random.Generator) -> int | None:
        return int(rng.integers(2**63)) if self._draws else None

    def _gradients(
        self, weights: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, seeds: Sequence[int | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients (device, dim) and mean losses (device,), in float32."""
        if not self._looped:
            gradients, losses = self._many(weights, inputs, labels)
            return gradients, losses
        rows = [self._one(weights, *row) for row in zip(inputs, labels, seeds, strict=True)]
        return torch.stack([gradient for gradient, _ in rows]), torch.stack([loss for _, loss in rows])

    def _loss(self, flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._task.loss(functional_call(self._module, self._views(flat), (x,)), y)
        return loss

    def _one(
        self, weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor, seed: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of one device: for networks that draw, or that vmap cannot take, such as an LSTM."""
        flat = weights.clone().requires_grad_()
        with nullcontext() if seed is None else drawing(seed):
            loss = self._loss(flat, x, y)
        return torch.autograd.grad(loss, flat)[0], loss.detach()

    def _takes_vmap(self) -> bool:
        """Whether gradients of several devices can be taken at once. Raises ConfigError where not even one can."""
        inputs, labels = self._inputs(self._data.train_inputs[:2]), self._data.train_labels[:2]
        parameters = dict(self._module.named_parameters())
        weights = torch.cat([parameters[name].detach().flatten() for name in self._world.layout.names])
        try:
            if not self._draws:
                self._many(weights, inputs[:, None], labels[:, None])
                return True
        except Exception:  # PyTorch raises what it likes for what it cannot take
            pass
        try:
            self._one(weights, inputs, labels, 0 if self._draws else None)
        except Exception as error:
            raise ConfigError(
                "torch_device must be absent with a network that torch.func.functional_call cannot take, got "
                f"{named(error)}; worker threads can"
            ) from None
        return False

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        layout = self._world.layout
        parts = flat.split(layout.sizes)
        return {name: part.view(shape) for name, part, shape in zip(layout.names, parts, layout.shapes, strict=True)}

    @cached_property
    def chunk(self) -> int:
        """Devices at a time: a function of the machine and the configuration alone, so that a run repeats itself."""
        if self._device.type != "cuda":
            return CPU_CHUNK
        outputs = _outputs_per_image(self._module, self._inputs(self._data.train_inputs[:1]))
        each = 4 * PASSES * outputs * self._world.config.training.batch_size + 8 * WORDS * self._world.layout.size
        memory = torch.cuda.get_device_properties(self._device).total_memory
        return max(1, int(MEMORY_SHARE * memory / each))

    # --- the server's side ---------------------------------------------------------------------------------------

    @repeatable()
    def receive(self, form: Format, arrived: Arrived, state: State) -> Update:
        """See `reception.receive`, by whoever made the packets."""
        return self._packets.receive(form, arrived, state)

    @repeatable()
    def evaluate(self, weights: Vector, statistics: Vector | None = None) -> tuple[float, float]:
        """(mean loss, score) on the whole test (or validation) part."""
        data, views = self._data, self._views(torch.from_numpy(weights).to(self._device))
        loss, score = 0.0, 0.0
        with torch.inference_mode(), evaluating(self._module):
            for images, labels in zip(
                data.test_inputs.split(EVAL_CHUNK), data.test_labels.split(EVAL_CHUNK), strict=True
            ):
                totals = self._task.totals(functional_call(self._module, views, (self._inputs(images),)), labels)
                loss, score = loss + totals[0], score + totals[1]
        return loss / len(data.test_labels), score / len(data.test_labels)


def _without_memory_format(module: nn.Module) -> nn.Module:
    """The network in which images keep the order that vmap knows; parameters and their names stay."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, ChannelsLast):
                setattr(parent, name, nn.Identity())
    return module


def _outputs_per_image(module: nn.Module, image: torch.Tensor) -> int:
    """Elements of all layers' outputs for one image (1, channels, height, width)."""
    count = 0

    def add(_: nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel()

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if not list(layer.children())]
    with torch.inference_mode():
        module(image)
    for hook in hooks:
        hook.remove()
    return count
