"""A deployment between two hosts: network namespaces with an address each, and a cable that loses a fifth of UDP.

The server is in one namespace and the nodes in the other; what the kernel of the server's drops is what is lost. It
needs the right to make namespaces (root) and the programs `ip` and `nft`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from spfl.flower.deployment import Federation
from spfl.flower.project import write_project
from spfl.flower.settings import load_settings
from spfl.runs.metrics import read_metrics
from stats import assert_proportion

SERVER, NODES, PORT = "192.0.2.1", "192.0.2.2", 9095  # addresses that are nobody's (RFC 5737)
DEVICES, ROUNDS, LOSS, LIMIT_S = 24, 6, 0.2, 600.0
OWN = [
    f"data.devices={DEVICES}", f"training.rounds={ROUNDS}", "training.eval_every=6", "model.name=softmax", "workers=1",
    "scheme.name=sp_fl_normalized", "scheme.solver=uniform", "channel.median_snr_db=25.0",
    "channel.symbols_per_parameter=2.0", "flower.packets=udp",
    f"flower.udp_address={SERVER}:{PORT}", f"flower.udp_listen={SERVER}:{PORT}",
]  # fmt: skip


class Apart(Federation):
    """The SuperLink in this namespace, the SuperNodes in another."""

    def _spawn(self, name, command, *options):
        if name.startswith("node-"):
            program = str(Path(sysconfig.get_path("scripts")) / command)
            command, options = shutil.which("ip"), ("netns", "exec", os.environ["NODES"], program, *options)
        super()._spawn(name, command, *options)


def serve(folder):
    """What runs in the server's namespace."""
    write_project(folder / "app", load_settings(None, [*OWN, f"flower.out={folder / 'run'}"]))
    with Apart(folder / "home", 2, host=SERVER) as federation:
        run = federation.submit(folder / "app", {})
        federation.wait(run, LIMIT_S, (folder / "run" / "summary.json").exists)
        print(federation.log("superlink"))


def done(*words):
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    return made.returncode, made.stdout + made.stderr


@pytest.fixture
def cable(tmp_path):
    """Two namespaces, a cable between them, and a kernel that drops a fifth of what comes to the server's UDP port."""
    if not (shutil.which("ip") and shutil.which("nft")):
        pytest.skip("needs the programs ip (iproute2) and nft (nftables)")
    here, there = f"spfl-{os.getpid()}-a", f"spfl-{os.getpid()}-b"
    udp = f"ip saddr {NODES} udp dport {PORT}"
    commands = [
        f"ip netns add {here}",
        f"ip netns add {there}",
        f"ip link add va netns {here} type veth peer name vb netns {there}",
        *(f"ip -n {space} link set {name} up" for space, name in ((here, "lo"), (there, "lo"))),
        f"ip -n {here} addr add {SERVER}/24 dev va",
        f"ip -n {there} addr add {NODES}/24 dev vb",
        f"ip -n {here} link set va up",
        f"ip -n {there} link set vb up",
        f"ip netns exec {here} nft add table ip air",
        f"ip netns exec {here} nft add chain ip air in {{ type filter hook input priority 0; }}",
        f"ip netns exec {here} nft add rule ip air in {udp} counter",
        f"ip netns exec {here} nft add rule ip air in {udp} numgen random mod 100 < {round(100 * LOSS)} counter drop",
    ]
    try:
        for command in commands:
            code, said = done(*command.split())
            if code:
                pytest.skip(f"no namespaces here: {command.split(' ', 2)[:2]} answered {said.strip()!r}")
        yield here, there
    finally:
        for space in (here, there):
            done("ip", "netns", "del", space)


def counted(space):
    """Datagrams that reached the server's kernel, and those that it dropped."""
    _, said = done("ip", "netns", "exec", space, "nft", "-j", "list", "ruleset")
    rules = [each["rule"]["expr"] for each in json.loads(said)["nftables"] if "rule" in each]
    return [part["counter"]["packets"] for rule in rules for part in rule if "counter" in part]


@pytest.mark.slow
def test_what_the_cable_between_two_hosts_loses_is_what_is_lost(tmp_path, cable):
    here, there = cable
    command = ["ip", "netns", "exec", here, sys.executable, __file__, str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"NODES": there, "PYTHONPATH": path}
    served = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT_S + 120, check=False
    )
    assert served.returncode == 0, served.stdout[-3000:] + served.stderr[-3000:]
    told = list(read_metrics(tmp_path / "run"))
    came, dropped = counted(here)
    signs, moduli = (sum(row[name] for row in told) for name in ("signs_received", "moduli_received"))
    print(f"{came} datagrams came, {dropped} were dropped; {signs} signs and {moduli} moduli were received")
    assert [row["round"] for row in told] == list(range(1, ROUNDS + 1))
    assert [row["rejected"] for row in told] == [0] * ROUNDS
    assert came == 2 * DEVICES * ROUNDS
    received = np.repeat([1.0, 0.0], [came - dropped, dropped])
    assert_proportion(received[:, None], np.array([1.0 - LOSS]))
    assert signs < DEVICES * ROUNDS
    assert_proportion(np.repeat([1.0, 0.0], [signs, DEVICES * ROUNDS - signs])[:, None], np.array([1.0 - LOSS]))
    assert told[-1]["test_accuracy"] > 0.2  # twice chance, after so few rounds


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
