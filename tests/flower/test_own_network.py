"""A network of the user's own on Flower: the app carries it, and all parties have the same."""

from __future__ import annotations

import logging
import socket
import sys

import httpx
import pytest
import torch

from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, FlowerError
from spfl.flower import client_app
from spfl.flower.client_app import app
from spfl.flower.engines import run_flower
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.monitoring import check_health, write_metrics
from spfl.flower.project import load_own_parts, write_project
from spfl.flower.server_app import run_on
from spfl.flower.settings import FlowerConfig, Settings, to_run_config
from spfl.runs.experiment import run_experiment

NETWORK = """
from torch import nn
def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10))
def make_none():
    return 3
def raises():
    raise ValueError("no such size")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The current folder holds mine.py."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "spfl_app", "spfl_app.own"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    client_app._site.cache_clear()
    return tmp_path


def settings_of(config, out, **engine):
    return Settings(**config.model_dump(), flower=FlowerConfig(**{"wait_s": 0, "out": str(out)} | engine))


def test_an_own_network_trains_on_flower_as_alone(mine, small_config):
    settings = settings_of(small_config(), mine / "run", module="mine:make_model")
    run_flower(settings, "inprocess", 2)
    own = load_own_parts("mine:make_model", settings.seed)
    run_experiment(settings.experiment, load_dataset("digits"), mine / "alone", custom=own.custom)
    assert (mine / "run" / "weights.safetensors").read_bytes() == (mine / "alone" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("engine", ["inprocess", "ray", "deploy"])
def test_more_nodes_than_there_will_be_are_not_waited_for(engine, tmp_path, small_config):
    settings = settings_of(small_config(), tmp_path / "run", min_nodes=3, wait_s=100)
    with pytest.raises(ConfigError, match=r"flower.min_nodes must be at most the 2 nodes, got 3"):
        run_flower(settings, engine, 2)


def test_the_first_weights_are_a_function_of_the_seed_and_leave_torch_alone(mine):
    before = torch.random.get_rng_state()
    first, second, other = (load_own_parts("mine:make_model", seed).custom.module for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


def test_the_app_carries_the_file(mine, small_config):
    write_project(mine / "app", settings_of(small_config(), mine / "run", module="mine:make_model"))
    assert (mine / "app" / "spfl_app" / "own.py").read_text() == NETWORK
    assert 'module = "spfl_app.own:make_model"' in (mine / "app" / "pyproject.toml").read_text()
    sys.path.insert(0, str(mine / "app"))  # a copy, see `mine`
    sources = ("spfl_app.own:make_model", "mine:make_model", "mine.py:make_model")
    digests = {load_own_parts(source, 0).digest for source in sources}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine", "flower.module must be package.module:name or file.py:name, got 'mine'"),
        ("nowhere:f", "nowhere:f: No module named 'nowhere'"),
        ("mine:absent", "mine has no 'absent'"),
        ("mine:make_none", "must return a torch.nn.Module, got int"),
        ("mine:raises", "ValueError: no such size"),
    ],
)
def test_a_module_that_makes_no_network_is_one_line(source, message, mine, small_config):
    with pytest.raises(ConfigError, match=message):
        write_project(mine / "app", settings_of(small_config(), "", module=source))
    assert not (mine / "app").exists()


def test_a_node_with_other_code_is_refused(mine, small_config, caplog):
    """Node 2 has a file with one more comment: the layout is the same, the digest is not."""
    (mine / "other.py").write_text(NETWORK + "# newer\n")
    settings = settings_of(small_config(), mine / "run", module="mine:make_model")
    grid = InProcessGrid(app, to_run_config(settings), 2)
    grid._contexts[2].run_config["flower.module"] = "other:make_model"
    logging.getLogger("flwr").addHandler(caplog.handler)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run_on(grid, settings.experiment, settings.flower)
    assert "node 2 is refused: its code is another" in caplog.text


# --- what an operator sees ---------------------------------------------------------------------------------------


def test_a_line_a_round_and_a_file_for_prometheus(mine, small_config, caplog):
    settings = settings_of(small_config(), mine / "run", metrics_file=str(mine / "spfl.prom"))
    logging.getLogger("flwr").setLevel(logging.INFO)
    run_flower(settings, "inprocess", 2)
    lines = list({line for line in caplog.messages if line.startswith("round 2 of 2: test accuracy")})
    assert len(lines) == 1
    assert "of 6 sign packets received, 0 devices rejected" in lines[0]
    assert len({line for line in caplog.messages if line.startswith("round 2: 3 devices, loss")}) == 2  # a node
    text = (mine / "spfl.prom").read_text()
    assert "spfl_round 2.0" in text
    assert "# HELP spfl_test_accuracy" in text
    assert check_health(mine / "spfl.prom", 600).startswith("round 2 ended")


def test_prometheus_is_answered_while_a_run_goes_on(mine, small_config):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings, told = settings_of(small_config(), mine / "run", metrics_listen=address), []
    run_flower(settings, "inprocess", 2, lambda _: told.append(httpx.get(f"http://{address}/metrics").text))
    assert [f"spfl_round {k}.0" in text for k, text in enumerate(told, start=1)] == [True, True]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{address}/metrics")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_of(small_config(), mine / "other", metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(FlowerError, match=r"metrics_listen .* cannot be used: Address already in use"):
            run_flower(settings, "inprocess", 2)


def test_health_fails_when_rounds_stop_or_never_were(tmp_path):
    with pytest.raises(FlowerError, match="cannot be read as metrics of a run"):
        check_health(tmp_path / "absent.prom", 600)
    write_metrics(tmp_path / "a.prom", {"round": 3, "seconds": {"total": 1.0}})
    with pytest.raises(FlowerError, match=r"round 3 ended .* more than -1 s"):
        check_health(tmp_path / "a.prom", -1)
