"""A network of the caller's, tried on a few images before the first round.

Everything that the rounds take for granted is looked at, by what the network does and not by the names of its layers:
it can be copied, it takes these images, its logits fit the classes, its weights are those in the vector of the model,
each of them gets a gradient, and a gradient is a function of weights and batch alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from spfl.custom import copy_module
from spfl.data.dataset import Dataset, to_inputs
from spfl.errors import ConfigError, SpflError
from spfl.models import FlatModel
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
def check_network(module: nn.Module, dataset: Dataset, on_device: bool) -> None:
    """Raises ConfigError, with what was expected and what came, for a network that cannot be trained as it is meant.

    `on_device`: whole rounds run in PyTorch, and gradients of several devices are taken at once, by `torch.func.vmap`.
    """
    size = min(IMAGES, len(dataset.train_labels))
    inputs, labels = to_inputs(dataset.train_images[:size], dataset), dataset.train_labels[:size]
    with _generators_kept():
        model = _copied(module)
        before = _state_of(model.module)
        _check_logits(model.module, inputs, dataset.classes)
        _check_gradients(model, inputs, labels)
        _check_repeats(model, inputs, labels)
        _check_unchanged(before, _state_of(model.module))
        if on_device:
            _check_vmap(model, inputs, labels)


def _copied(module: nn.Module) -> FlatModel:
    try:
        return FlatModel(copy_module(module))
    except SpflError:
        raise
    except Exception as error:
        raise ConfigError(
            f"module must be one that copy.deepcopy can copy, for worker threads, got {_line(error)}; "
            "torch.nn.utils.parametrizations can be copied, hooks that keep tensors cannot"
        ) from None


def _check_logits(module: nn.Module, inputs: torch.Tensor, classes: int) -> None:
    expected = f"module must return ({len(inputs)}, {classes}) logits for inputs {_shape(inputs)}"
    try:
        with torch.no_grad():
            logits: Any = module(inputs)
    except Exception as error:
        raise ConfigError(f"{expected}, got {_line(error)}") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"{expected}, got a {type(logits).__name__}{_length(logits)}")
    if tuple(logits.shape) != (len(inputs), classes) or not logits.is_floating_point():
        raise ConfigError(f"{expected}, got {_shape(logits)} of {logits.dtype}")


def _check_gradients(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Each parameter has a part in the loss, and the vectors of the model are what forward and backward work on."""
    names = dict(model.module.named_parameters())
    try:
        loss = F.cross_entropy(model.module(inputs), labels)
        found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    except RuntimeError as error:
        raise ConfigError(f"module must be differentiable by its parameters, got {_line(error)}") from None
    unused = [name for name, part in zip(names, found, strict=True) if part is None]
    if unused:
        raise ConfigError(
            f"module.{unused[0]} must have a part in the loss, got no gradient; remove it, or use a buffer"
        )
    here = _pass(model, inputs, labels)
    start = model.weights.clone()
    model.load(start * 0.5 + 0.01)
    moved = _pass(model, inputs, labels)
    model.load(start)
    arrived = any(bool(part.any()) for part in found if part is not None) == bool(here.gradient.any())
    if not arrived or moved.same(here):
        raise ConfigError(
            f"module must read its weights from its parameters and leave gradients there, got a {_kind(model.module)} "
            "whose weights would never move; pass the plain module"
        )


def _check_repeats(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    passes = []
    for seed in (1, 1, 2):
        _seed(seed)
        passes.append(_pass(model, inputs, labels))
    first, again, other = passes
    if not first.same(again):
        raise ConfigError(
            "module must give the same gradient for the same weights and batch, got another at the second call: "
            "it remembers earlier calls, and each worker has a copy of its own"
        )
    if not first.same(other):
        where = next((f".{n}" for n, m in model.module.named_modules() if n and _has_chance(m)), "")
        raise ConfigError(
            f"module{where} draws from torch's global generator (or NumPy's, or Python's); runs would not be "
            "reproducible: set its dropout to 0"
        )


def _has_chance(layer: nn.Module) -> bool:
    """Whether a layer looks like the one that draws: for the message only."""
    return isinstance(layer, nn.RReLU) or any(bool(getattr(layer, name, 0)) for name in ("p", "dropout"))


def _check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        other = after.get(name)
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) and other is not None else value == other
        if not same:
            statistics = "running" in name or "batches_tracked" in name
            hint = "; use nn.GroupNorm" if statistics else ""
            raise ConfigError(f"module.{name} changes with every call, and no device sends it{hint}")


def _state_of(module: nn.Module) -> dict[str, Any]:
    """Buffers, and plain attributes of every layer."""
    state: dict[str, Any] = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for prefix, layer in module.named_modules():
        plain = {name: value for name, value in vars(layer).items() if isinstance(value, PLAIN)}
        state |= {f"{prefix}.{name}".lstrip("."): value for name, value in plain.items()}
    return state


def _check_vmap(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    weights = {name: p.detach() for name, p in model.module.named_parameters()}

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model.module, values, (x,)), y)

    try:
        vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs.unsqueeze(1), labels.unsqueeze(1))
    except Exception as error:
        raise ConfigError(
            f"torch_device must be absent with a network that torch.func.vmap cannot take, got {_line(error)} from a "
            f"{_kind(model.module)}; worker threads can"
        ) from None


def _pass(model: FlatModel, inputs: torch.Tensor, labels: torch.Tensor) -> Pass:
    try:
        loss = model.loss_and_gradient(inputs, labels)
    except Exception as error:
        raise ConfigError(f"module must allow a backward pass, got {_line(error)}") from None
    return Pass(loss, model.gradient.clone())


@contextmanager
def _generators_kept() -> Iterator[None]:
    """What the pass draws from the caller's generators is given back."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (the caller's, not ours)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)  # noqa: NPY002


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _length(value: Any) -> str:
    return f" of {len(value)}" if hasattr(value, "__len__") else ""


def _line(error: Exception) -> str:
    """What PyTorch says, in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text[:160]}"
