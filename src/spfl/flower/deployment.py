"""SuperLink and SuperNodes as processes of this machine, and runs on them.

Two kinds: a simulation, whose nodes are Ray actors; and a deployment, whose nodes are processes that speak TLS to
the SuperLink and prove who they are. All listen on 127.0.0.1 at ports that are free, and keep their files in one
folder, FLWR_HOME. Every process that carries this FLWR_HOME is stopped at the end, whoever started it. Where this
process has no end of its own (`kill -9`), `keeper` ends them.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
import tomli_w

from spfl.errors import FlowerError
from spfl.flower import keeper
from spfl.flower.credentials import AUTHORITY, SERVER_CERTIFICATE, SERVER_KEY, make_credentials, node_key
from spfl.flower.settings import Scalar
from spfl.machine import cores

HOST, CONNECTION = "127.0.0.1", "here"
PREFIX, OWNER = "spfl-flower-", "owner.json"  # of temporary folders; who made one
START_S, STOP_S, POLL_S = 60.0, 10.0, 0.5
STATUS_S = 10.0  # between looks at a run's status: each is a process that takes a second
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}


class Federation:
    """A SuperLink with `nodes` nodes on this machine, for as long as the context lasts; `home` must be an empty folder.

    `simulation` takes Ray actors for nodes. Raises FlowerError when anything does not start within a minute.
    """

    def __init__(
        self, home: Path, nodes: int, *, simulation: bool = False, node_data: Sequence[str] = (), host: str = HOST
    ) -> None:
        self.home, self.nodes, self.simulation = home.resolve(), nodes, simulation
        self.node_data, self._listen = node_data, HOST if host == HOST else "0.0.0.0"
        self.address = f"{host}:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._credentials = self.home / "credentials"
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Federation:
        for line in left_behind():
            warnings.warn(line, stacklevel=2)
        self.home.mkdir(parents=True, exist_ok=True)
        me = {"pid": os.getpid(), "began": psutil.Process().create_time()}
        (self.home / OWNER).write_text(json.dumps(me), encoding="utf-8")
        try:
            self._keeper = _start_keeper(self.home)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- runs --------------------------------------------------------------------------------------------------

    def submit(self, app: Path, run_config: Mapping[str, Scalar]) -> str:
        """Start a run of the app in a folder; returns its number."""
        overrides = self.home / "run.toml"
        overrides.write_text(tomli_w.dumps(dict(run_config)), encoding="utf-8")
        options = ["--run-config", str(overrides), "--format", "json"]
        if self.simulation:
            options += [
                "--federation-config",
                f"num-supernodes={self.nodes} client-resources-num-cpus=1 init-args-num-cpus={cores()}",
            ]
        return str(self._flwr("run", str(app), CONNECTION, *options)["run-id"])

    def wait(self, run: str, seconds: float, each: Callable[[], bool] = lambda: False) -> None:
        """Wait for the end of a run, calling `each` now and then; it tells when the run seems to be at its end.

        Raises FlowerError when the run fails, is stopped or takes longer: `flwr run` itself always ends with 0.
        """
        began = looked = time.monotonic()
        while True:
            at_end, now = each(), time.monotonic()
            if at_end or now - looked > STATUS_S:
                looked = now
                if self._is_complete(run):
                    return
            if now - began > seconds:
                raise FlowerError(f"Flower run took longer than {seconds:g} s; logs in {self.home}")
            self._check_alive("superlink")
            time.sleep(POLL_S)

    def _is_complete(self, run: str) -> bool:
        (row,) = self._flwr("ls", CONNECTION, "--run-id", run, "--format", "json")["runs"]
        if row["status"] != "finished:completed" and row["status"].startswith("finished"):
            raise FlowerError(f"Flower run {row['status']}: {row['status-details']}; logs in {self.home}")
        return bool(row["status"] == "finished:completed")

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        done = self._run("flwr", *arguments)
        try:
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            raise FlowerError(f"flwr {arguments[0]} failed: {_last_line(done.stdout + done.stderr)}") from None
        if not answer.get("success"):
            raise FlowerError(f"flwr {arguments[0]} failed: {answer.get('error-message', answer)}")
        return dict(answer)

    # --- processes ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        connection: dict[str, object] = {"address": self.address}
        if self.simulation:
            connection["insecure"] = True
            security = ["--insecure", "--simulation"]
        else:
            make_credentials(self._credentials, [self.address.rpartition(":")[0]], self.nodes)
            connection["root-certificates"] = str(self._credentials / AUTHORITY)
            database = str(self.home / "superlink.db")
            security = ["--enable-supernode-auth", *self._tls(SERVER_CERTIFICATE, SERVER_KEY), "--database", database]
        superlink = {"default": CONNECTION, CONNECTION: connection}
        (self.home / "config.toml").write_text(tomli_w.dumps({"superlink": superlink}), encoding="utf-8")
        port = self.address.rpartition(":")[2]
        self._options = ["--host", self._listen, "--port", port, "--disable-runtime-dependency-installation", *security]
        self.start_superlink()
        if not self.simulation:
            for node in range(self.nodes):
                self.start_node(node)

    def start_superlink(self) -> None:
        """Start the SuperLink; after `kill_superlink` it knows its nodes, and no run goes on."""
        self._spawn("superlink", "flower-superlink", *self._options)
        self._await_health()

    def kill_superlink(self) -> None:
        """SIGKILL to the SuperLink and to all it started, the server app among them."""
        process = self.processes.pop("superlink")
        _kill(psutil.Process(process.pid).children(recursive=True))
        process.kill()
        process.wait()

    def _tls(self, certificate: str, key: str) -> list[str]:
        files = {"certfile": certificate, "keyfile": key, "ca-certfile": AUTHORITY}
        return [part for name, file in files.items() for part in (f"--ssl-{name}", str(self._credentials / file))]

    def start_node(self, node: int) -> None:
        """Register the key of node `node`, and start its SuperNode."""
        secret = self._credentials / node_key(node)
        self._flwr("supernode", "register", f"{secret}.pub", CONNECTION, "--format", "json")
        self.restart_node(node)

    def restart_node(self, node: int) -> None:
        """Start the SuperNode of a key that is registered."""
        self.spawn_node(f"node-{node}", self._credentials / node_key(node), self._node_config(node))

    def _node_config(self, node: int) -> str:
        own = f" data='{self.node_data[node]}'" if self.node_data else ""
        return f"partition-id={node} num-partitions={self.nodes}{own}"

    def spawn_node(self, name: str, secret: Path, node_config: str) -> None:
        """Start a SuperNode with a private key, whether the SuperLink knows it or not."""
        self._spawn(
            name,
            "flower-supernode",
            *("--superlink", self.address, "--root-certificates", str(self._credentials / AUTHORITY)),
            *("--auth-supernode-private-key", str(secret), "--host", HOST, "--port", str(free_port())),
            *("--node-config", node_config),
        )

    def _environment(self) -> dict[str, str]:
        scripts = sysconfig.get_path("scripts")
        path = os.pathsep.join([scripts, os.environ.get("PATH", "")])  # Flower starts its own commands by name
        return os.environ | QUIET | {"FLWR_HOME": str(self.home), "PATH": path}

    def _spawn(self, name: str, command: str, *options: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(Path(sysconfig.get_path("scripts")) / command), *options],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: what to stop, and in which order, is decided here
            )

    def _run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sysconfig.get_path("scripts")) / command)
        try:
            return subprocess.run(
                [program, *arguments],
                env=self._environment(),
                capture_output=True,
                text=True,
                timeout=START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FlowerError(f"{command} {arguments[0]} took longer than {START_S:g} s; logs in {self.home}") from None

    def _await_health(self) -> None:
        url, trust = f"http://{self.address}/health", ssl.create_default_context()
        if not self.simulation:
            url = url.replace("http:", "https:")
            trust = ssl.create_default_context(cafile=str(self._credentials / AUTHORITY))
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self._check_alive("superlink")
            try:
                if httpx.get(url, verify=trust, timeout=1.0).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(POLL_S)
        raise FlowerError(f"SuperLink did not start within {START_S:g} s; logs in {self.home}")

    def _check_alive(self, name: str) -> None:
        if (code := self.processes[name].poll()) is not None:
            raise FlowerError(f"{name} ended with code {code}: {_last_line(self.log(name))}")

    def log(self, name: str) -> str:
        """What a process wrote."""
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill_node(self, node: int) -> None:
        """SIGKILL to a SuperNode and to all it started."""
        process = self.processes.pop(f"node-{node}")
        _kill(psutil.Process(process.pid).children(recursive=True))
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Ask all to end, nodes first; after ten seconds, end them."""
        for process in reversed(self.processes.values()):
            process.terminate()
        psutil.wait_procs([psutil.Process(p.pid) for p in self.processes.values() if p.poll() is None], timeout=STOP_S)
        _kill(self.strays())
        for process in self.processes.values():
            process.kill()  # also one whose environment cannot be read
            process.wait()
        self.processes.clear()
        if self._keeper is not None:  # last: had this process been killed in between, it would have gone on
            self._keeper.kill()
            self._keeper.communicate()  # waits, and closes the pipe that kept it
            self._keeper = None

    def strays(self) -> list[psutil.Process]:
        """Processes that carry our FLWR_HOME; Flower and Ray detach some of theirs."""
        return keeper.carrying(str(self.home))


def _start_keeper(home: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that no signal of the terminal reaches it; its standard input ends when we do."""
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_HOME"}
    return subprocess.Popen(
        [sys.executable, str(Path(keeper.__file__)), str(home)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def left_behind() -> list[str]:
    """A line for each federation on this machine whose owner is gone, with what is still running of it."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        home = keeper.home_of(process)
        if Path(home).parent.name.startswith(PREFIX) and not _owner_lives(Path(home)):
            found.setdefault(home, []).append(process)
    return [
        f"a run of Flower that was killed has left processes {', '.join(str(p.pid) for p in processes)} in {home}; "
        f"end them with: kill {' '.join(str(p.pid) for p in processes)}"
        for home, processes in found.items()
    ]


def _owner_lives(home: Path) -> bool:
    try:
        owner = json.loads((home / OWNER).read_bytes())
        return bool(psutil.Process(owner["pid"]).create_time() == owner["began"])
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def _kill(processes: Sequence[psutil.Process]) -> None:
    keeper.kill(list(processes), STOP_S)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
