"""Data that stay at the nodes: what a node brings, and what the server knows of them.

A node says how many samples it has and, where no normalisation is configured, three sums of grey levels a channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from spfl.arrays import Indices
from spfl.config.data import DataConfig
from spfl.config.schema import Config
from spfl.data.dataset import Dataset, Moments, grey_sums, moments_of
from spfl.data.image_files import decode_image, join, read_split
from spfl.data.sources import idx_pair, of_split
from spfl.errors import ConfigError, DataError, reason
from spfl.imports import import_source
from spfl.rng import SETUP_ROUND, Purpose, server_stream

IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
TRIED = 4  # images of a trial
Pair = tuple[torch.Tensor, torch.Tensor]  # images uint8 (n, channels, height, width), labels int64 (n,)


@dataclass(frozen=True, eq=False)
class NodeData(Dataset):
    """One party's view of data that are spread over nodes.

    At a node `train_inputs` are its own, and every device has them all. At the server there are none; `samples` says
    how many each device has, and grows as nodes come. `moments` stand in for those of all nodes' images together.
    """

    samples: Mapping[int, int] | int = field(kw_only=True)
    moments: list[Moments] = field(kw_only=True)  # one, once it is known

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


def federated_moments(parts: Sequence[GreySums]) -> Moments:
    """Mean and standard deviation of all nodes' images together: those of one data set that holds them all."""
    sums = [torch.tensor([sum(channel) for channel in zip(*rows, strict=True)]) for rows in zip(*parts, strict=True)]
    mean, std = moments_of(*sums)
    return tuple(mean.tolist()), tuple(std.tolist())


def fixed_moments(data: DataConfig) -> list[Moments]:
    """The configured normalisation; none when it is to be found from the nodes."""
    return [] if data.mean is None or data.std is None else [(data.mean, data.std)]


def server_data(config: Config, test: Pair | None) -> NodeData:
    """What the server has: no training image, and a test set if there is one. Raises DataError."""
    data = config.data
    assert data.shape is not None
    assert data.classes is not None
    none = torch.zeros((0, *data.shape), dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    if test is not None:
        check_fits(data, *test, "the server's test set")
    test = test or none
    return NodeData("nodes", *none, *test, data.classes, samples=dict[int, int](), moments=fixed_moments(data))


def node_data(config: Config, source: str) -> NodeData:
    """What a node brings: a folder, or `module:function`. Raises DataError where it does not fit the configuration.

    A folder holds train-*.parquet, MNIST's IDX files, or a folder of images for each class, the last two levels of
    train/CLASS/IMAGE or CLASS/IMAGE; a test part is optional. The function takes nothing and returns a `Dataset`, or
    (images, labels) of the training part and, if there is one, of the test part.
    """
    data = config.data
    assert data.classes is not None
    train, test = load_own(data, source)
    check_fits(data, *train, f"data {source}")
    if test is not None:
        check_fits(data, *test, f"test data {source}")
    if data.validation_fraction > 0:
        whole = Dataset("own", *train, *train, data.classes)
        rng = server_stream(config.seed, SETUP_ROUND, Purpose.VALIDATION_SPLIT)
        held = whole.split_validation(data.validation_fraction, rng)
        train, test = (held.train_inputs, held.train_labels), (held.test_inputs, held.test_labels)
    test = test or (train[0][:0], train[1][:0])
    return NodeData("own", *train, *test, data.classes, samples=len(train[1]), moments=fixed_moments(data))


def trial_data(data: NodeData) -> Dataset:
    """A few made images in the form that all nodes agree upon, on which any party may try a network."""
    rng = server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT)
    images = torch.from_numpy(rng.integers(0, 256, (TRIED, *data.shape), dtype=np.uint8))
    labels = torch.arange(TRIED) % data.classes
    return Dataset("trial", images, labels, images, labels, data.classes)


