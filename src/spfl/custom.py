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
from spfl.data.image_files import check_classes
from spfl.errors import ConfigError, DataError
from spfl.learning.local import LocalRule
from spfl.learning.server import ServerRule
from spfl.packets.layout import Layout
from spfl.schemes import Scheme

Partitioner = Callable[[NDArray[np.int64], int, np.random.Generator], Sequence[Any]]
Gains = Callable[[int, np.random.Generator], Floats]
DrawFades = Callable[[int, int, np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Custom:
    """What replaces parts of the configured experiment; None keeps the configured part.

    module: a network from inputs (n, channels, height, width) to logits (n, classes); its weights are the first ones.
    partition(labels (n,), devices, rng): one array of sample indices for each device, disjoint.
    gains(round, rng): mean power gains, linear, one for each device of the cell; round 0 where the cell is fixed.
    fades(round, cohort size, rng): power fades |h|^2 of the sign and of the modulus packet, each (cohort,). Mean one;
    the allocator still assumes Rayleigh fading, so q_s and r_m hold under that assumption.
    local(task): what a device sends, float32 (dim,), and its loss, from a `spfl.learning.local.LocalTask`; in place of
    the local rule of [training].
    server(weights (dim,), aggregate (dim,), memory, round): new weights and new memory, a dict of float32 arrays; in
    place of the server's step. The aggregate is finite, clipped and decayed as configured.
    scheme: a `spfl.schemes.Scheme`. A key set in [scheme] overrides it, as it does every scheme.
    """

    module: nn.Module | None = None
    partition: Partitioner | None = None
    gains: Gains | None = None
    fades: DrawFades | None = None
    scheme: Scheme | None = None
    local: LocalRule | None = None
    server: ServerRule | None = None

    def __post_init__(self) -> None:
        if self.module is not None:
            _check_module(self.module)
        check_fields(self)

    @property
    def layout(self) -> str | None:
        """What tells the parameters of the caller's network from those of another; None without one."""
        if self.module is None:
            return None
        shapes = [(name, tuple(p.shape)) for name, p in self.module.named_parameters()]
        return Layout(*zip(*shapes, strict=True)).digest.hex()

    def names(self) -> dict[str, str]:
        """Part -> name of what was brought, for the run folder: it tells parts apart, not their versions."""
        brought = {field.name: getattr(self, field.name) for field in fields(self)}
        return {part: name_of(value) for part, value in brought.items() if value is not None}


CHANNELS = (1, 3, 4)  # of images; none of them is a height or a width
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


def checked_parts(parts: Any, devices: int, samples: int) -> list[Indices]:
    """A caller's partition, sorted within a device. Raises DataError unless it is one.

    A device may be left without samples, and a sample without a device.
    """
    if not isinstance(parts, Sequence | np.ndarray) or isinstance(parts, str | bytes):
        hint = "; list(parts.values()) of it will do" if isinstance(parts, Mapping) else ""
        raise DataError(f"partition must return a list of arrays, one a device, got {type(parts).__name__}{hint}")
    if len(parts) != devices:
        raise DataError(f"partition must return one array for each of the {devices} devices, got {len(parts)}")
    indices = [np.sort(_indices(part, device)) for device, part in enumerate(parts)]
    every = np.concatenate(indices)
    if every.size == 0 or every.min() < 0 or every.max() >= samples:
        raise DataError(
            f"partition must return indices in 0..{samples - 1}, got {every.min(initial=0)}..{every.max(initial=0)}"
        )
    if np.unique(every).size != every.size:
        raise DataError("partition must give a sample to one device only, got some twice")
    return indices


def _indices(part: Any, device: int) -> Indices:
    rule = f"partition must give device {device} a one-dimensional array of whole numbers"
    try:
        array = np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{rule}, got {_first_line(error)}") from None
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        hint = "; np.flatnonzero(mask) makes indices of a mask" if array.dtype.kind == "b" else ""
        raise DataError(f"{rule}, got {array.dtype} of shape {array.shape}{hint}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{rule}, got {array.max()}")
    return array.astype(np.int64)


def checked_gains(values: Any, devices: int, name: str) -> Floats:
    """Gains or fades of a caller, float64. Raises ConfigError for another shape, or for a value that is none."""
    rule = f"{name} must return {devices} finite numbers >= 0"
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{rule}, got {_first_line(error)}") from None
    if array.dtype.kind not in "iuf":
        hint = "; of a complex amplitude h it is |h|^2" if array.dtype.kind == "c" else ""
        raise ConfigError(f"{rule}, got {array.dtype} of shape {array.shape}{hint}")
    if array.shape != (devices,):
        raise ConfigError(f"{rule}, got shape {array.shape}")
    array = array.astype(np.float64)
    if not (np.isfinite(array).all() and (array >= 0).all()):
        wrong = int(np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[0])
        raise ConfigError(f"{rule}, got {array[wrong]} for device {wrong}")
    return array


def checked_fades(values: Any, devices: int) -> tuple[Floats, Floats]:
    """Fades of both packets. Raises ConfigError unless there are two arrays of them."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        found = f"one of shape {np.shape(values)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ConfigError(f"fades must return two arrays, of the sign and of the modulus packet, got {found}")
    sign, modulus = (checked_gains(part, devices, "fades") for part in values)
    return sign, modulus


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


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
    pixels, classes = _tensor(name, "images", images), _tensor(name, "labels", labels)
    if pixels.dtype != torch.uint8:
        raise DataError(f"{name}: images must be uint8, 0 to 255, got {pixels.dtype}")
    if pixels.ndim not in (3, 4) or pixels.shape[0] != classes.numel() or not classes.numel():
        raise DataError(
            f"{name}: needs images (n, [channels,] height, width) and n >= 1 labels, got {tuple(pixels.shape)}"
            f" and {tuple(classes.shape)}"
        )
    if pixels.ndim == 4 and pixels.shape[1] not in CHANNELS and pixels.shape[3] in CHANNELS:
        raise DataError(
            f"{name}: images must have their channels first, (n, channels, height, width), got {tuple(pixels.shape)}; "
            "images.transpose(0, 3, 1, 2) puts them there"
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool or int(classes.min()) < 0:
        raise DataError(f"{name}: labels must be integers >= 0, got {classes.dtype}, lowest {classes.min().item()}")
    check_classes(name, 1 + int(classes.max()), classes.numel())
    return (pixels if pixels.ndim == 4 else pixels.unsqueeze(1)).contiguous(), classes.reshape(-1).long()


def _tensor(name: str, what: str, values: Any) -> torch.Tensor:
    """A tensor of an array in any of NumPy's forms: reversed, of another byte order, a list. Raises DataError."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufb":
            raise DataError(f"{name}: {what} must be numbers, got {array.dtype} of shape {array.shape}")
        if array.dtype.kind in "iu" and array.dtype != np.uint8:
            if what == "images":
                raise DataError(f"{name}: images must be uint8, 0 to 255, got {array.dtype}")
            if array.size and int(array.max()) > np.iinfo(np.int64).max:
                raise DataError(f"{name}: {what} must be at most 2^63 - 1, got {array.max()}")
            array = array.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name}: {what} must be an array, got {_first_line(error)}") from None
