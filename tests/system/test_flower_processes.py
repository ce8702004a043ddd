"""SP-FL on Flower in processes: Ray's actors, and SuperNodes that speak TLS. Everything started must be gone after."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import psutil
import pytest

from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, FlowerError
from spfl.flower import deployment
from spfl.flower.client_app import app
from spfl.flower.credentials import make_credentials
from spfl.flower.deployment import Federation, free_port
from spfl.flower.engines import run_flower
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.project import write_project
from spfl.flower.settings import FlowerConfig, Settings, load_settings, read_run_config, to_run_config
from spfl.runs.experiment import run_experiment

SMALL = ["data.devices=6", "training.rounds=2", "training.eval_every=1", "workers=1", "model.name=softmax"]
LIMIT_S = 180.0


def settings_for(out, *overrides, **engine):
    config = load_config(None, [*SMALL, *overrides])
    return Settings(**config.model_dump(), flower=FlowerConfig(**{"out": str(out), "timeout_s": 100.0} | engine))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run folder of `spfl run`."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run_experiment(load_config(None, SMALL), load_dataset("digits"), folder)
    return folder


def assert_same_run(folder, reference):
    for name in ("weights.safetensors", "allocation.parquet", "config.toml"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name


@pytest.mark.slow
def test_ray_gives_the_bytes_of_spfl_run(tmp_path, reference):
    seen = []
    summary = run_flower(settings_for(tmp_path / "run"), "ray", 2, seen.append)
    assert_same_run(tmp_path / "run", reference)
    assert [values["round"] for values in seen] == [1, 2]
    assert summary["rejected"] == 0


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """SuperLink and two SuperNodes; the last test kills one of them."""
    home = tmp_path_factory.mktemp("federation") / "home"
    with Federation(home, 2) as running:
        yield running
        children = [p for process in running.processes.values() for p in psutil.Process(process.pid).children(True)]
        started = [*children, *(psutil.Process(p.pid) for p in running.processes.values())]
    assert not running.strays()
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_deployment_gives_the_bytes_of_spfl_run(federation, tmp_path, reference):
    write_project(tmp_path / "app", settings_for(tmp_path / "run", one_exchange=True))
    run = federation.submit(tmp_path / "app", {})
    federation.wait(run, LIMIT_S, (tmp_path / "run" / "summary.json").exists)
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.slow
def test_plain_http_is_refused_and_so_is_an_unknown_authority(federation):
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{federation.address}/health", timeout=5.0).raise_for_status()
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"https://{federation.address}/health", timeout=5.0)


@pytest.mark.slow
def test_a_node_with_an_unknown_key_is_turned_away(federation, tmp_path):
    """It has the authority's certificate and a key pair of the right kind, but nobody registered it."""
    make_credentials(tmp_path / "keys", ["localhost"], 1)
    federation.spawn_node("intruder", tmp_path / "keys" / "node-0", "partition-id=0 num-partitions=2")
    assert federation.processes.pop("intruder").wait(timeout=60) != 0
    assert "Failed to activate SuperNode" in federation.log("intruder")
    assert "No SuperNode found with the given public key" in federation.log("superlink")


