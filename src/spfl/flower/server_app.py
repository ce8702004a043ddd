"""The Flower server: the strategy's rounds, written to a run folder as `spfl run` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from spfl.config.schema import Config
from spfl.data.dataset import Dataset, load_dataset
from spfl.errors import ConfigError
from spfl.fleet.threads import Fleet
from spfl.flower.settings import FlowerConfig, read_run_config
from spfl.flower.strategy import SpFl
from spfl.runs.experiment import run_experiment
from spfl.runs.jsons import Json
from spfl.training import RoundRecord
from spfl.world.state import ServerState
from spfl.world.world import World

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

    def rounds(config: Config, dataset: Dataset, server: ServerState | None) -> Iterator[RoundRecord]:
        world = World.build(config, dataset)
        with Fleet(world) as fleet:
            yield from SpFl(world, fleet.evaluate, engine, server).rounds(grid)

    return run_experiment(
        config,
        load_dataset(config.data.name, Path(engine.data_dir) if engine.data_dir else None),
        Path(engine.out),
        existing="resume" if engine.resume else "refuse",
        checkpoint_every=engine.checkpoint_every,
        progress=progress,
        rounds=rounds,
    )
