"""What a device computes in a round: one gradient, or local steps and epochs with FedProx, SCAFFOLD or FedDyn.

Whatever the rule, a device sends one vector (dim,) that the server may take for a gradient: after local steps that is
the pseudo-gradient (w_t - w_k) / local_rate. Packets, link and allocation never see the difference.
Axis vocabulary: `dim`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from spfl.arrays import Indices, Vector
from spfl.config.training import TrainingConfig
from spfl.data.dataset import Dataset, draw_moves, flip_half, moved, to_inputs
from spfl.data.partitioning import batch_indices
from spfl.errors import ConfigError
from spfl.flat_model import FlatModel

SHARED = "local/shared"  # what the server broadcasts beside the model: SCAFFOLD's c, FedDyn's mean


def kept_key(device: int) -> str:
    """Where the server's memory holds the vector that a device keeps from round to round."""
    return f"local/kept/{device}"


class Local(NamedTuple):
    """What a local rule gives back.

    vector: float32 (dim,), sent in packets. loss: the mean training loss. kept: float32 (dim,) or None, which the
    device finds again in its next round if the server received this one.
    """

    vector: Vector
    loss: float
    kept: Vector | None = None


@dataclass(frozen=True)
class LocalTask:
    """All that a local rule may use: the rule is a function of it alone, so a run repeats itself bit by bit.

    weights: the model as the device received it, float32 (dim,); do not write to it.
    training: the table [training].
    kept: what the device kept from the last round in which it was received, float32 (dim,); None at first.
    shared: what the server broadcasts beside the model (SCAFFOLD's control variate), float32 (dim,); None at first.
    """

    weights: torch.Tensor
    training: TrainingConfig
    kept: Vector | None
    shared: Vector | None
    model: FlatModel
    dataset: Dataset
    indices: Indices
    rng: np.random.Generator

    @property
    def samples(self) -> int:
        """Samples that the device holds."""
        return len(self.indices)

    def batches(self) -> Iterator[Indices]:
        """The minibatches of the round, as indices into the training set: of `local_steps`, or of `local_epochs`."""
        training = self.training
        if training.local_epochs is None:
            for _ in range(training.local_steps):
                yield batch_indices(self.indices, training.batch_size, self.rng)
            return
        for _ in range(training.local_epochs):
            order = self.rng.permutation(self.indices)
            yield from np.split(order, range(training.batch_size, len(order), training.batch_size))

    def gradient(self, weights: torch.Tensor, batch: Indices) -> tuple[torch.Tensor, float]:
        """Gradient (dim,) and mean loss of a minibatch at `weights`. The gradient is overwritten by the next call."""
        if weights is not self.model.weights:
            self.model.load(weights)
        rows = torch.from_numpy(batch).to(self.dataset.train_inputs.device)
        images = self.dataset.train_inputs[rows]
        images = flip_half(images, self.rng) if self.training.flip else images
        if most_px := self.training.crop_px:
            images = moved(images, draw_moves(len(images), most_px, self.rng))
        inputs, labels = to_inputs(images, self.dataset), self.dataset.train_labels[rows]
        loss = self.model.loss_and_gradient(inputs, labels, self.model.seed(self.rng))
        return self.model.gradient, loss


LocalRule = Callable[[LocalTask], Local | tuple[Vector, float]]


def configured(task: LocalTask) -> Local:
    """The rule of the table [training]."""
    return one_gradient(task) if task.training.one_gradient else local_steps(task)


def checked_local(made: Local | tuple[Vector, float], dim: int) -> Local:
    """What a caller's rule gave back, in float32. Raises ConfigError for another shape."""
    if not isinstance(made, tuple) or len(made) not in (2, len(Local._fields)):
        raise ConfigError(f"local must return a vector and a loss, got {type(made).__name__}")
    result = Local(*made)
    vectors = [np.asarray(v, np.float32) for v in (result.vector, result.kept) if v is not None]
    for vector in vectors:
        if vector.shape != (dim,):
            raise ConfigError(f"local must return vectors of shape ({dim},), got {vector.shape}")
    return Local(vectors[0], float(result.loss), None if result.kept is None else vectors[1].copy())


