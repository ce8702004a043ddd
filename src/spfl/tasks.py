"""What is learned: the loss that devices descend, and the score that is told, of each task or of the caller's own.

A score is a mean over samples. Larger is better, unless the function of a score of the caller's own says, as those of
torchmetrics do, that `higher_is_better` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spfl.config.names import TaskName
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.own_code import called

Measure = Callable[[torch.Tensor, torch.Tensor], Any]


@dataclass(frozen=True)
class Task:
    """Loss and score of a batch, both means over its samples, from (outputs, labels).

    metric: the name of the score in metrics.jsonl (after test_), tables and figures.
    lower_is_better: whether tuning and tables take the smallest score for the best.
    classes: whether the totals of a test part are counted as those of classification.
    """

    metric: str
    loss: Measure
    score: Measure
    classes: bool = False
    lower_is_better: bool = False

    def totals(self, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        """Loss and score of a batch, summed over its samples."""
        if self.classes:
            correct = int((outputs.argmax(1) == labels).sum())
            return F.cross_entropy(outputs, labels, reduction="sum").item(), correct
        return float(self.loss(outputs, labels)) * len(labels), float(self.score(outputs, labels)) * len(labels)


def task_of(dataset: Dataset, loss: Measure | None = None, metric: Measure | None = None) -> Task:
    """The task of a dataset, with a loss or a metric of the caller's in place of its own."""
    task = _TASKS[dataset.task](dataset)
    if loss is None and metric is None:
        return task
    name = task.metric if metric is None else _name_of(metric)
    lower = getattr(metric, "higher_is_better", True) is False
    return Task(
        name,
        task.loss if loss is None else partial(_own_measure, "loss", loss),
        task.score if metric is None else partial(_own_measure, "metric", metric),
        lower_is_better=lower,
    )


def _own_measure(part: str, measure: Measure, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
    """One number of the caller's own loss or metric. Raises ConfigError for anything else."""
    value = called(part, measure, outputs, labels)
    if isinstance(value, torch.Tensor) and value.numel() == 1 and (part == "metric" or value.is_floating_point()):
        return value
    if part == "metric" and isinstance(value, int | float | np.number):
        return value
    got = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise ConfigError(f"{part} of your own must return {'a tensor of ' if part == 'loss' else ''}one number, got {got}")


def _name_of(metric: Measure) -> str:
    name = str(getattr(metric, "__name__", "score"))
    name = name if name.isidentifier() else "score"
    if name == "loss":
        raise ConfigError("metric must have a name of its own, got a function named loss")
    return name


def expected_outputs(dataset: Dataset, count: int) -> tuple[int, ...]:
    """The shape of what a network returns for `count` samples."""
    inner = dataset.train_labels.shape[1:] if dataset.task == "next_token" else ()
    return (count, *inner, dataset.classes)


def _classification(_: Dataset) -> Task:
    return CLASSIFICATION


def _multi_label(_: Dataset) -> Task:
    return Task("f1", F.binary_cross_entropy_with_logits, sample_f1)


def _regression(dataset: Dataset) -> Task:
    labels = dataset.test_labels if len(dataset.test_labels) > 1 else dataset.train_labels
    labels = labels if len(labels) else torch.zeros(1, dataset.classes)  # a server without samples scores nothing
    return Task("r2", F.mse_loss, R2(labels.double().var(0, correction=0).clamp_min(1e-30).float()))


def _next_token(_: Dataset) -> Task:
    return Task("accuracy", next_token_loss, hits)


@dataclass(frozen=True)
class R2:
    """One minus the mean squared error relative to that of the test part's mean, whose error is `spread` (output,)."""

    spread: torch.Tensor

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1 - ((outputs - targets).square() / self.spread.to(outputs.device)).mean()


def next_token_loss(outputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross entropy, averaged over all places of all sequences."""
    return F.cross_entropy(outputs.flatten(0, -2), tokens.flatten())


def hits(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of the labels that the largest output tells."""
    return (outputs.argmax(-1) == labels).float().mean()


def sample_f1(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """F1 of the classes that a sample is given (logit > 0), averaged over samples; 1 where it has and is given none."""
    given = (outputs > 0).float()
    together, either = (given * labels).sum(1), given.sum(1) + labels.sum(1)
    return torch.where(either > 0, 2 * together / either.clamp_min(1), 1.0).mean()


CLASSIFICATION = Task("accuracy", F.cross_entropy, hits, classes=True)
_TASKS: dict[TaskName, Callable[[Dataset], Task]] = {
    "classification": _classification,
    "multi_label": _multi_label,
    "regression": _regression,
    "next_token": _next_token,
}
