"""How often, and on how many samples, weights are evaluated.

Evaluating a large network can take most of a run: two rounds of a ResNet-18 with four devices spent 85 % of their time
in one evaluation. So where the configuration does not say how often, it is counted what an evaluation costs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch

from spfl.config.schema import Config
from spfl.data.dataset import Dataset, to_inputs
from spfl.errors import ConfigError
from spfl.flat_model import FlatModel, evaluating
from spfl.rng import SETUP_ROUND, Purpose, server_stream

USUAL_ROUNDS = 10
SLOW_FLOP = 1e12  # of one evaluation: some ten seconds of a core


def evaluated_part(config: Config, dataset: Dataset) -> Dataset:
    """The dataset with as many test samples as `training.eval_samples` asks for, drawn once for all rounds and schemes.

    Raises ConfigError where there are fewer.
    """
    wanted, held = config.training.eval_samples, len(dataset.test_labels)
    if wanted is None:
        return dataset
    if wanted > held:
        raise ConfigError(f"training.eval_samples must be at most the {held} samples to evaluate on, got {wanted}")
    rng = server_stream(config.seed, SETUP_ROUND, Purpose.EVALUATION)
    return dataset.tested_on(np.sort(rng.choice(held, wanted, replace=False)))


def rounds_between(config: Config, dataset: Dataset, size: int, model: Callable[[], FlatModel]) -> int:
    """Rounds between evaluations: ten; more for a slow network of `size` weights, so that they take a quarter at most.

    By operations counted, not by a clock, so that a run is the same on every machine. A training pass counts as three
    passes forward.
    """
    training, held = config.training, len(dataset.test_labels)
    places = math.prod(dataset.shape[1:] if dataset.is_images else dataset.shape)
    at_most = 2 * size * places  # of a sample: each weight is used once a place
    if held * at_most < SLOW_FLOP or held * flop_of_a_sample(model(), dataset) < SLOW_FLOP:
        return USUAL_ROUNDS
    trained = config.cohort * training.samples(len(dataset.train_labels) // config.data.devices)
    return max(USUAL_ROUNDS, math.ceil(held / max(trained, 1)))


def tell_rare_evaluation(config: Config, rounds: int, held: int) -> None:
    """Warn of a network that is evaluated less often than usual."""
    if config.training.eval_every is None and rounds > USUAL_ROUNDS:
        warnings.warn(
            f"weights are evaluated every {rounds} rounds only, and after the last: an evaluation on {held} samples "
            "takes this network long; set training.eval_every or training.eval_samples for other ones",
            stacklevel=3,
        )


def flop_of_a_sample(model: FlatModel, dataset: Dataset) -> float:
    """Multiplications and additions of one forward pass; 0 where PyTorch cannot count them."""
    from torch.utils.flop_counter import FlopCounterMode  # with it comes much that a small network does not need

    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), evaluating(model.module), counter:
            model.module(to_inputs(dataset.test_inputs[:1], dataset))
    except Exception:  # a compiled network, say: it is then taken for a fast one
        return 0.0
    return float(counter.get_total_flops())
