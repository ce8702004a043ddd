"""Messages, objects and bytes of a round on Flower: the tables of docs/deploy.md, on paper.

    python benchmarks/flower_sizing.py [--gigabits 1.0]

The messages are made as the server and a node make them, and measured as Flower serialises them; a round is that times
the number of nodes. TLS, HTTP headers, polls and retries come on top. No round of the larger sizes was run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from spfl.config.schema import CodecConfig, Config, SchemeConfig
from spfl.flat_model import FlatModel
from spfl.flower import protocol, records
from spfl.flower.strategy import UPLOAD
from spfl.models import build_model
from spfl.packets.layout import Layout
from spfl.schemes import SCHEMES
from spfl.uplink.format import Format
from spfl.uplink.upload import Origin, Upload, encode

NETWORKS = {"digits, mlp": ("mlp", 1, 8), "CIFAR-10, small_cnn": ("small_cnn", 3, 32), "CIFAR-10, resnet18": ("resnet18", 3, 32)}  # fmt: skip # noqa: E501
CELLS = ((10, 10), (1_000, 1_000), (100_000, 100_000), (100_000, 100))  # devices, nodes
SCHEME = "sp_fl_plus_1"


@dataclass(frozen=True)
class Traffic:
    """What one node receives and sends in a round: messages, objects (an HTTP request each), bytes."""

    messages: int
    objects: int
    down_bytes: int
    up_bytes: int


def layout_of(network: str) -> Layout:
    """The layout of one of NETWORKS."""
    name, channels, side = NETWORKS[network]
    rng = np.random.default_rng(0)
    return FlatModel(build_model(name, (channels, side, side), 10, rng=rng)).layout


def traffic(layout: Layout, devices: int, one_exchange: bool = False) -> Traffic:
    """Measured on messages of random content, since Flower stores equal chunks once."""
    form = Format(SCHEMES[SCHEME], SchemeConfig(name=SCHEME), layout, CodecConfig(), 0)
    world: Any = SimpleNamespace(layout=layout, scheme=form.scheme, format=form, config=Config())
    rng = np.random.default_rng(1)
    uploads = [_upload(world, rng.standard_normal(layout.size, np.float32), device) for device in range(devices)]
    weights = records.weights_record(rng.standard_normal(layout.size, np.float32))
    task = protocol.RoundTask(1, tuple(range(devices)), np.zeros(0, np.float32), {}, one_exchange)
    down = [protocol.task_content(task, weights)]
    up = [protocol.report_content(1, uploads)]
    packets = records.packets_record(uploads, world)
    if one_exchange:
        up[0]["packets"] = packets
    else:
        share: Any = SimpleNamespace(beta=rng.random(devices), alpha=rng.random(devices), rho=rng.random(devices))
        down.append(protocol.grant_content(1, range(devices), share, range(devices)))
        up.append(protocol.upload_content(1, range(devices), packets))
    sizes = [list(_object_bytes(content)) for content in down + up]
    down_bytes = sum(map(sum, sizes[: len(down)]))
    return Traffic(len(sizes), sum(map(len, sizes)), down_bytes, sum(map(sum, sizes)) - down_bytes)


def _upload(world: Any, gradient: np.ndarray, device: int) -> Upload:
    return encode(world.format, gradient, {}, Origin(device, 1, 50, 1.0))


def _object_bytes(content: RecordDict) -> Iterator[int]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 2**62, 1, 2**62
    for part in get_all_nested_objects(Message(content, 2**62, UPLOAD)).values():
        yield len(part.deflate())


def table(gigabits: float) -> str:
    """A row for each network and cell; bytes of nodes with many devices by the line through one and two."""
    head = f"| network, d | devices | nodes | messages | down | up | seconds at {gigabits:g} Gbit/s |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for network in NETWORKS:
        layout = layout_of(network)
        one, two = traffic(layout, 1), traffic(layout, 2)
        for devices, nodes in CELLS:
            further = devices / nodes - 1
            down = nodes * (one.down_bytes + further * (two.down_bytes - one.down_bytes))
            up = nodes * (one.up_bytes + further * (two.up_bytes - one.up_bytes))
            seconds = 8 * max(down, up) / (gigabits * 1e9)  # both ways at once
            counts = f"{devices:,} | {nodes:,} | {nodes * one.messages:,}"
            lines.append(
                f"| {network}, {layout.size:,} | {counts} | {_bytes(down)} | {_bytes(up)} | {_short(seconds)} |"
            )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(count: float) -> str:
    power = min(int(np.log10(count)) // 3, 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabits", type=float, default=1.0, help="rate of the server's network, Gbit/s each way")
    arguments = parser.parse_args()
    print(table(arguments.gigabits))
    small = layout_of("digits, mlp")
    print(f"\na node and round: {traffic(small, 1)}\nin one exchange:  {traffic(small, 1, one_exchange=True)}")
