"""A node: it computes for its devices, and keeps their packets until the server asks for them.

Nothing is kept between messages but what lies in `context.state`: in a deployment each message starts a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from spfl.config.schema import Config
from spfl.data.dataset import load_dataset
from spfl.errors import ConfigError, PacketError
from spfl.fleet.threads import Fleet
from spfl.flower import protocol
from spfl.flower.roster import Place
from spfl.flower.settings import read_run_config
from spfl.runs.environment import describe_environment
from spfl.world.state import ServerState
from spfl.world.world import World

app = ClientApp()


@dataclass(frozen=True)
class Site:
    """What a node has: the experiment, and threads that compute."""

    world: World
    fleet: Fleet


def site_of(context: Context) -> Site:
    """The node's data and network, built once a process. Raises DataError or ConfigError."""
    settings = read_run_config(context.run_config)
    folder = str(context.node_config.get("data-dir", "") or settings.flower.data_dir)
    return _site(settings.experiment, folder)


@lru_cache(maxsize=1)
def _site(config: Config, folder: str) -> Site:
    world = World.build(config, load_dataset(config.data.name, Path(folder) if folder else None))
    return Site(world, Fleet(world))


def place_of(node_config: Mapping[str, Any]) -> Place:
    """The node's place. Raises ConfigError unless its node config says `partition-id=P num-partitions=N`."""
    partition, partitions = node_config.get("partition-id"), node_config.get("num-partitions")
    if type(partition) is not int or type(partitions) is not int:
        raise ConfigError(f'--node-config must say "partition-id=P num-partitions=N", got {dict(node_config)}')
    return Place(partition, partitions)


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Who is there: the node's partition, and what it takes the network to be."""
    place, world = place_of(context.node_config), site_of(context).world
    versions = str(describe_environment()["versions"])
    answer = protocol.Hello(place.partition, place.partitions, protocol.experiment_of(world), versions)
    return Message(protocol.hello_content(answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Gradients and packets of the node's devices; the reply has the side information, and in one exchange all."""
    site = site_of(context)
    task = protocol.read_task(message.content, site.world)
    if place_of(context.node_config).devices(task.devices) != task.devices:
        raise PacketError(f"devices {task.devices} are not all of this node")
    server = ServerState(task.round_ - 1, task.weights, np.zeros(0, np.float32), task.memory)
    uploads, _ = site.fleet.uploads(server, task.devices, task.round_)
    content = protocol.report_content(task.round_, uploads)
    packets = protocol.packets_record(uploads, site.world)
    if task.one_exchange:
        content["packets"] = packets
    else:
        sending = [upload.device for upload in uploads if upload.samples]
        for name, record in protocol.upload_content(task.round_, sending, packets).items():
            context.state[name] = record
    return Message(content, reply_to=message)


@app.train("upload")
def upload(message: Message, context: Context) -> Message:
    """Hand over the packets made in `train`. Raises PacketError when there are none of that round and those devices."""
    round_, devices = protocol.read_grant(message.content)
    kept = RecordDict({name: context.state[name] for name in ("upload", "packets") if name in context.state})
    protocol.check_upload(kept, round_, devices)
    for name in kept:
        del context.state[name]
    return Message(kept, reply_to=message)