def one_gradient(task: LocalTask) -> Local:
    """The gradient of one minibatch: FedSGD (McMahan et al. 2017)."""
    task.model.load(task.weights)
    gradient, loss = task.gradient(task.model.weights, next(task.batches()))
    return Local(gradient.numpy(), loss)


def local_steps(task: LocalTask) -> Local:
    """Steps of a local optimiser on f_k(w) + <drift, w> + mu/2 |w - w_t|^2; the pseudo-gradient of their sum.

    FedAvg (McMahan et al. 2017) has neither term. FedProx (Li et al. 2020) has mu. SCAFFOLD (Karimireddy et al. 2020)
    has drift = c - c_k, with control variates of its option II. FedDyn (Acar et al. 2021) has drift = -lambda_k and
    mu = alpha.
    """
    training, start, weights, losses = task.training, task.weights, task.model.weights, []
    drift, pull = _drift(task), training.proximal_mu
    pull += training.feddyn_alpha if training.correction == "feddyn" else 0.0
    optimiser = _optimiser(training, weights)
    task.model.load(start)
    for batch in task.batches():
        gradient, loss = task.gradient(weights, batch)
        losses.append(loss)
        if drift is not None:
            gradient.add_(drift)
        if pull > 0:
            gradient.add_(weights, alpha=pull).sub_(start, alpha=pull)
        weights.grad = gradient
        optimiser.step()
    weights.grad = None
    vector = torch.sub(start, weights, out=task.model.gradient).div_(training.local_rate).cpu().numpy()
    return Local(vector, math.fsum(losses) / len(losses), _to_keep(task, vector))


def _optimiser(training: TrainingConfig, weights: torch.Tensor) -> torch.optim.Optimizer:
    if training.local_optimiser == "adam":
        return torch.optim.Adam([weights], lr=training.local_rate)
    return torch.optim.SGD([weights], lr=training.local_rate, momentum=training.local_momentum)


def _drift(task: LocalTask) -> torch.Tensor | None:
    """What a correction adds to every gradient, (dim,): c - c_k, or -lambda_k; None in the first round."""
    drift: torch.Tensor | None = None
    if task.training.correction == "scaffold" and task.shared is not None:
        drift = torch.tensor(task.shared, device=task.weights.device)
    if task.training.correction != "none" and task.kept is not None:
        own = torch.tensor(task.kept, device=task.weights.device)  # a copy: what came over a network is read-only
        drift = own.neg() if drift is None else drift.sub_(own)
    return drift


def _to_keep(task: LocalTask, vector: Vector) -> Vector | None:
    """c_k - c + (w_t - w_k) / (E eta_l), or lambda_k - alpha (w_k - w_t); None without a correction."""
    training = task.training
    if training.correction == "none":
        return None
    old = np.float32(0.0) if task.kept is None else task.kept
    if training.correction == "feddyn":
        return np.asarray(old + np.float32(training.feddyn_alpha * training.local_rate) * vector)
    common = np.float32(0.0) if task.shared is None else task.shared
    return np.asarray(old - common + vector / np.float32(training.local_steps))


def remember_round(
    training: TrainingConfig, state: Mapping[str, Vector], kept: Mapping[int, Vector], update: Vector, share: float
) -> dict[str, Vector]:
    """The server's memory after a round: what received devices `kept`, and what it will broadcast beside the model.

    `share` is the part of all devices that was received. What changes in the server's variate is a function of the
    vectors that it received anyway, so a correction costs no uplink: SCAFFOLD's c grows by share (ghat / E - c), the
    mean of FedDyn's lambda_k (in units of alpha local_rate) by share ghat.
    """
    state = dict(state) | {kept_key(device): vector for device, vector in kept.items()}
    if training.correction == "none" or share == 0.0 or not np.isfinite(update).all():
        return state
    old = state.get(SHARED, np.zeros_like(update))
    fresh = update if training.correction == "feddyn" else update / np.float32(training.local_steps) - old
    return state | {SHARED: old + np.float32(share) * fresh}
