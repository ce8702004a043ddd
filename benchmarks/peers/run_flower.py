"""The workload in Flower's simulation: stock FedAvg over one local SGD step, one Ray actor of one thread a core."""

from __future__ import annotations

import os
import time

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workload import BATCH, DEVICES, RATE, images, inputs, network, report, rounds

client = ClientApp()
server = ServerApp()
ends: list[float] = []
final: list[ArrayRecord] = []


@client.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    net = network()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    pixels, labels = images(int(context.node_config["partition-id"]))
    optimiser = torch.optim.SGD(net.parameters(), RATE)
    F.cross_entropy(net(inputs(pixels)), labels).backward()
    optimiser.step()
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": BATCH})})
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    def aggregate_train(self, *arguments, **named):  # type: ignore[no-untyped-def]
        result = super().aggregate_train(*arguments, **named)
        ends.append(time.time())
        final[:] = [result[0]]
        return result


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=DEVICES, min_available_nodes=DEVICES)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=rounds())


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=DEVICES, backend_config=resources)
    report(ends, [array.numpy() for array in final[0].values()])
