"""The server's optimisers against Flower's own strategies, which are written after the same paper."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy

import spfl
from spfl.config.training import TrainingConfig
from spfl.errors import ConfigError
from spfl.learning.server import Moved, descend, own_step

ROUNDS, DIM = 12, 7
FLOWERS = {"adam": strategy.FedAdam, "yogi": strategy.FedYogi, "adagrad": strategy.FedAdagrad}


def ours(training, start, gradients):
    state = Moved(start, np.zeros_like(start), {})
    for gradient in gradients:
        state = descend(training, training.rate, state, gradient)
        yield state.weights


def flowers(name, training, start, gradients):
    """Flower's strategy on the models w - ghat, its second moment begun at tau^2 as in algorithm 2 of the paper."""
    extra = {} if name == "adagrad" else {"beta_1": training.beta1, "beta_2": training.beta2}
    fed = FLOWERS[name](eta=training.rate, tau=training.adaptivity, **extra)
    fed.v_t = {"w": np.full_like(start, training.adaptivity**2)}
    weights = start
    for round_, gradient in enumerate(gradients, 1):
        fed.current_arrays = {"w": weights}
        mean = ArrayRecord({"w": Array(weights - gradient)})
        with mock.patch.object(strategy.FedAvg, "aggregate_train", lambda *_, mean=mean: (mean, None)):
            moved, _ = fed.aggregate_train(round_, [])
        correction = np.sqrt(1 - training.beta2**(round_ + 1)) / (1 - training.beta1**(round_ + 1))  # fmt: skip
        step = moved["w"].numpy() - weights
        weights = weights + (step / correction if name == "adam" else step)  # Flower corrects the bias, the paper not
        yield weights


@pytest.mark.parametrize("name", FLOWERS)
def test_adaptive_steps_are_those_of_flower(name):
    rng = np.random.default_rng(3)
    start, gradients = rng.normal(size=DIM).astype(np.float32), rng.normal(size=(ROUNDS, DIM)).astype(np.float32)
    values = {"rate": 0.07, "server_optimiser": name, "adaptivity": 0.02, "beta1": 0.0 if name == "adagrad" else 0.8}
    training = TrainingConfig(**values, **({} if name == "adagrad" else {"beta2": 0.95}))
    moved = list(ours(training, start, gradients))
    for a, b in zip(moved, flowers(name, training, start, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    assert np.abs(moved[-1] - start).max() > 0.05


def test_optimisers_differ_from_each_other():
    gradients = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)
    start = np.zeros(DIM, np.float32)
    ends = [list(ours(TrainingConfig(server_optimiser=n), start, gradients))[-1] for n in ("sgd", *FLOWERS)]
    for i, a in enumerate(ends):
        assert not any(np.allclose(a, b, rtol=1e-3) for b in ends[:i])


@pytest.mark.parametrize("name", FLOWERS)
def test_a_run_with_an_adaptive_server_learns_and_resumes_to_the_same_bits(name, tmp_path):
    values = {"training": {"rounds": 8, "server_optimiser": name, "rate": 0.02}, "data": {"devices": 6}}
    whole = spfl.run(values, scheme="sp_fl_plus_1", out=tmp_path / "whole")
    assert whole.summary["accuracy_final"] > 0.4
    again = spfl.run(values, scheme="sp_fl_plus_1", overrides={"processes": 2, "workers": 2})
    assert again.summary["digest"] == whole.summary["digest"]


def momentum_by_hand(weights, update, memory, round_):
    velocity = 0.9 * memory.get("velocity", 0.0) + update
    return weights - 0.1 * velocity, {"velocity": velocity}


def test_a_server_rule_of_ones_own_equals_the_configured_one(tmp_path):
    values = {"training": {"rounds": 4, "rate": 0.1}, "model": {"name": "softmax"}}
    mine = spfl.run(values, server=momentum_by_hand, out=tmp_path / "mine")
    configured = spfl.run(values, overrides={"training.momentum": 0.9})
    np.testing.assert_allclose(mine.metrics["loss"], configured.metrics["loss"], rtol=1e-4)
    resumed = spfl.run(values, server=momentum_by_hand, out=tmp_path / "mine", existing="resume")
    assert resumed.summary["digest"] == mine.summary["digest"]


def test_a_server_rule_that_returns_another_shape_is_told_so():
    before = Moved(np.zeros(3, np.float32), np.zeros(3, np.float32), {})
    with pytest.raises(ConfigError, match=r"server must return weights of shape \(3,\), got \(2,\)"):
        own_step(lambda w, u, m, t: (w[:2], m), before, np.ones(3, np.float32), 1)
