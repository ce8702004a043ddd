"""Data that stay at the nodes: what a node brings, and what the server knows of them.

A node says how many samples it has and, where no normalisation is configured, three sums of grey levels a channel, or
number, mean and squared deviations of each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from spfl.arrays import Indices
from spfl.config.data import DataConfig
from spfl.config.schema import Config
from spfl.data.dataset import Dataset, Moments, grey_sums, moments_of
from spfl.data.node_files import Pair, load_own, noun, times
from spfl.errors import DataError
from spfl.rng import SETUP_ROUND, Purpose, server_stream

TRIED = 4  # samples of a trial


@dataclass(frozen=True, eq=False)
class NodeData(Dataset):
    """One party's view of data that are spread over nodes.

    At a node `train_inputs` are its own, and every device has them all. At the server there are none; `samples` says
    how many each device has, and grows as nodes come. `moments` stand in for those of all nodes' images together.
    """

    samples: Mapping[int, int] | int = field(kw_only=True)
    moments: list[Moments] = field(kw_only=True)  # one, once it is known; of no channels where there is none
    indices: int = field(kw_only=True, default=0)  # what the vocabulary is by the configuration

    @property
    def vocabulary(self) -> int:
        """Indices that all nodes have agreed upon, not those that this one has."""
        return self.indices

    @property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = self.moments[0]
        return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)


class NodeParts(Sequence[Indices]):
    """The samples of each device: 0..n - 1, as far as n is known."""

    def __init__(self, data: NodeData, devices: int) -> None:
        self._samples, self._devices = data.samples, devices

    def __len__(self) -> int:
        return self._devices

    def __getitem__(self, device: Any) -> Any:
        """Indices (samples,) of one device; none when nobody has told of it."""
        if not 0 <= device < self._devices:
            raise IndexError(f"device must be in 0..{self._devices - 1}, got {device}")
        samples = self._samples if isinstance(self._samples, int) else self._samples.get(int(device), 0)
        return np.arange(samples, dtype=np.int64)


class GreySums(NamedTuple):
    """Pixels, sum and sum of squares of the grey levels of each channel, as whole numbers: they add up exactly."""

    pixels: tuple[int, ...]
    total: tuple[int, ...]
    square: tuple[int, ...]

    @classmethod
    def of(cls, images: torch.Tensor) -> GreySums:
        """The sums of images (n, channels, height, width)."""
        pixels, total, square = (tuple(sums.tolist()) for sums in grey_sums(images))
        return cls(pixels, total, square)

    @property
    def possible(self) -> bool:
        """Levels are 0 to 255, and a square sum is at least that of equal levels."""
        return all(
            0 <= total <= 255 * pixels and total * total <= square * pixels <= 255 * total * pixels
            for pixels, total, square in zip(*self, strict=True)
        )


class ColumnSums(NamedTuple):
    """Number of values, mean and sum of squared deviations from it, of each column or channel of real numbers."""

    values: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, inputs: torch.Tensor) -> ColumnSums:
        """Those of inputs (n, columns, ...)."""
        columns = inputs.transpose(0, 1).flatten(1).numpy().astype(np.float64)
        mean = columns.mean(1)
        deviation = np.square(columns - mean[:, None]).sum(1)
        return cls((columns.shape[1],) * len(columns), tuple(mean.tolist()), tuple(deviation.tolist()))

    @property
    def possible(self) -> bool:
        """Finite means and squares."""
        return bool(np.isfinite([*self.mean, *self.deviation]).all()) and min(self.deviation, default=0.0) >= 0


Sums = GreySums | ColumnSums


def sums_of(data: NodeData) -> Sums | None:
    """What a node tells for the normalisation of all nodes' inputs together; None where it is known."""
    if data.moments:
        return None
    return (GreySums if data.train_inputs.dtype == torch.uint8 else ColumnSums).of(data.train_inputs)


def check_sums(data: DataConfig, sums: Sums | None) -> None:
    """Raises DataError unless a node tells what the run needs of it, for each channel."""
    if fixed_moments(data):
        return
    wanted = GreySums if data.input_type == "uint8" else ColumnSums
    channels = (data.shape or (0,))[0]
    if not isinstance(sums, wanted) or {len(part) for part in sums} != {channels}:
        raise DataError(f"it must tell the sums of {channels} channels, by which inputs are normalised")


def federated_moments(parts: Sequence[Sums]) -> Moments:
    """Mean and standard deviation of all nodes' inputs together: those of one data set that holds them all.

    Exactly so of grey levels; of real numbers up to rounding (Chan, Golub and LeVeque 1983).
    """
    grey = [part for part in parts if isinstance(part, GreySums)]
    if len(grey) == len(parts):
        sums = [torch.tensor([sum(channel) for channel in zip(*rows, strict=True)]) for rows in zip(*grey, strict=True)]
        mean, std = moments_of(*sums)
        return tuple(mean.tolist()), tuple(std.tolist())
    values, means, deviations = (np.array(rows, np.float64) for rows in zip(*parts, strict=True))
    middle = (values * means).sum(0) / values.sum(0)
    spread = (deviations + values * np.square(means - middle)).sum(0) / values.sum(0)
    return tuple(middle.tolist()), tuple(np.sqrt(spread).tolist())


def fixed_moments(data: DataConfig) -> list[Moments]:
    """The configured normalisation; none when it is to be found from the nodes."""
    if data.normalise == "none" or data.input_type == "int64":
        return [((), ())]
    return [] if data.mean is None or data.std is None else [(data.mean, data.std)]


