"""The Flower server: the strategy's rounds, written to a run folder as `spfl run` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from logging import INFO
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from spfl.config.schema import Config
from spfl.data.dataset import Dataset
from spfl.data.node_data import NodeData, server_data
from spfl.data.node_files import load_own
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, RunFolderError, reason
from spfl.figures.scores import shown
from spfl.fleet.threads import ThreadFleet
from spfl.flower.datagrams import DatagramUplink
from spfl.flower.datagrams import check as check_datagrams
from spfl.flower.gateway import Gateway, split_address
from spfl.flower.monitoring import metrics_endpoint, write_metrics
from spfl.flower.project import load_own_parts
from spfl.flower.settings import FlowerConfig, read_run_config
from spfl.flower.strategy import SpFl
from spfl.runs.experiment import read_json, run_experiment
from spfl.runs.folders import write_atomically
from spfl.runs.jsons import Json, dump_json
from spfl.runs.metrics import metric_of, score_of
from spfl.runs.trackers import tracking
from spfl.training import RoundRecord
from spfl.world.state import ServerState
from spfl.world.world import World

NODES = "nodes.json"  # in the run folder: which node holds which device, and the normalisation of own data
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config says. Raises what `run_on` raises."""
    settings = read_run_config(context.run_config)
    run_on(grid, settings.experiment, settings.flower)


def run_on(grid: Grid, config: Config, engine: FlowerConfig, progress: Callable[[Json], None] = lambda _: None) -> Json:
    """Run the experiment on a grid of nodes, and return the summary of its run folder.

    A folder that is not empty is refused unless `engine.resume`; then the run goes on from its last checkpoint.
    Raises ConfigError, DataError and RunFolderError before the first round.
    """
    _check(config, engine)
    own, folder = load_own_parts(engine.module, config.seed), Path(engine.out)

    def rounds(config: Config, dataset: Dataset, server: ServerState | None) -> Iterator[RoundRecord]:
        world = World.build(config, dataset, own.custom)
        with ThreadFleet(world) as fleet, _uplink(world, engine) as uplink:
            nodes_evaluate = isinstance(dataset, NodeData) and not len(dataset.test_labels)
            if nodes_evaluate and world.traits.statistics:
                raise ConfigError(
                    "model.batch_norm must be group or frozen where nodes evaluate, or set flower.test_data"
                )
            strategy = SpFl(world, None if nodes_evaluate else fleet.evaluate, engine, server)
            strategy.code, strategy.uplink = own.digest, uplink
            if server is not None:
                _recall(folder, strategy)
            for record in strategy.rounds(grid):
                _remember(folder, strategy)  # before the round's checkpoint: a server may be killed at any time
                yield record

    with (
        tracking([engine.tracker] if engine.tracker else [], config, folder) as track,
        metrics_endpoint(engine.metrics_listen) if engine.metrics_listen else nullcontext() as endpoint,
    ):

        def tell(values: Json) -> None:
            _log_round(values, config)
            if endpoint is not None:
                endpoint.tell(values)
            if engine.metrics_file:
                write_metrics(Path(engine.metrics_file), values)
            track(values)
            progress(values)

        return run_experiment(
            config,
            _dataset(config, engine),
            folder,
            existing="resume" if engine.resume else "refuse",
            custom=own.custom,
            checkpoint_every=engine.checkpoint_every,
            progress=tell,
            rounds=rounds,
        )


@contextmanager
def _uplink(world: World, engine: FlowerConfig) -> Iterator[DatagramUplink | None]:
    """What hears the nodes' datagrams; None where packets travel as records. Raises ConfigError and FlowerError."""
    if engine.packets == "records":
        yield None
        return
    check_datagrams(world)
    listen = engine.udp_listen or f"0.0.0.0:{split_address(engine.udp_address, 'flower.udp_address')[1]}"
    with Gateway(listen) as gateway:
        yield DatagramUplink(world, gateway, engine.udp_address, 1e6 * engine.udp_mbit, engine.udp_quiet_s)


def _check(config: Config, engine: FlowerConfig) -> None:
    """Raises ConfigError for what nodes cannot do."""
    if not engine.out:
        raise ConfigError("flower.out must name the run folder on the server's host, got ''")
    if config.channel.downlink == "stale":
        raise ConfigError(
            "channel.downlink must be perfect or sit_out on Flower, whose nodes keep no old model, got stale"
        )
    if config.torch_device is not None:
        raise ConfigError(
            f"torch_device must be absent on Flower, whose nodes send packets, got {config.torch_device!r}"
        )
    if engine.packets == "udp":
        split_address(engine.udp_address, "flower.udp_address")
        if engine.one_exchange:
            raise ConfigError("flower.one_exchange must be false with flower.packets = udp: the grant tells the rate")
    elif engine.udp_address or engine.udp_listen:
        raise ConfigError("flower.udp_address and udp_listen have an effect with flower.packets = udp only")
    if engine.test_data and config.data.source != "node":
        raise ConfigError("flower.test_data has an effect with data.source = node only")


def _dataset(config: Config, engine: FlowerConfig) -> Dataset:
    if config.data.source == "partition":
        return load_dataset(config.data, Path(engine.data_dir) if engine.data_dir else None)
    if not engine.test_data:
        return server_data(config, None)
    train, test = load_own(config.data, engine.test_data)
    return server_data(config, test or train)


def _log_round(values: Json, config: Config) -> None:
    metric, score = metric_of(values), score_of(values)
    log(
        INFO,
        "round %s of %s: test %s %s, %s of %s sign packets received, %s devices rejected, %.1f s",
        *(values["round"], config.training.rounds, metric, shown(metric, score, 2)),
        *(values["signs_received"], config.cohort, values["rejected"], values["seconds"]["total"]),
    )


def _remember(folder: Path, strategy: SpFl) -> None:
    """Write which node holds which device; only nodes with data of their own have a number that must stay."""
    data = strategy.world.dataset
    if isinstance(data, NodeData) and data.moments and folder.is_dir():
        known = {"devices": {str(node): k for node, k in strategy.owners.items()}, "moments": data.moments[0]}
        content = dump_json(known, indent=2).encode() + b"\n"
        if not (folder / NODES).is_file() or (folder / NODES).read_bytes() != content:
            write_atomically(folder / NODES, content)


def _recall(folder: Path, strategy: SpFl) -> None:
    """Raises RunFolderError for a file that is none."""
    data = strategy.world.dataset
    if not isinstance(data, NodeData):
        return
    known = read_json(folder / NODES)
    try:
        strategy.owners.update({int(node): int(k) for node, k in known["devices"].items()})
        mean, std = known["moments"]
        data.moments[:] = [(tuple(map(float, mean)), tuple(map(float, std)))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{folder / NODES} is damaged: {reason(error)}") from None
