"""A long run: memory stays flat and no file descriptor is left open."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

LONG = """
import json, os, resource, sys
from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.runs.experiment import run_experiment
from pathlib import Path

seen = {}

def watch(values):
    if values["round"] in (500, 2000):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        seen[values["round"]] = [resident, len(os.listdir("/proc/self/fd"))]

config = build_config({
    "model": {"name": "softmax"},
    "training": {"rounds": 2000, "eval_every": 100},
    "channel": {"median_snr_db": 0.0},
    "scheme": {"name": sys.argv[1]},
})
run_experiment(config, load_dataset("digits"), Path(sys.argv[2]), progress=watch)
print("SEEN " + json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "top_k"])
def test_two_thousand_rounds(scheme, tmp_path):
    command = [sys.executable, "-c", LONG, scheme, str(tmp_path / "run")]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout
    seen = json.loads(text.partition("SEEN ")[2])
    (early, files), (late, files_late) = seen["500"], seen["2000"]
    assert files_late <= files
    assert late - early < 16 * 2**20, f"memory grew by {(late - early) / 2**20:.1f} MiB in 1500 rounds"
