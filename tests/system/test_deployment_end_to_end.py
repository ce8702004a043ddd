"""A federation as it is meant: nodes with private folders and a network of the user's own, over TLS under a host name.

Packets travel as UDP datagrams, of which a shim erases a fifth. One node dies and comes back, one joins, the server is
killed and resumed; the end is that of an undisturbed run whose link has the same loss.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from spfl.flower import client_app
from spfl.flower.credentials import add_nodes
from spfl.flower.deployment import Federation
from spfl.flower.engines import run_flower
from spfl.flower.project import write_project
from spfl.flower.settings import load_settings
from spfl.runs.jsons import dump_json
from spfl.runs.metrics import METRICS, read_metrics
from udp_shim import Shim

HOST = socket.gethostname()
LIMIT_S = float(os.environ.get("SPFL_TEST_LIMIT_S", "900"))
ROUNDS, LOSS = 8, 0.2
NETWORK = """
from torch import nn
def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
"""
OWN = [
    "data.source=node", "data.devices=4", "data.shape=[1,8,8]", "data.classes=10",
    "data.mean=[77.0]", "data.std=[96.0]",
    f"training.rounds={ROUNDS}", "training.eval_every=1", "training.local_steps=10", "training.rate=0.1", "workers=1",
    "channel.median_snr_db=25.0", "scheme.name=sp_fl_normalized", "scheme.solver=uniform",
    "flower.checkpoint_every=1", "flower.min_nodes=3",
    "flower.timeout_s=100.0", "flower.wait_s=120.0",
]  # fmt: skip


def write_images(folder, digits, rows):
    for row in rows:
        label = folder / str(int(digits.train_labels[row]))
        label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(digits.train_inputs[row, 0]), "L").save(label / f"{row}.png")
    return str(folder)


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class KilledError(Exception):
    """The server was killed, by the test."""


@pytest.mark.slow
@pytest.mark.skipif(HOST == "localhost", reason="needs a host name")
def test_a_federation_lives_through_all_of_it(tmp_path, digits, monkeypatch):
    logging.getLogger("flwr").setLevel(logging.ERROR)
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    folders = [write_images(tmp_path / f"data-{k}", digits, range(k, 1200, 4)) for k in range(4)]
    test = write_images(tmp_path / "test", digits, range(1200, 1437))
    run, metrics = tmp_path / "run", tmp_path / "run" / METRICS
    own = [*OWN, f"flower.test_data={test}", "flower.module=mine:make_model"]
    port = free_udp_port()

    def rounds():
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    with (
        Shim(port, LOSS) as shim,
        Federation(tmp_path / "home", 3, node_data=folders, host=HOST) as federation,
    ):
        udp = ["flower.packets=udp", f"flower.udp_address={shim.address}", f"flower.udp_listen=0.0.0.0:{port}"]
        write_project(tmp_path / "app", load_settings(None, [*own, *udp, f"flower.out={run}"]))
        done = set()

        def once(what, at, action):
            if rounds() >= at and what not in done:
                done.add(what)
                action()

        def join():
            federation.nodes = 4
            add_nodes(tmp_path / "home" / "credentials", 1)
            federation.start_node(3)

        def kill():
            raise KilledError

        def disturb():
            once("kill a node", 1, lambda: federation.kill_node(1))
            once("it comes back", 2, lambda: federation.restart_node(1))
            once("one joins", 4, join)
            once("kill the server", 6, kill)
            return False

        first = federation.submit(tmp_path / "app", {})
        with pytest.raises(KilledError):
            federation.wait(first, LIMIT_S, disturb)
        federation.kill_superlink()
        federation.start_superlink()
        again = federation.submit(tmp_path / "app", {"flower.resume": True})
        federation.wait(again, LIMIT_S, (run / "summary.json").exists)
    told = list(read_metrics(run))
    print(dump_json([{k: row[k] for k in ("round", "test_accuracy", "signs_received", "rejected")} for row in told]))
    assert [row["round"] for row in told] == list(range(1, ROUNDS + 1))
    assert max(row["rejected"] for row in told) >= 2  # device 3 had not come, and device 1 was killed
    assert told[-1]["rejected"] == 0
    assert not federation.strays()
    assert len(shim.seen) > 2 * ROUNDS
    client_app._site.cache_clear()
    (tmp_path / "loss.csv").write_text(
        "device,sign_loss,modulus_loss\n" + "".join(f"{k},{LOSS},{LOSS}\n" for k in range(4))
    )
    trace = ["channel.model=trace", f"trace.path={tmp_path / 'loss.csv'}", "channel.median_snr_db=none"]
    calm = load_settings(None, [*own, *trace, f"flower.out={tmp_path / 'calm'}"])
    summary = run_flower(calm, "inprocess", 4, node_data=folders)
    assert told[-1]["test_accuracy"] == pytest.approx(summary["accuracy_final"], abs=0.12)
    assert told[-1]["test_accuracy"] > 0.5
