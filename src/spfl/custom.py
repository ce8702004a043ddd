"""Parts that a caller brings in place of the configured ones: plain objects and functions, no registry.

`spfl.run` takes them as keywords. A run that has them says so in environment.json, by name; see `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spfl.arrays import Floats, Indices
from spfl.config.names import TaskName
from spfl.config.section import check_fields
from spfl.data.dataset import Dataset, Moments
from spfl.data.labels import Encoded, Part, check_classes, encode_labels
from spfl.errors import ConfigError, DataError, named
from spfl.learning.local import LocalRule
from spfl.learning.server import ServerRule
from spfl.packets.layout import Layout
from spfl.scheme import Scheme
from spfl.tasks import Measure

Partitioner = Callable[[NDArray[np.int64], int, np.random.Generator], Sequence[Any]]
Gains = Callable[[int, np.random.Generator], Floats]
DrawFades = Callable[[int, int, np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Custom:
    """What replaces parts of the configured experiment; None keeps the configured part.

    module: a network from inputs (n, ...) to outputs (n, classes); its weights are the first ones.
    partition(labels (n,), devices, rng): one array of sample indices for each device, disjoint.
    gains(round, rng): mean power gains, linear, one for each device of the cell; round 0 where the cell is fixed.
    fades(round, cohort size, rng): power fades |h|^2 of the sign and of the modulus packet, each (cohort,). Mean one;
    the allocator still assumes Rayleigh fading, so q_s and r_m hold under that assumption.
    local(task): what a device sends, float32 (dim,), and its loss, from a `spfl.learning.local.LocalTask`; in place of
    the local rule of [training].
    server(weights (dim,), aggregate (dim,), memory, round): new weights and new memory, a dict of float32 arrays; in
    place of the server's step. The aggregate is finite, clipped and decayed as configured.
    loss(outputs, labels): the mean loss of a batch, a tensor, in place of that of the task.
    metric(outputs, labels): the mean score of a batch, named as the function; larger is better unless its
        attribute `higher_is_better` is False.
    scheme: a `spfl.scheme.Scheme`. A key set in [scheme] overrides it, as it does every scheme.
    """

    module: nn.Module | None = None
    partition: Partitioner | None = None
    gains: Gains | None = None
    fades: DrawFades | None = None
    scheme: Scheme | None = None
    local: LocalRule | None = None
    server: ServerRule | None = None
    loss: Measure | None = None
    metric: Measure | None = None

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


CHANNELS = (1, 2, 3, 4)  # of images; none of them is a height or a width
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
    trained = [p for p in parameters.values() if p.requires_grad]
    if not trained or any(p.dtype != torch.float32 for p in trained):
        found = ", ".join(sorted({str(p.dtype) for p in trained})) or "none that requires_grad"
        raise ConfigError(f"module must have parameters to train, all of dtype float32, got {found}")


def _instead(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}; make one: {value.__name__}(...)"
    if isinstance(value, Mapping):
        return "a mapping, such as a state_dict; make the network and call load_state_dict"
    return f"{type(value).__name__}"


def copy_module(module: nn.Module) -> nn.Module:
    """A copy with weights of its own, on the CPU: one for each worker."""
    copied = deepcopy(module)
    there = all(tensor.device.type == "cpu" for tensor in (*copied.parameters(), *copied.buffers()))
    return copied if there else copied.cpu()  # `cpu` looks at gradients, which the copy of a traced one cannot have


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
        raise DataError(f"{rule}, got {named(error)}") from None
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
        raise ConfigError(f"{rule}, got {named(error)}") from None
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


def make_dataset(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    task: TaskName = "classification",
    clients: Any = None,
    normalise: Literal["moments", "none"] | Moments = "moments",
) -> Dataset:
    """A dataset from arrays or tensors that are in memory.

    Args:
        name: What the run folder calls it.
        train: Inputs and labels. Inputs are images (n, [channels,] height, width) of uint8 or uint16 with 1 to 4
            channels, float32 of any shape (n, ...), or other integers (n, ...), which reach the network as indices.
            Labels are integers from 0 or words (n,); for regression numbers (n,) or (n, targets); for multi_label 0
            and 1, (n, classes); for next_token the tokens that follow, shaped as the inputs.
        test: The same for the test part.
        task: What is learned: classification, multi_label, regression or next_token.
        clients: Whose each training sample is, (n,), numbers or words, for `data.partition = column`.
        normalise: By mean and deviation of each channel or column (the second axis) over the training part (moments),
            not at all (none), or by fixed (means, deviations).

    Returns:
        The dataset, for `spfl.run(dataset=...)`.

    Raises:
        DataError: Inputs, labels or clients have another type or shape.
    """
    if task not in get_args(TaskName):
        raise DataError(f"{name}: task must be one of {', '.join(get_args(TaskName))}, got {task!r}")
    (train_inputs, train_labels), (test_inputs, test_labels) = (
        _checked(name, *pair, f"{part} ") for pair, part in ((train, "train"), (test, "test"))
    )
    if train_inputs.shape[1:] != test_inputs.shape[1:] or train_inputs.dtype != test_inputs.dtype:
        shapes = f"{tuple(train_inputs.shape[1:])} and {tuple(test_inputs.shape[1:])}"
        raise DataError(f"{name}: inputs of both parts must have one type and shape, got {shapes}")
    labels = _encoded(name, train_labels, test_labels, task)
    if task == "next_token" and (labels.train.shape != train_inputs.shape or not train_inputs.dtype == torch.int64):
        raise DataError(f"{name}: next_token needs integers, and labels of the inputs' shape, got "
                        f"{tuple(train_inputs.shape)} and {tuple(labels.train.shape)}")  # fmt: skip
    told = None if clients is None else _clients(name, clients, len(train_inputs))
    parts = (train_inputs, labels.train, test_inputs, labels.test)
    made = Dataset(name, *parts, labels.classes, task, told, normalise)
    if isinstance(normalise, tuple) and not len(made.mean) == len(made.std) == made.shape[0]:
        raise DataError(f"{name}: normalise must hold {made.shape[0]} means and deviations, got {normalise}")
    return made


def _checked(name: str, inputs: Any, labels: Any, part: str) -> tuple[torch.Tensor, NDArray[Any]]:
    values, told = _inputs(name, inputs), _labels(name, labels)
    if len(values) != len(told) or not len(told):
        raise DataError(
            f"{name}: {part}needs inputs (n, ...) and n >= 1 labels, got {tuple(values.shape)} and {told.shape}"
        )
    images = values.ndim == 4 and values.dtype != torch.int64
    if images and values.shape[1] not in CHANNELS and values.shape[3] in CHANNELS:
        raise DataError(
            f"{name}: images must have their channels first, (n, channels, height, width), got "
            f"{tuple(values.shape)}; images.transpose(0, 3, 1, 2) puts them there"
        )
    return values, told


def _inputs(name: str, inputs: Any) -> torch.Tensor:
    """uint8 images, float32, or int64 indices; a row is never a single number. Raises DataError."""
    values = _tensor(name, "inputs", inputs)
    if values.dtype == torch.uint16 and values.ndim in (3, 4):
        values = values.float()
        values = values if values.ndim == 4 else values.unsqueeze(1)
    elif values.dtype == torch.uint8:
        if values.ndim not in (3, 4):
            raise DataError(
                f"{name}: uint8 inputs are images (n, [channels,] height, width), got {tuple(values.shape)}; for rows "
                "of numbers use .astype(np.float32)"
            )
        values = values if values.ndim == 4 else values.unsqueeze(1)
    elif values.is_floating_point() or values.dtype == torch.bool:
        values = values.float()
        if not bool(values.isfinite().all()):
            raise DataError(f"{name}: inputs must be finite numbers, got {values[~values.isfinite()][0].item()}")
    elif values.is_complex():
        raise DataError(f"{name}: inputs must be real numbers, got {values.dtype}")
    else:
        values = values.long()
        if values.numel() and int(values.min()) < 0:
            raise DataError(
                f"{name}: integer inputs are indices >= 0 (tokens), got {int(values.min())}; for measurements use "
                ".astype(np.float32)"
            )
    return (values if values.ndim > 1 else values.reshape(-1, 1)).contiguous()


def _labels(name: str, labels: Any) -> NDArray[Any]:
    """Labels as numbers or words. Raises DataError."""
    if not isinstance(labels, torch.Tensor):
        words = np.asarray(labels)
        if words.dtype.kind in "UO" and words.ndim == 1 and all(isinstance(word, str) for word in words.tolist()):
            return words.astype(str)
    return _tensor(name, "labels", labels).numpy()


def _encoded(name: str, train: NDArray[Any], test: NDArray[Any], task: TaskName) -> Encoded:
    """Labels of both parts for a task. Raises DataError."""
    if task == "next_token":
        whole = [torch.from_numpy(part.astype(np.int64)) for part in (train, test)]
        if train.dtype.kind not in "iu" or test.dtype.kind not in "iu":
            raise DataError(f"{name}: labels must be integers for next_token, got {train.dtype}")
        return Encoded(whole[0], whole[1], 1 + int(max(part.max() for part in whole)))
    if task != "classification":
        parts = [Part(Path(name), part.astype(np.float64)) for part in (train, test)]
        if train.dtype.kind not in "iufb" or train.ndim > 2 or train.shape[1:] != test.shape[1:]:
            raise DataError(f"{name}: labels must be numbers (n,) or (n, k), got {train.dtype} {train.shape}")
        if not all(np.isfinite(part.labels).all() for part in parts):
            raise DataError(f"{name}: labels must be finite numbers")
        return encode_labels(parts[:1], parts[1:], task, numbered=False)
    if "U" in (train.dtype.kind, test.dtype.kind):
        return encode_labels([Part(Path(name), train)], [Part(Path(name), test)], task, numbered=False)
    for part in (train, test):
        if part.dtype.kind not in "iu" or part.size != len(part) or int(part.min()) < 0:
            raise DataError(f"{name}: labels must be integers >= 0 (or words), got {part.dtype}, lowest {part.min()}")
    classes = 1 + int(max(train.max(), test.max()))
    check_classes(name, classes, train.size)
    first, second = (torch.from_numpy(part.reshape(-1).astype(np.int64)) for part in (train, test))
    return Encoded(first, second, classes)


def _clients(name: str, clients: Any, samples: int) -> torch.Tensor:
    names = np.asarray(clients)
    if names.shape != (samples,) or names.dtype.kind not in "iuU":
        raise DataError(f"{name}: clients must be {samples} whole numbers or words, got {names.dtype} {names.shape}")
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].astype(np.int64))


def _tensor(name: str, what: str, values: Any) -> torch.Tensor:
    """A tensor of an array in any of NumPy's forms: reversed, of another byte order, a list. Raises DataError."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufb":
            raise DataError(f"{name}: {what} must be numbers, got {array.dtype} of shape {array.shape}")
        if array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.uint16):
            if array.size and int(array.max()) > np.iinfo(np.int64).max:
                raise DataError(f"{name}: {what} must be at most 2^63 - 1, got {array.max()}")
            array = array.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name}: {what} must be an array, got {named(error)}") from None
