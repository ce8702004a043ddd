"""Samples in memory: inputs as they were read, turned into normalised float32 only when a batch is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from spfl.arrays import Bools, Indices
from spfl.config.data import DataConfig
from spfl.config.names import TaskName
from spfl.errors import ConfigError
from spfl.rng import SETUP_ROUND, Purpose, server_stream

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel
Scale = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples in memory.

    Args:
        name: What the run folder calls it.
        train_inputs: uint8 images (n, channels, height, width); float32 (n, ...), whose second axis is channels or
            columns; or int64 (n, ...), indices such as tokens, which are never normalised.
        train_labels: int64 (n,) from 0 (classification); float32 (n, classes) of 0 and 1 (multi_label); float32
            (n, targets) (regression); int64 (n, length), each the token that follows (next_token).
        test_inputs: As the train inputs.
        test_labels: As the train labels.
        classes: Outputs of a network: the number of classes, of targets (regression), or of tokens (next_token).
        task: What is learned.
        clients: Whose each training sample is, int64 (n,), for `data.partition = column` and files; None where the
            data have no natural clients.
        normalise: By the moments of the training part, not at all (none), or by fixed (means, deviations).
    """

    name: str
    train_inputs: torch.Tensor
    train_labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    task: TaskName = "classification"
    clients: torch.Tensor | None = None
    normalise: Literal["moments", "none"] | Moments = "moments"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input: (channels, height, width) of an image, (columns,) of a table's row, (length,) of a sequence."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether inputs have the form (channels, height, width)."""
        return len(self.shape) == 3 and self.train_inputs.dtype in (torch.uint8, torch.float32)

    @property
    def has_indices(self) -> bool:
        """Whether inputs are whole numbers for an embedding, such as tokens."""
        return self.train_inputs.dtype == torch.int64

    @cached_property
    def vocabulary(self) -> int:
        """One more than the highest index of the inputs; 0 where inputs are no indices."""
        if not self.has_indices:
            return 0
        highest = max(int(part.max()) for part in (self.train_inputs, self.test_inputs) if len(part))
        return max(1 + highest, self.classes if self.task == "next_token" else 0)

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.normalise, tuple):
            mean, std = (torch.tensor(part, dtype=torch.float64) for part in self.normalise)
            return mean, std
        return channel_moments(self.train_inputs)

    @property
    def mean(self) -> torch.Tensor:
        """Mean of each channel or column over the train inputs (grey levels: 0..255), float64 of shape (channels,)."""
        return self._moments[0]

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each channel or column, float64 of shape (channels,)."""
        return self._moments[1]

    @cached_property
    def normalisation(self) -> Scale | None:
        """(scale, shift), float32 of shape (1, channels, 1, ...): inputs are scale * x + shift. None: as they are."""
        if self.has_indices or self.normalise == "none":
            return None
        scale = 1 / torch.where(self.std > 0, self.std, 1.0)
        shape = (1, -1, *[1] * (len(self.shape) - 1))
        device = self.train_inputs.device
        return scale.float().view(shape).to(device), (-self.mean * scale).float().view(shape).to(device)

    def normalised_by(self, data: DataConfig) -> Dataset:
        """A copy with the normalisation that a configuration sets; itself where it sets none. Raises ConfigError."""
        if data.mean is None or data.std is None:
            return self if data.normalise == "moments" else replace(self, normalise="none")
        if len(data.mean) != self.shape[0]:
            raise ConfigError(f"data.mean must be {self.shape[0]} numbers for {self.name}, got {len(data.mean)}")
        return replace(self, normalise=(data.mean, data.std))

    def on(self, device: torch.device) -> Dataset:
        """A copy whose samples are on a PyTorch device, normalised by the very numbers of this one."""
        kept = self.normalise if self.normalisation is None else (tuple(self.mean.tolist()), tuple(self.std.tolist()))
        return replace(
            self,
            train_inputs=self.train_inputs.to(device),
            train_labels=self.train_labels.to(device),
            test_inputs=self.test_inputs.to(device),
            test_labels=self.test_labels.to(device),
            normalise=kept,
        )

    def pooled(self, factor: int) -> Dataset:
        """A copy with every factor x factor block averaged and rounded; raises ConfigError if it does not divide."""
        if not self.is_images:
            raise ConfigError(f"data.pool must be 1 where inputs are no images, got {factor} for inputs {self.shape}")
        if factor < 1 or self.shape[1] % factor or self.shape[2] % factor:
            raise ConfigError(f"pool factor must divide height and width {self.shape[1:]}, got {factor}")
        return replace(self, train_inputs=_pool(self.train_inputs, factor), test_inputs=_pool(self.test_inputs, factor))

    def split_validation(self, fraction: float, rng: np.random.Generator) -> Dataset:
        """For tuning: the same train images, a random `fraction` of them held out as the "test" part.

        The real test images are not in the result. Raises ConfigError unless both parts get an image.
        """
        train, test = (torch.from_numpy(rows) for rows in _cut(len(self.train_labels), fraction, rng))
        clients = None if self.clients is None else self.clients[train]
        inputs, labels = self.train_inputs, self.train_labels
        parts = (inputs[train], labels[train], inputs[test], labels[test])
        return Dataset(self.name, *parts, self.classes, self.task, clients, self.normalise)

    def tested_on(self, rows: Indices) -> Dataset:
        """A copy with these samples of the test part alone."""
        chosen = torch.from_numpy(rows)
        return replace(self, test_inputs=self.test_inputs[chosen], test_labels=self.test_labels[chosen])

    def hold_out(self, fraction: float) -> Dataset:
        """With a fixed random `fraction` of the train samples as its test part: for data that have none."""
        return self.split_validation(fraction, server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT))


def training_rows(size: int, fraction: float) -> Indices:
    """The rows that `Dataset.hold_out` leaves in the training part."""
    return _cut(size, fraction, server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT))[0]


def _cut(size: int, fraction: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Rows that stay, and rows that are held out, both ascending. Raises ConfigError unless both are some."""
    held_out = round(fraction * size)
    if not 0 < held_out < size:
        raise ConfigError(f"data.validation_fraction must leave images on both sides, got {fraction} of {size}")
    order = rng.permutation(size)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def grey_sums(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, sum and sum of squares of the grey levels of each channel, int64 (channels,).

    From histograms: whole numbers, whose sums depend neither on the number of threads nor on who holds which image.
    """
    levels = torch.arange(256)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
    return counts.sum(1), (counts * levels).sum(1), (counts * levels.square()).sum(1)


def moments_of(pixels: torch.Tensor, total: torch.Tensor, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, float64 (channels,), from `grey_sums`."""
    size = pixels.double()
    mean, mean_square = total / size, square / size
    return mean, (mean_square - mean.square()).clamp_min(0).sqrt()


def channel_moments(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation along the second axis, float64 (channels,), whatever the number of threads."""
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return moments_of(*grey_sums(inputs))
    values = inputs.numpy()
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    mean, std = values.mean(axes, dtype=np.float64), values.std(axes, dtype=np.float64)
    return torch.from_numpy(np.atleast_1d(mean)), torch.from_numpy(np.atleast_1d(std))


def _pool(images: torch.Tensor, factor: int) -> torch.Tensor:
    pool = torch.nn.functional.avg_pool2d
    if images.dtype != torch.uint8:
        return torch.cat([pool(chunk, factor) for chunk in images.split(2048)])
    return torch.cat([pool(chunk.float(), factor).round_().byte() for chunk in images.split(2048)])


def to_inputs(inputs: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """What a network is given of stored `inputs` (n, ...): normalised float32, or indices as they are."""
    return normalised(inputs, dataset.normalisation)


def normalised(inputs: torch.Tensor, scale: Scale | None) -> torch.Tensor:
    """See `Dataset.normalisation`."""
    if scale is None:
        return inputs if inputs.dtype == torch.int64 else inputs.float()
    return torch.addcmul(scale[1], inputs.float(), scale[0])


def draw_moves(images: int, most_px: int, rng: np.random.Generator) -> Indices:
    """Rows and columns by which each of so many images is moved, (image, 2), at most `most_px` each way.

    0 draws nothing.
    """
    return rng.integers(-most_px, most_px + 1, (images, 2))


def moved(images: torch.Tensor, by: Indices) -> torch.Tensor:
    """Images (image, channel, row, column), each moved by its rows and columns (image, 2); edges are mirrored.

    This is what padding by reflection and cropping at random gives.
    """
    offsets = torch.from_numpy(by).to(images.device)
    rows, columns = (_mirrored(size, offsets[:, i]) for i, size in enumerate(images.shape[2:]))
    places = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)[:, None]  # the same in all channels
    flat = images.flatten(2)
    return flat.gather(2, places.expand_as(flat)).view(images.shape)


def _mirrored(size: int, offsets: torch.Tensor) -> torch.Tensor:
    """The places 0 .. size - 1 moved by each offset, (image, place), mirrored at the first and the last."""
    at = (torch.arange(size, device=offsets.device) + offsets[:, None]).abs()
    return (size - 1) - ((size - 1) - at).abs()


def flip_half(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A copy of `images` in which each is mirrored left to right with probability one half."""
    return mirrored(images, rng.random(len(images)) < 0.5)


def mirrored(images: torch.Tensor, which: Bools) -> torch.Tensor:
    """A copy of images (image, channel, row, column), in which some (image,) are mirrored left to right."""
    return torch.where(torch.from_numpy(which).to(images.device).view(-1, 1, 1, 1), images.flip(3), images)
