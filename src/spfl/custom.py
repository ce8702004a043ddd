"""Parts that a caller brings in place of the configured ones: plain objects and functions, no registry.

`spfl.run` takes them as keywords. A run that has them says so in environment.json, by name; see `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spfl.arrays import Floats, Indices
from spfl.config.section import check_fields
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, DataError
from spfl.schemes import Scheme

Partitioner = Callable[[NDArray[np.int64], int, np.random.Generator], Sequence[Any]]
Gains = Callable[[int, np.random.Generator], Floats]
Fades = Callable[[int, int, np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Custom:
    """What replaces parts of the configured experiment; None keeps the configured part.

    module: a network from inputs (n, channels, height, width) to logits (n, classes); its weights are the first ones.
    partition(labels (n,), devices, rng): one array of sample indices for each device, disjoint.
    gains(round, rng): mean power gains, linear, one for each device of the cell; round 0 where the cell is fixed.
    fades(round, cohort size, rng): power fades |h|^2 of the sign and of the modulus packet, each (cohort,). Mean one;
    the allocator still assumes Rayleigh fading, so q_s and r_m hold under that assumption.
    scheme: a `spfl.schemes.Scheme`. A key set in [scheme] overrides it, as it does every scheme.
    """

    module: nn.Module | None = None
    partition: Partitioner | None = None
    gains: Gains | None = None
    fades: Fades | None = None
    scheme: Scheme | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.module is not None:
            _check_module(self.module)

    def names(self) -> dict[str, str]:
        """Part -> name of what was brought, for the run folder: it tells parts apart, not their versions."""
        brought = {field.name: getattr(self, field.name) for field in fields(self)}
        return {part: name_of(value) for part, value in brought.items() if value is not None}


AS_CONFIGURED = Custom()


def name_of(part: Any) -> str:
    """The name of a scheme, of a function, or of the class of anything else."""
    name = getattr(part, "name", None) or getattr(part, "__qualname__", None) or type(part).__qualname__
    return str(name)


def _check_module(module: Any) -> None:
    """Raises ConfigError for what is no network, or has no weights to train; what it does is tried in a dry pass."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module must be a network, a torch.nn.Module, got {_instead(module)}")
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ConfigError(f"module.{name} has no shape yet (a lazy layer); call the module on one batch first")
        if parameter.is_meta:
            raise ConfigError(f"module.{name} has no values (it is on the meta device); give it some with to_empty")
    if not parameters or any(p.dtype != torch.float32 for p in parameters.values()):
        found = ", ".join(sorted({str(p.dtype) for p in parameters.values()})) or "none"
        raise ConfigError(f"module must have parameters, all of dtype float32, got {found}")
    if not all(p.requires_grad for p in parameters.values()):
        raise ConfigError("module must have trainable parameters only; keep frozen ones as buffers")
    for name, layer in module.named_modules():
        if getattr(layer, "running_mean", None) is not None:
            raise ConfigError(f"module.{name} keeps running statistics, which no device sends; use nn.GroupNorm")


def _instead(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}; make one: {value.__name__}(...)"
    if isinstance(value, Mapping):
        return "a mapping, such as a state_dict; make the network and call load_state_dict"
    return f"{type(value).__name__}"


def copy_module(module: nn.Module) -> nn.Module:
    """A copy with weights of its own, on the CPU: one for each worker."""
    return deepcopy(module).cpu()


def checked_parts(parts: Sequence[Any], devices: int, samples: int) -> list[Indices]:
    """A caller's partition, sorted within a device. Raises DataError unless it is one.

    A device may be left without samples, and a sample without a device.
    """
    indices = [np.sort(np.asarray(part, np.int64)) for part in parts]
    if len(indices) != devices:
        raise DataError(f"partition must return one array for each of the {devices} devices, got {len(indices)}")
    every = np.concatenate(indices)
    if every.size == 0 or every.min() < 0 or every.max() >= samples:
        raise DataError(
            f"partition must return indices in 0..{samples - 1}, got {every.min(initial=0)}..{every.max(initial=0)}"
        )
    if np.unique(every).size != every.size:
        raise DataError("partition must give a sample to one device only, got some twice")
    return indices


def checked_gains(values: Any, devices: int, name: str) -> Floats:
    """Gains or fades of a caller, float64. Raises ConfigError for another shape, or for a value that is none."""
    array = np.asarray(values, np.float64)
    if array.shape != (devices,) or not (np.isfinite(array).all() and (array >= 0).all()):
        raise ConfigError(f"{name} must return {devices} finite numbers >= 0, got {array.tolist()}")
    return array


def make_dataset(name: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Dataset:
    """A dataset from arrays or tensors that are in memory.

    Args:
        name: What the run folder calls it.
        train: Images, uint8 of shape (n, [channels,] height, width), and labels (n,), integers from 0.
        test: The same for the test part.

    Returns:
        The dataset, for `spfl.run(dataset=...)`.

    Raises:
        DataError: Images or labels have another type or shape.
    """
    (train_images, train_labels), (test_images, test_labels) = (_checked(name, *part) for part in (train, test))
    if train_images.shape[1:] != test_images.shape[1:]:
        shapes = f"{tuple(train_images.shape[1:])} and {tuple(test_images.shape[1:])}"
        raise DataError(f"{name}: images of both parts must have one shape, got {shapes}")
    classes = 1 + int(max(train_labels.max(), test_labels.max()))
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes)


def _checked(name: str, images: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, classes = torch.as_tensor(images), torch.as_tensor(labels)
    if pixels.dtype != torch.uint8:
        raise DataError(f"{name}: images must be uint8, 0 to 255, got {pixels.dtype}")
    if pixels.ndim not in (3, 4) or pixels.shape[0] != classes.numel() or not classes.numel():
        raise DataError(
            f"{name}: needs images (n, [channels,] height, width) and n >= 1 labels, got {tuple(pixels.shape)}"
        )
    if classes.is_floating_point() or int(classes.min()) < 0:
        raise DataError(f"{name}: labels must be integers >= 0, got {classes.dtype}, lowest {classes.min().item()}")
    return (pixels if pixels.ndim == 4 else pixels.unsqueeze(1)).contiguous(), classes.reshape(-1).long()
