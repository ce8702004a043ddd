"""Peak memory of a round over K devices and d parameters, against what the packets need.

    python benchmarks/memory.py [--points 10x1e4 ...] [--schemes sp_fl sp_fl_plus] [--out DIR]

A point is devices x parameters, and a process of its own: two rounds on digits, the resident set at its largest
(ru_maxrss). Only packets and side information may stay until the allocation. A device prepares four bits a parameter:
a sign and three of a modulus (`sp_fl`), or five: the ladder and its peaks, of which it then sends what it is granted
(`sp_fl_plus`). The limit is 1.3 times those plus 1 GiB, for Python, PyTorch, the compiled kernels and the data.
"gradients": what float32 gradients would take. 20 x 11 million is the size of a ResNet-18.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

from results import apart, tell, write

LIMIT = {"times_packets": 1.3, "plus_mib": 1024}
MIB = 2**20
BITS = {"sp_fl": 4, "sp_fl_plus": 5}  # a parameter, prepared
POINTS = ("10x1e4", "100x1e6", "1000x1e5", "1000x1e6", "20x1.1e7")


def hidden_units(parameters: int) -> int:
    """Of an MLP on 8 x 8 images and 10 classes with about so many parameters."""
    return max(1, round((parameters - 10) / 75))


def point(scheme: str, devices: int, parameters: int) -> dict[str, Any]:
    """Train two rounds in this process."""
    from spfl import training
    from spfl.config.schema import build_config

    config = build_config(
        {
            "data": {"name": "digits", "devices": devices, "partition": "sampled", "samples_per_device": 16},
            "model": {"name": "mlp", "width": hidden_units(parameters)},
            "training": {"rounds": 2, "batch_size": 16, "eval_every": 10},
            "channel": {"median_snr_db": 10.0, "symbols_per_parameter": 4.0},
            "codec": {"bits": BITS["sp_fl"] - 1},
            "scheme": {"name": scheme} | ({"weights": "normalized", "solver": "uniform"} if scheme == "sp_fl" else {}),
        }
    )
    began = time.perf_counter()
    records = list(training.run(config))
    size = records[-1].server.weights.size
    packets = devices * size * BITS[scheme] / 8 / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "scheme": scheme,
        "devices": devices,
        "parameters": size,
        "peak_mib": peak,
        "packets_mib": packets,
        "gradients_mib": 4 * devices * size / MIB,
        "limit_mib": LIMIT["times_packets"] * packets + LIMIT["plus_mib"],
        "signs_received": int(records[-1].outcome.sign.sum()),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=list(POINTS), help="devices x parameters")
    parser.add_argument("--schemes", nargs="+", choices=list(BITS), default=list(BITS))
    parser.add_argument("--one", action="store_true", help="one point, in this process")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        devices, parameters = given.points[0].split("x")
        tell(point(given.schemes[0], int(devices), int(float(parameters))))
        return
    rows = [
        apart(__file__, "--one", "--schemes", scheme, "--points", which)
        for scheme in given.schemes
        for which in given.points
    ]
    write(given.out, "memory", rows)


if __name__ == "__main__":
    main()
