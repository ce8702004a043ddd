"""The flat view of a network's parameters that the radio sees: one vector of weights, one of gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import nn

from spfl.arrays import Vector
from spfl.errors import ConfigError
from spfl.own_code import failing
from spfl.packets.layout import Layout
from spfl.tasks import CLASSIFICATION, Task

STATISTICS = "model/statistics"  # where the server's memory holds the running statistics, float32 (statistics,)
NETWORK = "the network"  # what it is called where it fails
DRAWING = Lock()  # held while a network draws from generators that all threads share


@dataclass(frozen=True)
class Traits:
    """What a network does beside computing: found by a dry pass, see `world.dry_pass`.

    draws: whether its passes draw random numbers, as dropout does. statistics: names of the float buffers that training
    passes change, as those of BatchNorm. least_batch: fewest samples that a training pass can take.
    """

    draws: bool = False
    statistics: tuple[str, ...] = ()
    least_batch: int = 1


PLAIN = Traits()


class FlatModel:
    """A module whose parameters are views into one vector `weights`, and their gradients into one vector `gradient`.

    Both are float32 of shape (dim,), tensors in `layout` order, each contiguous whatever the memory format of the
    activations; backward writes into `gradient` directly, nothing is concatenated. One FlatModel per thread.
    Frozen parameters (without requires_grad) are in neither; a tied one is there once.
    """

    def __init__(self, module: nn.Module, task: Task = CLASSIFICATION, traits: Traits = PLAIN) -> None:
        self.module, self.task, self.traits = module, task, traits
        self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()} if traits.statistics else {}
        parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        names = tuple(name for name, _ in parameters)
        self.layout = Layout(names=names, shapes=tuple(tuple(p.shape) for _, p in parameters))
        self.dim = sum(self.layout.sizes)
        device = parameters[0][1].device
        self.weights = torch.empty(self.dim, device=device, dtype=torch.float32)
        self.gradient = torch.zeros(self.dim, device=device, dtype=torch.float32)
        slots = zip(self._views(self.weights), self._views(self.gradient), strict=True)
        for (_, parameter), (weight, gradient) in zip(parameters, slots, strict=True):
            weight.copy_(parameter.data)
            parameter.data = weight
            parameter.grad = gradient

    def _views(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        pieces = flat.split(self.layout.sizes)
        yield from (piece.view(shape) for piece, shape in zip(pieces, self.layout.shapes, strict=True))

    def load(self, flat_weights: torch.Tensor) -> None:
        """Copies `flat_weights` into the module; raises ConfigError unless its shape is (dim,)."""
        if flat_weights.shape != self.weights.shape:
            raise ConfigError(f"weights must have shape ({self.dim},), got {tuple(flat_weights.shape)}")
        self.weights.copy_(flat_weights)

    def loss_and_gradient(self, inputs: torch.Tensor, labels: torch.Tensor, seed: int | None = None) -> float:
        """Mean loss of the batch; leaves its gradient in `self.gradient` (overwritten by the next call).

        `seed`: of what the network draws, such as dropout; None for a network that draws nothing.
        """
        self.gradient.zero_()
        with torch.enable_grad():
            if seed is None:
                loss = self.task.loss(self._outputs(inputs), labels)
            else:
                with drawing(seed):
                    loss = self.task.loss(self._outputs(inputs), labels)
        with failing(NETWORK):
            loss.backward()
        return float(loss.item())

    def _outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the network makes of inputs. Raises ConfigError for whatever it raises, in any round."""
        with failing(NETWORK):
            outputs: torch.Tensor = self.module(inputs)
        return outputs

    def seed(self, rng: np.random.Generator) -> int | None:
        """The seed of the next pass, drawn from a device's stream; None, and nothing drawn, where it draws nothing."""
        return int(rng.integers(2**63)) if self.traits.draws else None

    # --- statistics: what BatchNorm keeps of its batches ----------------------------------------------------------

    def statistics(self) -> Vector:
        """The running statistics, float32 (statistics,), in the order of `traits.statistics`."""
        buffers = dict(self.module.named_buffers())
        return np.concatenate([buffers[name].flatten().numpy() for name in self.traits.statistics]).astype(np.float32)

    def load_statistics(self, values: Vector | None) -> None:
        """Sets the running statistics; None: those of the first round. Counts of batches begin anew."""
        if not self.traits.statistics:
            return
        for name, buffer in self.module.named_buffers():
            buffer.copy_(self._buffers[name])
        if values is None:
            return
        buffers = dict(self.module.named_buffers())
        for name, part in self.named_statistics(values).items():
            buffers[name].copy_(torch.from_numpy(part))

    def named_statistics(self, values: Vector) -> dict[str, Vector]:
        """The running statistics (statistics,) by the names and in the shapes of the module's buffers."""
        buffers, found, start = dict(self.module.named_buffers()), {}, 0
        for name in self.traits.statistics:
            end = start + buffers[name].numel()
            found[name] = values[start:end].reshape(tuple(buffers[name].shape)).copy()
            start = end
        return found

    def evaluate(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        to_inputs: Callable[[torch.Tensor], torch.Tensor],
        batch_size: int = 64,
    ) -> tuple[float, float]:
        """(mean loss, score) over all `inputs`, `batch_size` at a time, each batch through `to_inputs`.

        Dropout and batch statistics are off meanwhile.
        """
        loss, score = 0.0, 0.0
        with torch.inference_mode(), evaluating(self.module):
            for batch, targets in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
                totals = self.task.totals(self._outputs(to_inputs(batch)), targets)
                loss, score = loss + totals[0], score + totals[1]
        return loss / len(labels), score / len(labels)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A network in eval mode; afterwards each layer is in the mode in which it was."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, was in modes:
            layer.training = was


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """The global generators of PyTorch, NumPy and Python, seeded for one pass of a network that draws, then given back.

    They belong to the process, so one thread at a time may be in here.
    """
    with DRAWING, kept_generators():
        seed_generators(seed)
        yield


@contextmanager
def kept_generators() -> Iterator[None]:
    """What is drawn from the global generators inside is given back."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (the caller's, not ours)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)  # noqa: NPY002


def seed_generators(seed: int) -> None:
    """Seed the global generators of PyTorch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
