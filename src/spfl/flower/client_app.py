"""A node: it computes for its devices, and keeps their packets until the server asks for them.

Nothing is kept between messages but what lies in `context.state`: in a deployment each message starts a process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from logging import ERROR, INFO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore import log

from spfl.config.schema import Config
from spfl.data.dataset import Dataset, Moments
from spfl.data.node_data import NodeData, node_data, sums_of
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, PacketError, SpflError
from spfl.figures.scores import shown
from spfl.fleet.threads import ThreadFleet
from spfl.flower import datagrams, protocol, records
from spfl.flower.project import load_own_parts
from spfl.flower.roster import Place
from spfl.flower.settings import read_run_config
from spfl.runs.environment import installed_versions
from spfl.world.state import ServerState
from spfl.world.world import World

app = ClientApp()
MOST_SITES = 64  # nodes of one process whose data and threads are kept


@dataclass(frozen=True)
class Site:
    """What a node has: the experiment, a digest of the code it was brought, and threads that compute."""

    world: World
    code: str
    fleet: ThreadFleet


def site_of(context: Context, moments: Moments | None = None) -> Site:
    """The node's data and network, built once a process. Raises DataError or ConfigError.

    `moments` is the normalisation of own data that the server tells.
    """
    settings, node = read_run_config(context.run_config), context.node_config
    config, folder = settings.experiment, str(node.get("data-dir", ""))
    if config.data.source == "partition":
        return _site(config, settings.flower.module, folder or settings.flower.data_dir, None)
    source = str(node.get("data", "") or folder)
    if not source:
        raise ConfigError(f'--node-config must say "data-dir=FOLDER" or "data=module:function", got {dict(node)}')
    return _site(config, settings.flower.module, source, moments)


@lru_cache(maxsize=MOST_SITES)
def _site(config: Config, module: str, source: str, moments: Moments | None) -> Site:
    own = load_own_parts(module, config.seed)
    world = World.build(config, _dataset(config, source, moments), own.custom)
    return Site(world, own.digest, ThreadFleet(world))


def _dataset(config: Config, source: str, moments: Moments | None) -> Dataset:
    if config.data.source == "partition":
        return load_dataset(config.data, Path(source) if source else None)
    data = node_data(config, source)
    if moments is not None:
        data.moments[:] = [moments]
    return data


def place_of(node_config: Mapping[str, Any], source: str = "partition") -> tuple[int, int]:
    """The node's partition, and of how many. Raises ConfigError unless its node config says what it must.

    With data of its own a node stands for one device. It need not say which: the server gives it a number then.
    """
    partition, partitions = node_config.get("partition-id"), node_config.get("num-partitions")
    if source == "node":
        if partition is not None and (type(partition) is not int or partition < 0):
            raise ConfigError(f"partition-id must be a whole number >= 0, got {partition!r}")
        return (protocol.NOT_TOLD if partition is None else partition), 0
    if type(partition) is not int or type(partitions) is not int:
        raise ConfigError(f'--node-config must say "partition-id=P num-partitions=N", got {dict(node_config)}')
    place = Place(partition, partitions)
    return place.partition, place.partitions


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Who is there: the node's partition, and what it takes the experiment to be; or why it cannot take part."""
    _site.cache_clear()  # whoever is asked again may have been repaired
    try:
        content = protocol.hello_content(_hello(context))
    except SpflError as error:
        log(ERROR, "cannot take part: %s", error)
        content = protocol.refusal_content(str(error))
    return Message(content, reply_to=message)


def _hello(context: Context) -> protocol.Hello:
    site = site_of(context)
    partition, partitions = place_of(context.node_config, site.world.config.data.source)
    versions, identity = str(installed_versions()), protocol.identity_of(site.world, site.code)
    hello, data = protocol.Hello(partition, partitions, identity, versions), site.world.dataset
    if not isinstance(data, NodeData):
        return hello
    samples, test_samples = len(data.train_labels), len(data.test_labels)
    log(INFO, "own data: %s training samples, %s test samples", samples, test_samples)
    return protocol.Hello(partition, partitions, identity, versions, samples, test_samples, sums_of(data))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Gradients and packets of the node's devices; the reply has the side information, and in one exchange all."""
    began, config = time.perf_counter(), read_run_config(context.run_config)
    site = site_of(context, protocol.read_moments(message.content, config.data))
    task = protocol.read_task(message.content, site.world)
    _check_own(task.devices, context, config.data.source)
    server = ServerState(task.round_ - 1, task.weights, np.zeros(0, np.float32), task.memory)
    uploads, _ = site.fleet.uploads(server, task.devices, task.round_)
    content = protocol.report_content(task.round_, uploads)
    packets = records.packets_record(uploads, site.world)
    if task.one_exchange:
        content["packets"] = packets
    else:
        sending = [upload.device for upload in uploads if upload.samples]
        for name, record in protocol.upload_content(task.round_, sending, packets).items():
            context.state[name] = record
    losses = [upload.loss for upload in uploads if upload.samples]
    seconds = time.perf_counter() - began
    log(
        INFO, "round %s: %s devices, loss %.4f, %.1f s", task.round_, len(uploads), np.mean(losses or [np.nan]), seconds
    )
    return Message(content, reply_to=message)


def _check_own(devices: tuple[int, ...], context: Context, source: str) -> None:
    """Raises PacketError for devices that are not of this node."""
    partition, partitions = place_of(context.node_config, source)
    if source == "partition":
        own = Place(partition, partitions).devices(devices) == devices
    else:
        own = len(devices) == 1 and partition in (devices[0], protocol.NOT_TOLD)
    if not own:
        raise PacketError(f"devices {devices} are not all of this node")


@app.train("upload")
def upload(message: Message, context: Context) -> Message:
    """Hand over the packets made in `train`, or send them as datagrams when the grant says how.

    Raises PacketError when there are none of that round and those devices.
    """
    round_, devices = protocol.read_grant(message.content)
    kept = RecordDict({name: context.state[name] for name in ("upload", "packets") if name in context.state})
    protocol.check_upload(kept, round_, devices)
    for name in kept:
        del context.state[name]
    order = datagrams.read_order(message.content)
    if order is not None:
        _send(kept, order, round_, devices, site_of(context).world)
    return Message(kept, reply_to=message)


def _send(kept: RecordDict, order: datagrams.SendOrder, round_: int, devices: tuple[int, ...], world: World) -> None:
    """Send the packets that a reply would have; the rest of it stays."""
    record = kept["packets"]
    assert isinstance(record, ArrayRecord)  # `check_upload` looked
    packets: dict[tuple[int, int], bytes] = {}
    for name, kind in datagrams.PACKETS.items():
        if name in record:
            for device, packet in zip(devices, records.stored_packets(record, name, world, len(devices)), strict=True):
                packets[device, kind] = packet
            del record[name]
    count = datagrams.send(world, order, packets, round_)
    log(INFO, "round %s: %s datagrams sent to %s", round_, count, order.address)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The score of the server's weights on the node's own test samples, and their number."""
    config = read_run_config(context.run_config)
    site = site_of(context, protocol.read_moments(message.content, config.data))
    weights = protocol.read_evaluation(message.content, site.world)
    loss, score = site.fleet.evaluate(weights)
    metric, count = site.world.task.metric, len(site.world.dataset.test_labels)
    log(INFO, "own test %s %s on %s samples", metric, shown(metric, score, 2), count)
    return Message(protocol.score_content(loss, score, count), reply_to=message)
