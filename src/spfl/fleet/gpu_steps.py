"""Local steps and epochs on a PyTorch device: one device after the other, by the rule of the worker threads.

A step of a small network is some fifty short kernels, so on a GPU the pass of a minibatch is replayed as a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from spfl.arrays import Vector
from spfl.data.dataset import Dataset
from spfl.flat_model import FlatModel, Traits
from spfl.fleet.graphs import Graphs, Tensors
from spfl.fleet.threads import local_gradient
from spfl.learning.local import Local
from spfl.tasks import Task
from spfl.world.world import World


class ReplayedModel(FlatModel):
    """A FlatModel on a CUDA device whose passes are graphs: weights and gradients keep their places in memory."""

    def __init__(self, module: nn.Module, task: Task, traits: Traits) -> None:
        super().__init__(module, task, traits)
        self._pass = Graphs(partial(_pass, module, task, self.gradient))

    def loss_and_gradient(self, inputs: torch.Tensor, labels: torch.Tensor, seed: int | None = None) -> float:
        """See `FlatModel.loss_and_gradient`."""
        if seed is not None:
            return super().loss_and_gradient(inputs, labels, seed)
        return float(self._pass(inputs, labels)[0].item())


def _pass(module: nn.Module, task: Task, gradient: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """The loss of a minibatch, and its gradient in `gradient`. No method: a graph that knows its model is a cycle."""
    gradient.zero_()
    with torch.enable_grad():
        loss = task.loss(module(inputs), labels)
    loss.backward()
    return (loss.detach(),)


class Steps:
    """The local rule of the configuration on one PyTorch device, where `dataset` and the network are."""

    def __init__(self, world: World, module: nn.Module, dataset: Dataset) -> None:
        model = world.model()
        on_gpu = dataset.train_inputs.device.type == "cuda"
        kind = ReplayedModel if on_gpu else FlatModel
        self._world = replace(world, dataset=dataset)
        self._model = kind(module, model.task, model.traits)

    def take(self, weights: torch.Tensor, device: int, round_: int, memory: Mapping[str, Vector]) -> Local:
        """What `device` would send for `weights`, its loss, and what it keeps."""
        made = local_gradient(self._world, self._model, weights, device, round_, memory)
        return made._replace(vector=made.vector.copy())  # the next device overwrites it
