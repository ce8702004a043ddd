"""What starting costs: seconds and resident set of the usual first commands, beside bare `import torch`, in one run.

    python benchmarks/light.py [--repeats 5] [--before CHECKOUT] [--out DIR]

Every row is a process of its own, run `repeats` times, in turn; the least time counts, because other work on the
machine only adds to it. `peak_mib` is the largest resident set (ru_maxrss), of which `private_mib` belongs to the
process alone; the rest are pages of libraries that processes share. `--before` measures another checkout as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import write

ROOT = Path(__file__).parents[1]
DIGITS = ["run", str(ROOT / "configs" / "demo.toml"), "--set", "training.rounds=5", "--overwrite", "--out", "run"]
LIBRARIES = """
import numpy, numba, torch, pyarrow.parquet
sum_of = numba.njit(lambda x: x + 1.0)
sum_of(1.0)
"""
CASES = {
    "import torch": "import torch",
    "torch, numba with one compiled call, pyarrow": LIBRARIES,
    "import spfl": "import spfl",
    "spfl --help": ["--help"],
    "spfl info": ["info"],
    "spfl run, digits, 5 rounds": DIGITS,
}
GOALS = {"import spfl": {"seconds": 0.1}, "spfl --help": {"seconds": 0.4}, "spfl info": {"seconds": 2.0},
         "spfl run, digits, 5 rounds": {"peak_mib": 350}}  # fmt: skip
MEASURED = """
import sys, time
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with open("/proc/self/status") as file:
    private = [int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon")][0]
print("MEASURED", seconds, peak, private, file=sys.stderr)
"""
COMMAND = """
sys.argv = ["spfl", *{arguments!r}]
from spfl.cli.commands import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
"""


def measure(case: str | list[str], source: Path, folder: Path) -> tuple[float, float, float, float]:
    """(seconds of the process, seconds inside Python, peak MiB, private MiB) of one process."""
    code = case if isinstance(case, str) else COMMAND.format(arguments=case)
    environment = os.environ | {"PYTHONPATH": str(source)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(code=code)],
        capture_output=True, text=True, env=environment, cwd=folder, check=True,
    )  # fmt: skip
    whole = time.perf_counter() - began
    inside, peak, private = map(float, done.stderr.rpartition("MEASURED ")[2].split())
    return whole, inside, peak, private


def rows_of(source: Path, repeats: int, label: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        found = {name: [] for name in CASES}
        for _ in range(repeats + 1):  # the first fills the caches of files and of compiled kernels
            for name, case in CASES.items():
                found[name].append(measure(case, source, Path(folder)))
    rows = []
    for name, tries in found.items():
        whole, inside, peak, private = (min(values) for values in zip(*tries[1:], strict=True))
        rows.append(
            {"checkout": label, "what": name, "seconds": whole, "seconds_in_python": inside, "peak_mib": peak,
             "private_mib": private, "goal": GOALS.get(name)}
        )  # fmt: skip
        print(f"{label:8} {name:46} {whole:6.2f} s {peak:6.0f} MiB, {private:4.0f} private", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in the same run")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = rows_of(given.before / "src", given.repeats, "before") if given.before else []
    rows += rows_of(ROOT / "src", given.repeats, "now")
    write(given.out, "light", rows)


if __name__ == "__main__":
    main()
