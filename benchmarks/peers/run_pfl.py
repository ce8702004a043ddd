"""The workload in pfl: FederatedAveraging over one local step; alone, or one process a core under torchrun."""

from __future__ import annotations

import os
import time

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from workload import DEVICES, RATE, images, inputs, network, report, rounds

ranks = int(os.environ.get("WORLD_SIZE", "1"))
torch.set_num_threads(1 if ranks > 1 else os.cpu_count() or 1)
ends: list[float] = []


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def loss(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.net(inputs(pixels)), labels)

    def metrics(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, object]:
        return {}


class Clock(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
        ends.append(time.time())
        return False, Metrics()


data = [Dataset(images(device)) for device in range(DEVICES)]
users = FederatedDataset(lambda user: data[user], get_user_sampler("minimize_reuse", list(range(DEVICES))))
net = Net()
model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))
FederatedAveraging().run(
    NNAlgorithmParams(
        central_num_iterations=rounds(), evaluation_frequency=10**6, train_cohort_size=DEVICES, val_cohort_size=None
    ),
    SimulatedBackend(users, None),
    model,
    NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=None),
    callbacks=[Clock()],
)
if os.environ.get("RANK", "0") == "0":
    report(ends, [parameter.detach().numpy() for parameter in net.net.parameters()])
