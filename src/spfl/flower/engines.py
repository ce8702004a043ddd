"""One experiment on one of three engines, from nodes in this process to processes that speak TLS."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, FlowerError, RunFolderError, did_you_mean
from spfl.flower.client_app import app
from spfl.flower.deployment import PREFIX, Federation
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.project import write_project
from spfl.flower.server_app import run_on
from spfl.flower.settings import Settings, to_run_config
from spfl.runs.experiment import SUMMARY, check_free, read_json
from spfl.runs.jsons import Json
from spfl.runs.metrics import read_metrics
from spfl.world.world import World

Engine = Literal["inprocess", "ray", "deploy"]
OnRound = Callable[[Json], None]


def run_flower(
    settings: Settings,
    engine: str,
    nodes: int,
    progress: OnRound = lambda _: None,
    node_data: Sequence[str] = (),
) -> Json:
    """Run on `nodes` nodes, and return the summary of the run folder `settings.flower.out`.

    `inprocess`: one after the other, in this process. `ray`: Flower's simulation. `deploy`: a SuperLink and SuperNodes
    on this machine, with fresh certificates and keys. Everything started is stopped at the end; the logs stay when a
    run fails. `node_data` says what each node brings when `data.source` is "node".
    Raises ConfigError, DataError, RunFolderError and FlowerError.
    """
    if engine not in get_args(Engine):
        raise ConfigError(f"unknown engine '{engine}'" + did_you_mean(engine, get_args(Engine)))
    if nodes < 1:
        raise ConfigError(f"nodes must be >= 1, got {nodes}")
    if nodes < settings.flower.min_nodes:  # no others will come
        raise ConfigError(f"flower.min_nodes must be at most the {nodes} nodes, got {settings.flower.min_nodes}")
    node_data = _checked_node_data(settings, engine, nodes, node_data)
    folder = Path(settings.flower.out)
    check_free(folder, "resume" if settings.flower.resume else "refuse")
    if engine == "inprocess":
        grid = InProcessGrid(app, to_run_config(settings), nodes, node_data)
        return run_on(grid, settings.experiment, settings.flower, progress)
    if settings.data.source == "partition":
        data_dir = Path(settings.flower.data_dir) if settings.flower.data_dir else None
        World.build(settings.experiment, load_dataset(settings.data, data_dir))  # a mistake is cheaper to find here
    _run_on_federation(settings, nodes, engine == "ray", progress, node_data)
    return read_json(folder / SUMMARY)


def _checked_node_data(settings: Settings, engine: str, nodes: int, node_data: Sequence[str]) -> Sequence[str]:
    """The sources of all nodes, folders as absolute paths. Raises ConfigError."""
    if settings.data.source == "partition":
        if node_data:
            raise ConfigError("node data have an effect with data.source = node only")
        return ()
    if engine == "ray":
        raise ConfigError("data.source = node runs with engine inprocess or deploy; Ray's nodes all have one folder")
    if len(node_data) != nodes:
        raise ConfigError(f"node data must name one source for each of the {nodes} nodes, got {len(node_data)}")
    if nodes > settings.data.devices:
        raise ConfigError(f"data.devices must be at least the {nodes} nodes, got {settings.data.devices}")
    return [str(Path(source).resolve()) if Path(source).exists() else source for source in node_data]


def _run_on_federation(
    settings: Settings, nodes: int, simulation: bool, progress: OnRound, node_data: Sequence[str]
) -> None:
    base = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        write_project(base / "app", settings)
        with Federation(base / "home", nodes, simulation=simulation, node_data=node_data) as federation:
            run = federation.submit(base / "app", {})
            federation.wait(run, math.inf, _follower(Path(settings.flower.out), progress))
    except FlowerError:
        raise  # its message names the logs
    except BaseException:
        shutil.rmtree(base, ignore_errors=True)
        raise
    shutil.rmtree(base, ignore_errors=True)


def _follower(folder: Path, progress: OnRound) -> Callable[[], bool]:
    """What tells `progress` of the rounds that a server in another process has written since the last call.

    It returns whether the summary is there, which is written last.
    """
    told = 0

    def follow() -> bool:
        nonlocal told
        try:
            rounds = list(read_metrics(folder))
        except RunFolderError:
            return False  # not begun
        for values in rounds[told:]:
            progress(values)
        told = len(rounds)
        return (folder / SUMMARY).exists()

    return follow
