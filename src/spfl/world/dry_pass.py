"""A network of the caller's, tried on a few images before the first round.

Everything that the rounds take for granted is looked at, by what the network does and not by the names of its layers:
it can be copied, it takes these inputs, its outputs fit the labels, its weights are those in the vector of the model,
each of them gets a gradient, and a gradient is a function of weights, batch and seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from spfl.custom import copy_module
from spfl.data.dataset import Dataset, to_inputs
from spfl.errors import ConfigError, SpflError, named
from spfl.flat_model import FlatModel, Traits, evaluating, kept_generators, seed_generators
from spfl.tasks import CLASSIFICATION, Task, expected_outputs
from spfl.world.torch_device import repeatable

IMAGES = 4  # enough for a batch, and two devices of two
PLAIN = (bool, int, float, str)  # attributes of a layer that may count its calls


@dataclass(frozen=True)
class Pass:
    """What came out of one forward and backward pass."""

    loss: float
    gradient: torch.Tensor

    def same(self, other: Pass) -> bool:
        return torch.equal(self.gradient, other.gradient) and self.loss == other.loss


@repeatable()
def check_network(module: nn.Module, dataset: Dataset, task: Task = CLASSIFICATION) -> Traits:
    """What a network does beside computing. Raises ConfigError, with what was expected and what came, for one that
    cannot be trained as it is meant.
    """
    size = min(IMAGES, len(dataset.train_labels))
    inputs, labels = to_inputs(dataset.train_inputs[:size], dataset), dataset.train_labels[:size]
    with kept_generators():
        model = _copied(module, task)
        before = _state_of(model.module)
        _check_outputs(model.module, inputs, expected_outputs(dataset, size))
        _check_gradients(model, inputs, labels)
        draws = _check_repeats(model, inputs, labels)
        statistics = _changed(model.module, before, _state_of(model.module))
        _check_evaluation(model.module, inputs)
        return Traits(draws, statistics, 1 if _takes_one(model, inputs, labels) else 2)


def _copied(module: nn.Module, task: Task) -> FlatModel:
    try:
        return FlatModel(copy_module(module), task)
    except SpflError:
        raise
    except Exception as error:
        raise ConfigError(
            f"module must be one that copy.deepcopy can copy, for worker threads, got {named(error)}; "
            "torch.nn.utils.parametrizations can be copied, hooks that keep tensors cannot"
        ) from None


def _check_outputs(module: nn.Module, inputs: torch.Tensor, shape: tuple[int, ...]) -> None:
    expected = f"module must return {shape} outputs (logits) for inputs {_shape(inputs)}"
    try:
        with torch.no_grad():
            logits: Any = module(inputs)
    except Exception as error:
        raise ConfigError(f"{expected}, got {named(error)}") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"{expected}, got a {type(logits).__name__}{_length(logits)}")
    if tuple(logits.shape) != shape or not logits.is_floating_point():
        raise ConfigError(f"{expected}, got {_shape(logits)} of {logits.dtype}")


def _check_gradients(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Each parameter has a part in the loss, and the vectors of the model are what forward and backward work on."""
    names = {name: p for name, p in model.module.named_parameters() if p.requires_grad}
    seed_generators(1)
    try:
        loss = model.task.loss(model.module(inputs), labels)
        found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"module must be differentiable by its parameters, got {named(error)}") from None
    unused = [name for name, part in zip(names, found, strict=True) if part is None]
    if unused:
        raise ConfigError(
            f"module.{unused[0]} must have a part in the loss, got no gradient; remove it, or use a buffer"
        )
    seed_generators(1)
    here = _pass(model, inputs, labels)
    start = model.weights.clone()
    model.load(start * 0.5 + 0.01)
    seed_generators(1)
    moved = _pass(model, inputs, labels)
    model.load(start)
    arrived = any(bool(part.any()) for part in found if part is not None) == bool(here.gradient.any())
    if not arrived or moved.same(here):
        raise ConfigError(
            f"module must read its weights from its parameters and leave gradients there, got a {_kind(model.module)} "
            "whose weights would never move; pass the plain module"
        )


def _check_repeats(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether a pass draws random numbers; what it draws must be all that tells two passes apart."""
    passes = []
    for seed in (1, 1, 2):
        seed_generators(seed)
        passes.append(_pass(model, inputs, labels))
    first, again, other = passes
    if not first.same(again):
        raise ConfigError(
            "module must give the same gradient for the same weights and batch, got another at the second call: "
            "it remembers earlier calls, and each worker has a copy of its own"
        )
    return not first.same(other)


def _check_evaluation(module: nn.Module, inputs: torch.Tensor) -> None:
    """In eval mode a network draws nothing, and takes a single sample."""
    shown = []
    for seed in (1, 2):
        seed_generators(seed)
        with torch.no_grad(), evaluating(module):
            shown.append(module(inputs))
    if not torch.equal(*shown):
        raise ConfigError(
            "module must draw nothing in eval mode, got two results for one batch; pass training=self.training to "
            "functional dropout"
        )
    try:
        with torch.no_grad(), evaluating(module):
            module(inputs[:1])
    except Exception as error:
        raise ConfigError(f"module must take a single sample in eval mode, got {named(error)}") from None


def _takes_one(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether a training pass can be of one sample, which batch statistics are not."""
    try:
        model.loss_and_gradient(inputs[:1], labels[:1])
    except Exception:
        return False
    return True


def _changed(module: nn.Module, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Names of the running statistics that a pass changes. Raises ConfigError for anything else that it changes."""
    kept = {
        f"{name}.{buffer}".lstrip("."): buffer
        for name, layer in module.named_modules()
        if isinstance(layer, _NormBase)
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    found = []
    for name, value in before.items():
        other = after.get(name)
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) and other is not None else value == other
        if same:
            continue
        if name not in kept:
            raise ConfigError(f"module.{name} changes with every call, and no device sends it")
        if kept[name] != "num_batches_tracked":
            found.append(name)
    return tuple(found)


def _state_of(module: nn.Module) -> dict[str, Any]:
    """Buffers, and plain attributes of every layer."""
    state: dict[str, Any] = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for prefix, layer in module.named_modules():
        plain = {name: value for name, value in vars(layer).items() if isinstance(value, PLAIN)}
        state |= {f"{prefix}.{name}".lstrip("."): value for name, value in plain.items()}
    return state


def _pass(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> Pass:
    try:
        loss = model.loss_and_gradient(inputs, labels)
    except Exception as error:
        raise ConfigError(f"module must allow a backward pass, got {named(error.__cause__ or error)}") from None
    return Pass(loss, model.gradient.clone())


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _length(value: Any) -> str:
    return f" of {len(value)}" if hasattr(value, "__len__") else ""