def check_fits(data: DataConfig, images: torch.Tensor, labels: torch.Tensor, whose: str) -> None:
    """Raises DataError unless images and labels are what the configuration says."""
    if not len(labels):
        raise DataError(f"{whose} must hold at least one image, got none")
    shape, wanted = tuple(images.shape[1:]), data.shape
    if shape != wanted:
        raise DataError(f"{whose} has images of {_times(shape)}, the run's are {_times(wanted or ())} (data.shape)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= (data.classes or 0):
        wrong = low if low < 0 else high
        raise DataError(f"{whose} has label {wrong}, the run's are 0 to {(data.classes or 0) - 1} (data.classes)")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


# --- reading -------------------------------------------------------------------------------------------------


def load_own(data: DataConfig, source: str) -> tuple[Pair, Pair | None]:
    """The training part and the test part, if any. Raises DataError."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _read_folder(data, folder)
    if ":" not in source:
        raise DataError(f"node data must be a folder or module:function, got {source!r}, which is no folder")
    return _call(source)


def _call(source: str) -> tuple[Pair, Pair | None]:
    try:
        made = import_source(source)[1]()
    except ConfigError as error:
        raise DataError(f"node data: {error}") from error
    except Exception as error:  # whatever a caller's own code raises
        raise DataError(f"node data {source}: {type(error).__name__}: {reason(error)}") from error
    if isinstance(made, Dataset):
        test = (made.test_inputs, made.test_labels) if len(made.test_labels) else None
        return (made.train_inputs, made.train_labels), test
    try:
        pairs = [made] if len(made) == 2 and not isinstance(made[0], tuple) else list(made)
        train, *rest = [_pair(source, *pair) for pair in pairs]
    except (TypeError, ValueError) as error:
        raise DataError(f"node data {source} must return (images, labels), got {type(made).__name__}") from error
    return train, rest[0] if rest else None


def _pair(source: str, images: Any, labels: Any) -> Pair:
    pixels, classes = torch.as_tensor(images), torch.as_tensor(labels)
    if pixels.dtype != torch.uint8 or pixels.ndim not in (3, 4) or pixels.shape[0] != classes.numel():
        shape = tuple(pixels.shape)
        raise DataError(
            f"node data {source}: images must be uint8 (n, [channels,] height, width), got {pixels.dtype} {shape}"
        )
    if classes.is_floating_point():
        raise DataError(f"node data {source}: labels must be integers, got {classes.dtype}")
    return (pixels if pixels.ndim == 4 else pixels.unsqueeze(1)).contiguous(), classes.reshape(-1).long()


def _read_folder(data: DataConfig, folder: Path) -> tuple[Pair, Pair | None]:
    files = sorted(folder.glob("*.parquet"))
    train = of_split(files, "train") or idx_pair(folder, "train")
    if not train:
        return _read_class_folders(data, folder)
    test = of_split(files, "test") or of_split(files, "validation") or idx_pair(folder, "t10k")
    tables, form = read_split(train, None, data)
    classes = data.classes or 0
    return join(tables, classes), join(read_split(test, form, data)[0], classes) if test else None


def _read_class_folders(data: DataConfig, folder: Path) -> tuple[Pair, Pair | None]:
    root = folder / "train" if (folder / "train").is_dir() else folder
    train = _read_classes(data, root)
    if train is None:
        raise DataError(f"{folder} must hold train-*.parquet, MNIST's IDX files, or a folder of images for each class")
    return train, _read_classes(data, folder / "test")


def _read_classes(data: DataConfig, root: Path) -> Pair | None:
    """The images below root/CLASS, by class and name; None when there are none."""
    images, labels, first = [], [], None
    for label, folder in _class_folders(data, root):
        for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_NAMES):
            pixels, form = decode_image(file, 0, {"bytes": None, "path": str(file.resolve())})
            first = first or (file, form)
            if form != first[1]:
                raise DataError(
                    f"{file} is {form[0]} {_times(form[1])}, {first[0]} is {first[1][0]} {_times(first[1][1])}"
                )
            images.append(torch.from_numpy(pixels.copy()))
            labels.append(label)
    if not images:
        return None
    stacked = torch.stack(images)
    stacked = stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return stacked.contiguous(), torch.tensor(labels)


def _class_folders(data: DataConfig, root: Path) -> list[tuple[int, Path]]:
    names = {str(name): label for label, name in enumerate(data.class_names or range(data.classes or 0))}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name != "test") if root.is_dir() else []
    unknown = [path.name for path in folders if path.name not in names]
    if unknown:
        known = ", ".join(names)
        raise DataError(
            f"{root}: class folder {unknown[0]!r} is none of the run's classes ({known}); see data.class_names"
        )
    return [(names[path.name], path) for path in folders]
