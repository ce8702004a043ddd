"""The networks that a configuration names."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spfl.config.names import MODELS
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, did_you_mean
from spfl.machine import memory_bytes

BASE_CHANNELS = {"small_cnn": 16, "resnet18": 64}
COPIES = 4  # of the parameters that the smallest run holds
NORM_GROUP_CHANNELS = 4  # channels that share one mean and variance in a GroupNorm


def build_model(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    *,
    rng: np.random.Generator,
    hidden: int = 128,
    base_channels: int | None = None,
) -> nn.Module:
    """A network from images of `shape` (channels, height, width) to logits (n, classes), drawn from `rng` alone.

    * "softmax": one linear layer. * "mlp": one layer of `hidden` ReLU units before it.
    * "small_cnn": three 3x3 convolutions of `base_channels` x 1, 2, 4 channels, each followed by 2x2 max-pooling,
      GroupNorm and ReLU (in this order: the last two then touch a quarter of the pixels), then one linear layer.
    * "resnet18": He et al. 2016 with GroupNorm and a 3x3 stem, `base_channels` x 1, 2, 4, 8 channels.
    `base_channels` is 16 for the small CNN and 64 for the ResNet-18 unless given; the other two have no use for it.
    Raises ConfigError for an unknown name or a size that does not fit.
    """
    channels, height, width = shape
    base = BASE_CHANNELS.get(name, 1) if base_channels is None else base_channels
    sizes = {"channels": channels, "height": height, "width": width, "classes": classes, "hidden": hidden}
    for key, size in (sizes | {"base_channels": base}).items():
        if size < 1:
            raise ConfigError(f"{key} must be >= 1, got {size}")
    with torch.device("meta"):  # so that the constructors draw nothing from torch's global generator
        if name == "softmax":
            module: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))
        elif name == "mlp":
            module = _mlp(channels * height * width, hidden, classes)
        elif name == "small_cnn":
            module = _small_cnn(channels, height, width, classes, base)
        elif name == "resnet18":
            module = _ResNet18(channels, classes, base)
        else:
            raise ConfigError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
    _check_size(name, sum(parameter.numel() for parameter in module.parameters()))
    _allocate(module)
    _draw_weights(module, rng)
    return module


def _check_size(name: str, parameters: int) -> None:
    """Raises ConfigError before memory is asked for: weights, a gradient, and both again at the server."""
    needed, free = COPIES * 4 * parameters, memory_bytes()
    if needed > free:
        raise ConfigError(
            f"model.width: {name} would have {parameters:.3g} parameters and take {needed / 1e9:.3g} GB, "
            f"there are {free / 1e9:.3g} GB; make it narrower"
        )


def _allocate(module: nn.Module) -> None:
    """Memory for the parameters, in float32 whatever torch's default type is.

    `Module.to_empty` does the same through PyTorch's symbolic shapes, whose import takes a second and 60 MiB.
    """
    for layer in module.modules():
        for name, value in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(torch.empty(value.shape, dtype=torch.float32, device="cpu")))


def image_shape(dataset: Dataset, name: str) -> tuple[int, int, int]:
    """The inputs of a dataset as the network of this name takes them: any numbers are one row for softmax and mlp.

    Raises ConfigError.
    """
    if dataset.has_indices:
        raise ConfigError(f"model.name = {name} takes no tokens, as {dataset.name} has them; set lstm or transformer")
    if len(dataset.shape) == 3:
        channels, height, width = dataset.shape
        return channels, height, width
    if name in BASE_CHANNELS:
        raise ConfigError(f"model.name = {name} needs images, got inputs {dataset.shape} of {dataset.name}; set mlp")
    return math.prod(dataset.shape), 1, 1


def _draw_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """He-normal weights (zero for the last, linear layer's gain is one), biases zero, GroupNorm the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
            draw = rng.standard_normal(tuple(layer.weight.shape), np.float32) * np.float32(math.sqrt(gain / fan_in))
            layer.weight.data.copy_(torch.from_numpy(draw))
        elif isinstance(layer, nn.GroupNorm):
            layer.weight.data.fill_(1.0)
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.GroupNorm) and layer.bias is not None:
            layer.bias.data.zero_()


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm in groups of four channels where that divides."""
    return nn.GroupNorm(max(1, math.gcd(channels, channels // NORM_GROUP_CHANNELS)), channels, affine=affine)


def _mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class ChannelsLast(nn.Module):
    """Puts images into the memory format in which a CPU convolves faster; values stay."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=torch.channels_last)


def _small_cnn(channels: int, height: int, width: int, classes: int, base: int) -> nn.Module:
    if height < 8 or width < 8:
        raise ConfigError(f"small_cnn needs images of at least 8x8 pixels, got {height}x{width}")
    layers: list[nn.Module] = [ChannelsLast()]
    for outputs in (base, 2 * base, 4 * base):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            group_norm(outputs),
            nn.ReLU(),
        ]
        channels = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (height // 8) * (width // 8), classes))


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the basic block of He et al. 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = group_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), group_norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class _ResNet18(nn.Module):
    def __init__(self, channels: int, classes: int, base: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ChannelsLast(),
            nn.Conv2d(channels, base, 3, padding=1, bias=False),
            group_norm(base),
            nn.ReLU(),
        )
        widths = [base, base, base, 2 * base, 2 * base, 4 * base, 4 * base, 8 * base, 8 * base]
        strides = [1, 1, 2, 1, 2, 1, 2, 1]
        pairs = zip(widths[:-1], widths[1:], strides, strict=True)
        self.blocks = nn.Sequential(*(_ResidualBlock(inputs, outputs, stride) for inputs, outputs, stride in pairs))
        self.head = nn.Linear(8 * base, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.blocks(self.stem(images))
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits
