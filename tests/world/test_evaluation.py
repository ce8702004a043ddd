"""How often weights are evaluated, and on what."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from spfl import training
from spfl.config.schema import build_config
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.world import evaluation
from spfl.world.world import World


def images(train: int, test: int, pixels: int = 8) -> Dataset:
    rng = np.random.default_rng(0)
    parts = [
        (torch.from_numpy(rng.integers(0, 256, (n, 3, pixels, pixels), np.uint8)), torch.arange(n) % 10)
        for n in (train, test)
    ]
    return Dataset("made", *parts[0], *parts[1], 10)


def world_of(dataset: Dataset, **training_: Any) -> World:
    values = {"data": {"name": "digits", "devices": 4}, "model": {"name": "mlp"},
              "training": {"rounds": 3, "batch_size": 8} | training_}  # fmt: skip
    return World.build(build_config(values), dataset)


def test_operations_are_those_of_the_layers() -> None:
    """An MLP's: two of a multiplication and an addition for every weight that is no bias."""
    world = world_of(images(80, 20))
    layers = [size for size, shape in zip(world.layout.sizes, world.layout.shapes, strict=True) if len(shape) == 2]
    assert evaluation.flop_of_a_sample(world.model(), world.dataset) == 2 * sum(layers)


def test_a_fast_network_is_evaluated_every_ten_rounds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert world_of(images(80, 4000)).eval_every == 10
        assert world_of(images(80, 4000), eval_every=3).eval_every == 3


def test_a_slow_network_spends_a_quarter_on_evaluations_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 devices of 8 samples, a training pass counted as three: 4,000 samples are worth 125 / 3 rounds."""
    monkeypatch.setattr(evaluation, "SLOW_FLOP", 1e6)
    with pytest.warns(UserWarning, match="evaluated every 125 rounds only"):
        rare = world_of(images(80, 4000))
    assert rare.eval_every == 125
    share = 4000 / (4000 + 125 * 3 * 4 * 8)
    assert share == pytest.approx(0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert world_of(images(80, 4000), eval_every=1).eval_every == 1
        assert world_of(images(80, 300)).eval_every == 10  # cheap beside ten rounds
    records = list(training.train(rare))
    assert [r.test_score is not None for r in records] == [False, False, True]


def test_a_large_network_is_slow_and_those_of_the_studies_are_not() -> None:
    """ResNet-18 on CIFAR-10: 0.56 billion multiplications a sample."""
    values = {"data": {"name": "cifar10", "devices": 4}, "training": {"rounds": 2, "batch_size": 32}}
    for name, width, slow in (("resnet18", None, True), ("small_cnn", 16, False), ("small_cnn", 32, False)):
        config = build_config(values | {"model": {"name": name} | ({} if width is None else {"width": width})})
        world = World.build(config, images(80, 2, 32))
        operations = evaluation.flop_of_a_sample(world.model(), world.dataset)
        assert (10_000 * operations > evaluation.SLOW_FLOP) == slow
        if slow:
            assert operations == pytest.approx(2 * 0.56e9, rel=0.02)


def test_a_part_of_the_samples_is_evaluated_and_the_same_in_every_round(small_config: Any, digits: Any) -> None:
    config = small_config(training={"eval_samples": 50, "eval_every": 1})
    world, other = World.build(config, digits), World.build(config, digits)
    assert len(world.dataset.test_labels) == 50
    assert torch.equal(world.dataset.test_inputs, other.dataset.test_inputs)
    rows = (digits.test_inputs.flatten(1)[None] == world.dataset.test_inputs.flatten(1)[:, None]).all(2)
    assert rows.any(1).all()
    score = next(training.train(world)).test_score
    assert score is not None
    assert score * 50 == pytest.approx(round(score * 50))
    whole = next(training.train(World.build(small_config(training={"eval_every": 1}), digits)))
    assert np.array_equal(whole.server.weights, next(training.train(world)).server.weights)


def test_more_samples_than_there_are_is_refused(small_config: Any, digits: Any) -> None:
    with pytest.raises(ConfigError, match="eval_samples must be at most the 360 samples to evaluate on, got 5000"):
        World.build(small_config(training={"eval_samples": 5000}), digits)
