"""One device of d parameters, from ten thousand to a hundred million: seconds and memory of its packets, both ways.

    python benchmarks/large.py [--parameters 1e4 1e5 1e6 1e7 1e8] [--schemes sp_fl sp_fl_plus] [--out DIR]

Each point is a process of its own, on one core. "encode": a gradient to packets and side information; "decode": to the
server's estimate of the gradient. Peaks are prepared, and the ladder is sent whole, four planes. Seconds are the least
of the repeats; memory is the largest resident set less that before the gradient was made, in vectors of float32 (4 d
bytes), the gradient itself included.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import apart, tell, write

REPEATS = 3
MIB = 2**20


def point(scheme: str, parameters: int) -> dict[str, Any]:
    """A device's round in this process."""
    from spfl.allocation.result import AllocationResult, AllocationStatus
    from spfl.config.schema import CodecConfig, SchemeConfig
    from spfl.packets.layout import Layout
    from spfl.radio.outage import Outcome
    from spfl.schemes import SCHEMES
    from spfl.uplink.format import Format
    from spfl.uplink.reception import Arrived, decode_device
    from spfl.uplink.upload import Origin, encode

    def form_of(size: int) -> Format:
        layout = Layout(("weight",), ((size,),))
        return Format(SCHEMES[scheme], SchemeConfig(name=scheme), layout, CodecConfig(bits=3), 0)

    def both_ways(form: Format, gradient: Any) -> tuple[float, float]:
        started = time.perf_counter()
        upload = encode(form, gradient, {}, Origin(0, 1, 1, 1.0))
        middle = time.perf_counter()
        one = np.ones(1)
        bits = np.array([4.0 * form.packets.size]) if form.scheme.grants_bits else None
        granted = AllocationResult(
            one, one, one, one, one, one, 0.0, None, None, AllocationStatus.FIXED, 0, 0.0, one < 0, bits=bits
        )
        came = Outcome(np.array([True]), np.array([True]))
        found = decode_device(form, Arrived(1, [upload], came, granted), 0, {})
        assert found is not None
        return middle - started, time.perf_counter() - middle

    both_ways(form_of(1000), np.ones(1000, np.float32))  # compiled kernels are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    form, gradient = form_of(parameters), np.random.default_rng(0).standard_normal(parameters, np.float32)
    seconds = [both_ways(form, gradient) for _ in range(REPEATS)]
    peak_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    encode_s, decode_s = (min(part) for part in zip(*seconds, strict=True))
    return {
        "scheme": scheme,
        "parameters": parameters,
        "encode_s": encode_s,
        "decode_s": decode_s,
        "encode_gb_per_s": 4 * parameters / encode_s / 1e9,
        "decode_gb_per_s": 4 * parameters / decode_s / 1e9,
        "peak_mib": peak_mib,
        "peak_in_vectors": peak_mib * MIB / (4 * parameters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--schemes", nargs="+", default=["sp_fl", "sp_fl_plus"])
    parser.add_argument("--one", action="store_true", help="one point, in this process")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        tell(point(given.schemes[0], int(given.parameters[0])))
        return
    rows = [
        apart(__file__, "--one", "--schemes", scheme, "--parameters", str(parameters))
        for scheme in given.schemes
        for parameters in given.parameters
    ]
    write(given.out, "large", rows)


if __name__ == "__main__":
    main()
