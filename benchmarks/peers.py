"""The same FedSGD workload in spfl, in Flower's simulation (Ray) and in pfl: rounds a second, start-up, peak memory.

    python benchmarks/peers.py [--workload 20x64 100x8] [--rounds 15] [--repeats 3] [--venvs .venv-peers] [--out DIR]

Each peer runs in its own process tree and virtual environment (made with PyPI's packages when it is missing), one
after the other, in turns; figures are medians over the repeats, ratios are taken within a turn. Seconds a round are
the median of the rounds after the first; start-up is from the start of the process to the end of the first round;
memory is the largest sum of proportional set sizes over the process tree, sampled. All peers must end with the same
weights (check: norm of the weights, sum of the last bias, to 1e-3), or the script fails. A workload is devices x images
a minibatch: few with large ones, where computing decides, and many with small ones, where the engine does. It is in
benchmarks/peers/workload.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from results import write

HERE = Path(__file__).parent / "peers"
TORCH = os.environ.get("TORCH_SPEC", "torch==2.13.0")
PACKAGES = {"flower": ["flwr[simulation]==1.42.*"], "pfl": ["pfl==0.6.*"]}
PAGE_KIB = 1024


def interpreter(venvs: Path, peer: str) -> str:
    """The Python of a peer's virtual environment, made if need be; spfl runs in this one."""
    if peer not in PACKAGES:
        return sys.executable
    python = venvs / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        for packages in (TORCH.split(), PACKAGES[peer]):  # PyTorch first, so that nothing else chooses its build
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return str(python)


def commands(venvs: Path, rounds: int) -> dict[str, list[str]]:
    flower, pfl = interpreter(venvs, "flower"), interpreter(venvs, "pfl")
    torchrun = [pfl, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={os.cpu_count()}"]
    return {
        "spfl": [sys.executable, "run_spfl.py", str(rounds)],
        "spfl, a process a core": [sys.executable, "run_spfl.py", str(rounds), "error_free", str(os.cpu_count())],
        "spfl, sp_fl_plus": [sys.executable, "run_spfl.py", str(rounds), "sp_fl_plus"],
        "pfl": [pfl, "run_pfl.py", str(rounds)],
        "pfl, a process a core": [*torchrun, "run_pfl.py", str(rounds)],
        "flower": [flower, "run_flower.py", str(rounds)],
    }


def tree(root: int) -> list[int]:
    """Process ids of a process and all its descendants."""
    found, children = [], {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    todo = [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def proportional_mib(root: int) -> float:
    """Sum of the proportional set sizes of a process tree: shared pages count once."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / PAGE_KIB


def run(command: list[str], workload: str, limit_s: float = 600.0) -> dict[str, Any]:
    """A peer's own report, and the peak memory of its processes. Raises RuntimeError when it reports nothing."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as log:
        environment = os.environ | {"FLWR_HOME": home, "PYTHONWARNINGS": "ignore", "PEERS_WORKLOAD": workload}
        process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=subprocess.STDOUT, env=environment)
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.3):
                peak[0] = max(peak[0], proportional_mib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            process.wait(limit_s)
        finally:
            process.kill()
            done.set()
            watcher.join()
        log.seek(0)
        text = log.read()
    results = [line for line in text.splitlines() if "RESULT {" in line]
    if not results:
        raise RuntimeError(f"{' '.join(command)} reported nothing:\n{text[-2000:]}")
    return json.loads(results[-1].partition("RESULT ")[2]) | {"peak_mib": peak[0]}


def take_turns(peers: dict[str, list[str]], workload: str, repeats: int) -> list[dict[str, dict[str, Any]]]:
    """Reports of all peers, by turn. Raises SystemExit when a lossless one did not do the work of spfl."""
    turns: list[dict[str, dict[str, Any]]] = []
    for _ in range(repeats):
        turn = {}
        for name, command in peers.items():
            began = time.perf_counter()
            turn[name] = run(command, workload)
            turn[name]["round_s"] = statistics.median(turn[name]["round_s"])
            spent = time.perf_counter() - began
            print(f"{workload} {name}: {turn[name]['round_s']:.3f} s a round, {spent:.0f} s in all", file=sys.stderr)
        for name, found in turn.items():
            pairs = zip(turn["spfl"]["check"], found["check"], strict=True)
            if name != "spfl, sp_fl_plus" and any(abs(a - b) > 1e-3 * max(1.0, abs(a)) for a, b in pairs):
                raise SystemExit(f"{name} did not do the same work: {found['check']}, spfl {turn['spfl']['check']}")
        turns.append(turn)
    return turns


def row(name: str, turns: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    ours, theirs = [turn["spfl"] for turn in turns], [turn[name] for turn in turns]

    def ratio(key: str) -> float:
        return statistics.median(b[key] / a[key] for a, b in zip(ours, theirs, strict=True))

    return {
        "peer": name,
        "round_s_over_spfl": ratio("round_s"),
        "fastest_round_s_over_spfl": min(t["round_s"] for t in theirs) / min(t["round_s"] for t in ours),
        "start_s_over_spfl": ratio("start_s"),
        "peak_mib": statistics.median(t["peak_mib"] for t in theirs),
        "rounds_a_second": statistics.median(1 / t["round_s"] for t in theirs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=["20x64", "100x8"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    peers, tables = commands(given.venvs.resolve(), given.rounds), []
    for workload in given.workload:
        turns = take_turns(peers, workload, given.repeats)
        tables.append({"workload": workload, "peers": [row(name, turns) for name in peers]})
    write(given.out, "peers", {"rounds": given.rounds, "repeats": given.repeats, "workloads": tables})


if __name__ == "__main__":
    main()
