"""Peak memory of a round over K devices and d parameters, against what the packets need.

    python benchmarks/memory.py [--devices 10 100 1000] [--parameters 1e4 1e5 1e6] [--bits 3] [--out DIR]

Each point is a process of its own: two rounds of `sp_fl` on digits, the resident set at its largest (ru_maxrss). Only
packets, of 1 + b bits a parameter, and side information may stay until the allocation; the limit is 1.3 times those
plus 1 GiB, for Python, PyTorch, the compiled kernels and the data. "gradients": what float32 gradients would take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import write

LIMIT = {"times_packets": 1.3, "plus_mib": 1024}
MIB = 2**20


def hidden_units(parameters: int) -> int:
    """Of an MLP on 8 x 8 images and 10 classes with about so many parameters."""
    return max(1, round((parameters - 10) / 75))


def point(devices: int, parameters: int, bits: int) -> dict[str, Any]:
    """Train two rounds in this process."""
    from spfl import training
    from spfl.config.schema import build_config

    config = build_config(
        {
            "data": {"name": "digits", "devices": devices, "partition": "sampled", "samples_per_device": 16},
            "model": {"name": "mlp", "width": hidden_units(parameters)},
            "training": {"rounds": 2, "batch_size": 16, "eval_every": 10},
            "channel": {"median_snr_db": 10.0, "symbols_per_parameter": 4.0},
            "codec": {"bits": bits},
            "scheme": {"name": "sp_fl", "weights": "normalized", "solver": "uniform"},
        }
    )
    began = time.perf_counter()
    records = list(training.run(config))
    size = records[-1].server.weights.size
    packets = devices * size * (1 + bits) / 8 / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "devices": devices,
        "parameters": size,
        "bits": bits,
        "peak_mib": peak,
        "packets_mib": packets,
        "gradients_mib": 4 * devices * size / MIB,
        "limit_mib": LIMIT["times_packets"] * packets + LIMIT["plus_mib"],
        "signs_received": int(records[-1].outcome.sign.sum()),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--parameters", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--point", action="store_true", help="one point, in this process")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.point:
        print("POINT " + json.dumps(point(given.devices[0], int(given.parameters[0]), given.bits)))
        return
    rows = []
    for devices in given.devices:
        for parameters in given.parameters:
            command = [sys.executable, __file__, "--point", "--devices", str(devices), "--parameters", str(parameters)]
            done = subprocess.run(
                [*command, "--bits", str(given.bits)], check=True, capture_output=True, text=True, env=dict(os.environ)
            )
            rows.append(json.loads(done.stdout.partition("POINT ")[2]))
            print(rows[-1], file=sys.stderr, flush=True)
    write(given.out, "memory", rows)


if __name__ == "__main__":
    main()
