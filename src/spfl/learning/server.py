"""The server's step: SGD with momentum (FedAvg, FedAvgM) and the adaptive rules of Reddi et al. 2021.

The aggregate ghat stands for minus the mean update of the devices, so w_{t+1} = w_t - eta (step made of ghat).
Adaptive Federated Optimization (ICLR 2021), algorithm 2: m = beta1 m + (1 - beta1) ghat, w -= eta m / (sqrt(v) + tau),
without correction of the bias, v from tau^2. Axis vocabulary: `dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from spfl.arrays import State, Vector
from spfl.config.training import TrainingConfig
from spfl.errors import ConfigError
from spfl.learning.local import SHARED
from spfl.own_code import called

OWN = "server/"  # names in the server's memory that a server rule may use; no device is sent them
SECOND = "server/second"


class Moved(NamedTuple):
    """Weights and velocity (first moment) (dim,) after a step, and the server's memory."""

    weights: Vector
    velocity: Vector
    memory: State


ServerRule = Callable[[Vector, Vector, Mapping[str, Vector], int], tuple[Vector, Mapping[str, Vector]]]


def descend(training: TrainingConfig, rate: float, before: Moved, gradient: Vector) -> Moved:
    """One step of `training.server_optimiser` with `rate` along the aggregate (dim,)."""
    if training.correction == "feddyn":
        gradient = gradient + before.memory.get(SHARED, np.float32(0.0))
    if training.server_optimiser == "sgd":
        velocity = np.float32(training.momentum) * before.velocity + gradient
        move = np.float32(rate) * velocity
        return Moved(np.subtract(before.weights, move, out=move), velocity, before.memory)  # in place: a vector less
    beta, tau = np.float32(training.beta1), np.float32(training.adaptivity)
    first = beta * before.velocity + (np.float32(1) - beta) * gradient
    second = _second_moment(training, before.memory.get(SECOND), np.square(gradient))
    moved = np.float32(rate) * first / (np.sqrt(second) + tau)
    return Moved(np.asarray(before.weights - moved, np.float32), first, {**before.memory, SECOND: second})


def _second_moment(training: TrainingConfig, old: Vector | None, square: Vector) -> Vector:
    if old is None:
        old = np.full_like(square, training.adaptivity**2)
    if training.server_optimiser == "adagrad":
        return old + square
    gain = np.float32(1.0 - training.beta2)
    if training.server_optimiser == "yogi":
        return np.asarray(old - gain * square * np.sign(old - square), np.float32)
    return np.float32(training.beta2) * old + gain * square


def own_step(rule: ServerRule, before: Moved, gradient: Vector, round_: int) -> Moved:
    """The step of a caller's rule. Raises ConfigError when it gives back something else than weights and vectors."""
    mine = {name.removeprefix(OWN): array for name, array in before.memory.items() if name.startswith(OWN)}
    answer = called("server", rule, before.weights.copy(), gradient, mine, round_)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ConfigError(f"server must return (weights, memory), got {type(answer).__name__}")
    weights, kept = answer
    weights = np.asarray(weights, np.float32)
    if weights.shape != before.weights.shape:
        raise ConfigError(f"server must return weights of shape {before.weights.shape}, got {weights.shape}")
    rest = {name: array for name, array in before.memory.items() if not name.startswith(OWN)}
    return Moved(weights, before.velocity, rest | {OWN + n: np.asarray(a, np.float32) for n, a in kept.items()})