@pytest.mark.slow
def test_a_run_that_fails_says_why(federation, tmp_path):
    """`flwr run` ends with 0 all the same: the status tells."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    write_project(tmp_path / "app", settings_for(tmp_path / "run"))
    run = federation.submit(tmp_path / "app", {})
    with pytest.raises(FlowerError, match=r"finished:failed: .* output folder .* is not empty"):
        federation.wait(run, LIMIT_S)


@pytest.mark.slow
def test_a_node_killed_in_a_round_is_lost_and_the_run_goes_on(federation, tmp_path):
    """Two exchanges; node 1 dies once the first round is written, while the second is under way."""
    settings = settings_for(tmp_path / "run", timeout_s=40.0)
    write_project(tmp_path / "app", settings)
    killed, metrics = [], tmp_path / "run" / "metrics.jsonl"

    def kill_after_the_first_round():
        if not killed and metrics.exists() and metrics.read_text():
            federation.kill_node(1)
            killed.append(1)
        return (tmp_path / "run" / "summary.json").exists()

    federation.wait(federation.submit(tmp_path / "app", {}), LIMIT_S, kill_after_the_first_round)
    from spfl.runs.metrics import read_metrics

    rejected = [values["rejected"] for values in read_metrics(tmp_path / "run")]
    assert killed
    assert rejected[0] == 0
    assert rejected[-1] == 3  # devices 1, 3 and 5


class StoppedError(Exception):
    """Of the test below."""


@pytest.mark.slow
def test_a_run_stopped_on_ray_ends_in_process_with_the_same_bytes(tmp_path):
    config = ["training.rounds=30", "training.momentum=0.5", "scheme.error_feedback=true"]
    settings = settings_for(tmp_path / "run", *config, checkpoint_every=1)
    run_experiment(settings.experiment, load_dataset("digits"), tmp_path / "reference")
    write_project(tmp_path / "app", settings)

    def stop_after_some_rounds():
        metrics = tmp_path / "run" / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) > 2:
            raise StoppedError
        return False

    with pytest.raises(StoppedError), Federation(tmp_path / "home", 2, simulation=True) as federation:
        federation.wait(federation.submit(tmp_path / "app", {}), LIMIT_S, stop_after_some_rounds)
    assert not (tmp_path / "run" / "summary.json").exists()
    again = settings.model_copy(update={"flower": settings.flower.model_copy(update={"resume": True})})
    run_flower(again, "inprocess", 3)
    assert_same_run(tmp_path / "run", tmp_path / "reference")


# --- without processes -----------------------------------------------------------------------------------------


def test_an_app_has_every_key_and_reads_back(tmp_path):
    import tomllib

    from flwr.common.config import flatten_dict

    settings = settings_for("", "channel.gains_db=[-90.0,-91.0,-92.0,-93.0,-94.0,-95.0]")
    write_project(tmp_path / "my-app", settings)
    written = tomllib.loads((tmp_path / "my-app" / "pyproject.toml").read_text())
    run_config = flatten_dict(written["tool"]["flwr"]["app"]["config"])
    assert run_config == to_run_config(settings)
    assert read_run_config(run_config) == settings
    assert written["project"]["dependencies"] == []


def test_flower_accepts_the_app(tmp_path):
    from flwr.cli.config_utils import load_and_validate

    write_project(tmp_path / "my-app", settings_for(""))
    _, warnings = load_and_validate(tmp_path / "my-app" / "pyproject.toml")
    assert warnings == []


def test_an_app_is_not_written_over_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        write_project(tmp_path, settings_for(""))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_credentials_are_secret_and_sign_for_their_hosts(tmp_path):
    from cryptography import x509

    make_credentials(tmp_path / "keys", ["fl.example.org", "192.0.2.7"], 2)
    names = sorted(path.name for path in (tmp_path / "keys").iterdir())
    assert names == ["ca.pem", "node-0", "node-0.pub", "node-1", "node-1.pub", "server.key", "server.pem"]
    for secret in ("server.key", "node-0", "node-1"):
        assert stat.S_IMODE(os.stat(tmp_path / "keys" / secret).st_mode) == 0o600
    server = x509.load_pem_x509_certificate((tmp_path / "keys" / "server.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((tmp_path / "keys" / "ca.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1"]
    with pytest.raises(ConfigError, match="is not empty"):
        make_credentials(tmp_path / "keys", ["localhost"], 1)


def test_a_superlink_that_does_not_start_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    federation = Federation(tmp_path / "home", 1, simulation=True)
    monkeypatch.setattr(federation, "address", "127.0.0.1:99999")
    with pytest.raises(FlowerError, match="superlink ended with code"):
        federation.__enter__()
    assert not federation.processes
    assert not federation.strays()


def test_free_ports_can_be_bound():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


@pytest.mark.parametrize(
    ("engine", "nodes", "message"), [("rey", 2, r"unknown engine 'rey' \(did you mean 'ray'\?\)"), ("ray", 0, "nodes")]
)
def test_engine_and_nodes_are_checked_first(engine, nodes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_flower(settings_for(tmp_path / "run"), engine, nodes)
    assert not (tmp_path / "run").exists()


def test_the_engine_in_process_gives_the_bytes_of_spfl_run(tmp_path, reference):
    seen = []
    run_flower(settings_for(tmp_path / "run"), "inprocess", 4, seen.append)
    assert_same_run(tmp_path / "run", reference)
    assert len(seen) == 2


def test_settings_come_from_a_file_with_a_table_of_their_own(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 3\n[flower]\none_exchange = true\n")
    settings = load_settings(tmp_path / "c.toml", ["flower.timeout_s=5"])
    assert (settings.seed, settings.flower.one_exchange, settings.flower.timeout_s) == (3, True, 5.0)
    assert len(list(InProcessGrid(app, to_run_config(settings), 2).get_node_ids())) == 2


# --- what the documents say ------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_sizing_table_is_what_its_script_prints():
    command = [sys.executable, str(ROOT / "benchmarks" / "flower_sizing.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n\n")[0] in PAGE


@pytest.mark.parametrize("command", ["flower-superlink", "flower-supernode", "flwr run", "flwr supernode register"])
def test_the_page_uses_options_that_exist(command, tmp_path):
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith(command + " ")]
    assert lines
    program = [str(Path(sysconfig.get_path("scripts")) / command.split()[0]), *command.split()[1:], "--help"]
    environment = os.environ | deployment.QUIET | {"FLWR_HOME": str(tmp_path), "COLUMNS": "200"}
    text = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=60).stdout
    for option in {option for line in lines for option in re.findall(r" (--[a-z-]+)", line)}:
        assert option in text, option


def test_the_example_app_is_the_demo(tmp_path):
    """`make flower-app` writes it anew."""
    demo = load_settings(ROOT / "configs" / "demo.toml", ["training.rounds=3", "training.eval_every=1"])
    write_project(tmp_path / "app", demo)
    written = sorted(path.relative_to(tmp_path / "app") for path in (tmp_path / "app").rglob("*.*"))
    assert written
    for path in written:
        kept = ROOT / "examples" / "flower-app" / path
        assert (tmp_path / "app" / path).read_bytes() == kept.read_bytes(), f"{path}: make flower-app"


def test_the_page_lists_every_key():
    for key in FlowerConfig.model_fields:
        assert f"`{key}`" in PAGE, key
