"""What becomes of BatchNorm: statistics that are averaged, GroupNorm in its place, or statistics that stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spfl.arrays import Bools, Indices, State
from spfl.config.schema import Config
from spfl.custom import copy_module
from spfl.errors import ConfigError
from spfl.flat_model import STATISTICS, Traits
from spfl.models import group_norm
from spfl.uplink.upload import Upload


def with_batch_norm(module: nn.Module, policy: str) -> nn.Module:
    """A copy of a network in which BatchNorm follows `model.batch_norm`; itself where there is nothing to do."""
    found = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    if not found or policy == "average":
        return module
    copied = copy_module(module)
    for name in found:
        layer = copied.get_submodule(name)
        assert isinstance(layer, _BatchNorm)
        if policy == "frozen":
            _freeze(layer, name)
        elif not name:
            raise ConfigError("model.batch_norm must be average or frozen for a network that is one BatchNorm")
        else:
            parent, _, last = name.rpartition(".")
            setattr(copied.get_submodule(parent), last, _as_group_norm(layer))
    return copied


def _freeze(layer: _BatchNorm, name: str) -> None:
    """Eval mode from here on: `flat_model` leaves every layer in the mode in which it came."""
    if layer.running_mean is None:
        raise ConfigError(f"model.batch_norm = frozen needs running statistics, module.{name} has none")
    layer.eval()


def _as_group_norm(layer: _BatchNorm) -> nn.Module:
    """GroupNorm with the scale and shift of a BatchNorm layer, in groups of four channels where that divides."""
    made = group_norm(layer.num_features, affine=layer.affine)
    made.eps = layer.eps
    if layer.affine:
        made.weight.data.copy_(layer.weight.data)
        made.bias.data.copy_(layer.bias.data)
        made.requires_grad_(layer.weight.requires_grad)
    return made


def check_batches(config: Config, parts: Sequence[Indices], traits: Traits) -> None:
    """Raises ConfigError where a device would have a minibatch smaller than the network takes."""
    if traits.least_batch == 1:
        return
    training, least = config.training, traits.least_batch
    for device in range(min(len(parts), 10**4)):
        size = len(parts[device])
        epoch = training.local_epochs is not None
        smallest = (size % training.batch_size or training.batch_size) if epoch else min(training.batch_size, size)
        if size and smallest < least:
            raise ConfigError(
                f"this network takes minibatches of {least} samples or more (BatchNorm), device {device} has {size}, "
                f"once {smallest} at a time; change training.batch_size or data.min_samples, or set "
                "model.batch_norm = group"
            )


def average_statistics(state: State, uploads: Sequence[Upload], told: Bools) -> State:
    """The state with the mean running statistics of a round, by samples, of the devices that `told` finite ones."""
    heard = [upload for upload, came in zip(uploads, told, strict=True) if came]
    values_of = [(u.samples, u.statistics) for u in heard if u.samples and u.statistics is not None]
    finite = [(samples, values) for samples, values in values_of if np.isfinite(values).all()]
    if not finite:
        return state
    weights = np.array([samples for samples, _ in finite], np.float64)
    mean = np.average(np.stack([values for _, values in finite]), axis=0, weights=weights)
    return dict(state) | {STATISTICS: mean.astype(np.float32)}
