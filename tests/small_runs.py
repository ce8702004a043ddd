"""Small runs that the tests of folders, of verification and of stops share."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from spfl.config.schema import build_config
from spfl.runs.experiment import read_json, run_experiment
from spfl.runs.metrics import read_metrics

SETTINGS = {
    "data": {"devices": 6},
    "model": {"name": "softmax"},
    "training": {"rounds": 12, "batch_size": 8, "eval_every": 3, "momentum": 0.5},
    "channel": {"median_snr_db": 0.0},
    "scheme": {"name": "sp_fl"},
}


def make_config(**changes):
    values = {key: dict(value) for key, value in SETTINGS.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
    return build_config(values)


def snapshot(folder):
    """Name and bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_run(folder, other):
    """Equal but for wall-clock: metrics, allocations and weights."""
    assert read_json(folder / "summary.json")["digest"] == read_json(other / "summary.json")["digest"]
    timed = ("seconds", "past")  # the digest of lines that hold seconds
    stripped = [[{k: v for k, v in m.items() if k not in timed} for m in read_metrics(f)] for f in (folder, other)]
    assert stripped[0] == stripped[1]
    assert (folder / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert pq.read_table(folder / "allocation.parquet").equals(pq.read_table(other / "allocation.parquet"))


class StoppedError(Exception):
    pass


def stop_at(round_):
    def progress(values):
        if values["round"] == round_:
            raise StoppedError

    return progress


def stopped_run(digits, folder, at, every=2, **changes):
    """A run that ends without any farewell after round `at`, as if killed."""
    with pytest.raises(StoppedError):
        run_experiment(make_config(**changes), digits, folder, checkpoint_every=every, progress=stop_at(at))
