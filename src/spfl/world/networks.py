"""The networks that `model.name` names, for the data of a run."""

from __future__ import annotations

from torch import nn

from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.models import build_model, image_shape
from spfl.rng import SETUP_ROUND, Purpose, server_stream
from spfl.sequence_models import SEQUENCE_MODELS, Sequences, build_sequence_model

WIDTH = 64  # of a sequence model


def named_network(config: Config, data: Dataset) -> nn.Module:
    """A new copy with its initial weights, of the seed. Raises ConfigError where it does not take these inputs."""
    name, size = config.model.name, config.model.width
    rng = server_stream(config.seed, SETUP_ROUND, Purpose.INITIAL_WEIGHTS)
    if name not in SEQUENCE_MODELS:
        sizes = {} if size is None else {"hidden": size, "base_channels": size}
        return build_model(name, image_shape(data, name), data.classes, rng=rng, **sizes)
    if not data.has_indices or len(data.shape) != 1:
        raise ConfigError(f"model.name = {name} needs rows of tokens, got inputs {data.shape} of {data.name}")
    sequences = Sequences(data.vocabulary, data.shape[0], data.classes, data.task == "next_token")
    return build_sequence_model(name, sequences, size or WIDTH, rng)