def server_data(config: Config, test: Pair | None) -> NodeData:
    """What the server has: no training sample, and a test set if there is one. Raises DataError."""
    data = config.data
    if test is not None:
        check_fits(data, *test, "the server's test set")
    none = _none(data)
    return _as_told(data, "nodes", none, test or none, dict[int, int]())


def node_data(config: Config, source: str) -> NodeData:
    """What a node brings: a folder, or `module:function`. Raises DataError where it does not fit the configuration.

    A folder holds train-*.parquet, MNIST's IDX files, tables, texts, or a folder of images for each class, the last two
    levels of train/CLASS/IMAGE or CLASS/IMAGE; a test part is optional. The function takes nothing and returns a
    `Dataset`, or (inputs, labels) of the training part and, if there is one, of the test part.
    """
    data = config.data
    train, test = load_own(data, source)
    check_fits(data, *train, f"data {source}")
    if test is not None:
        check_fits(data, *test, f"test data {source}")
    if data.validation_fraction > 0:
        whole = Dataset("own", *train, *train, data.classes or 0)
        rng = server_stream(config.seed, SETUP_ROUND, Purpose.VALIDATION_SPLIT)
        held = whole.split_validation(data.validation_fraction, rng)
        train, test = (held.train_inputs, held.train_labels), (held.test_inputs, held.test_labels)
    return _as_told(data, "own", train, test or (train[0][:0], train[1][:0]), len(train[1]))


def _as_told(data: DataConfig, name: str, train: Pair, test: Pair, samples: Mapping[int, int] | int) -> NodeData:
    task, classes = data.task or "classification", data.classes or 0
    indices = classes if task == "next_token" else data.vocabulary or 0
    return NodeData(
        name, *train, *test, classes, task, None, data.normalise,
        samples=samples, moments=fixed_moments(data), indices=indices,
    )  # fmt: skip


def _none(data: DataConfig) -> Pair:
    """No samples, in the run's form."""
    shape = data.shape or ()
    labels = {"classification": (), "next_token": shape}.get(data.task or "classification", (data.classes or 0,))
    kind = torch.float32 if data.task in ("regression", "multi_label") else torch.int64
    return torch.zeros((0, *shape), dtype=getattr(torch, data.input_type)), torch.zeros((0, *labels), dtype=kind)


def trial_data(data: NodeData) -> Dataset:
    """A few made samples in the form that all nodes agree upon, on which any party may try a network."""
    rng, size = server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT), (TRIED, *data.shape)
    if data.train_inputs.dtype == torch.uint8:
        inputs = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
    elif data.has_indices:
        inputs = torch.from_numpy(rng.integers(0, data.vocabulary, size))
    else:
        inputs = torch.from_numpy(rng.normal(size=size).astype(np.float32))
    labels = torch.arange(TRIED) % data.classes
    if data.task == "next_token":
        labels = torch.from_numpy(rng.integers(0, data.classes, size))
    elif data.task != "classification":
        labels = torch.from_numpy(rng.integers(0, 2, (TRIED, data.classes)).astype(np.float32))
    return Dataset("trial", inputs, labels, inputs, labels, data.classes, data.task)


def check_fits(data: DataConfig, inputs: torch.Tensor, labels: torch.Tensor, whose: str) -> None:
    """Raises DataError unless inputs and labels are what the configuration says."""
    if not len(labels):
        raise DataError(f"{whose} must hold at least one sample, got none")
    shape, wanted = tuple(inputs.shape[1:]), data.shape or ()
    if shape != wanted:
        raise DataError(f"{whose} has {noun(data)} of {times(shape)}, the run's are {times(wanted)} (data.shape)")
    if inputs.dtype != getattr(torch, data.input_type):
        found = str(inputs.dtype).removeprefix("torch.")
        raise DataError(f"{whose} has {noun(data)} of {found}, the run's are {data.input_type} (data.dtype)")
    if inputs.dtype == torch.float32 and not bool(inputs.isfinite().all()):
        raise DataError(f"{whose} must have finite numbers as inputs, got {inputs[~inputs.isfinite()][0].item()}")
    if data.input_type == "int64":
        most = data.vocabulary or data.classes or 0
        key = "data.vocabulary" if data.vocabulary else "data.classes"
        _check_range(whose, "index", inputs, most, key)
    _check_labels(data, inputs, labels, whose)


def _check_labels(data: DataConfig, inputs: torch.Tensor, labels: torch.Tensor, whose: str) -> None:
    classes, task = data.classes or 0, data.task or "classification"
    shape = {"classification": (), "next_token": tuple(inputs.shape[1:])}.get(task, (classes,))
    if tuple(labels.shape[1:]) != shape or len(labels) != len(inputs):
        raise DataError(
            f"{whose} has labels {tuple(labels.shape)} for {len(inputs)} inputs, the run's are {(len(inputs), *shape)} "
            f"(data.task = {task}, data.classes = {classes})"
        )
    if labels.is_floating_point() != (task in ("regression", "multi_label")):
        raise DataError(f"{whose} has labels of {labels.dtype}, which data.task = {task} does not have")
    if task in ("classification", "next_token"):
        _check_range(whose, "label", labels, classes, "data.classes")
    elif not bool(labels.isfinite().all()):
        raise DataError(f"{whose} must have finite labels")
    elif task == "multi_label" and (wrong := labels[(labels != 0) & (labels != 1)]).numel():
        raise DataError(f"{whose} has label {wrong[0].item():g}, those of data.task = multi_label are 0 and 1")


def _check_range(whose: str, what: str, values: torch.Tensor, most: int, key: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= most:
        raise DataError(f"{whose} has {what} {low if low < 0 else high}, the run's are 0 to {most - 1} ({key})")
