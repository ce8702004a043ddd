"""Populations larger than the data: drawn when needed, sampled a cohort at a time, with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from spfl import training
from spfl.compensation import ORDER, forget, last_key, residual_key
from spfl.config.schema import build_config
from spfl.data.partitioning import SampledParts
from spfl.errors import ConfigError
from spfl.runs.experiment import run_experiment
from spfl.runs.metrics import MOST_ROWS

LABELS = np.repeat(np.arange(10), 150)


def parts(**change):
    options = {"devices": 1_000_000, "seed": 3, "dirichlet_alpha": 0.3, "samples": 40} | change
    return SampledParts(LABELS, options.pop("devices"), **options)


# --- who has which images -----------------------------------------------------------------------------------


def test_a_device_has_the_same_images_at_every_call_and_others_have_others():
    first, second = parts(), parts()
    assert len(first) == 1_000_000
    for device in (0, 7, 999_999):
        mine = first[device]
        assert mine.shape == (40,)
        assert (np.diff(mine) > 0).all()  # sorted, none twice: every class has 150
        np.testing.assert_array_equal(mine, second[device])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], parts(seed=4)[0])
    # the population's size does not matter
    np.testing.assert_array_equal(first[7], parts(devices=8)[7])


def test_label_mixtures_have_the_variance_of_the_dirichlet():
    shares = np.array(
        [np.bincount(LABELS[p], minlength=10) / 40 for p in map(parts(devices=3000).__getitem__, range(3000))]
    )
    mean, alpha = 0.1, 0.3
    dirichlet = mean * (1 - mean) / (10 * alpha + 1)
    expected = dirichlet + (mean * (1 - mean) - dirichlet) / 40  # and of 40 draws from the mixture
    squares = (shares - mean) ** 2
    error = 5 * squares.mean(1).std() / np.sqrt(3000)
    assert abs(squares.mean() - expected) < error
    assert abs(squares.mean() - dirichlet * 1.2) > error  # a law with another alpha is told apart
    assert (np.abs(shares.mean(0) - mean) < 5 * np.sqrt(expected / 3000)).all()


def test_small_classes_are_drawn_with_replacement():
    few = SampledParts(np.arange(3), 5, seed=0, dirichlet_alpha=1.0, samples=50)
    assert few[2].shape == (50,)


@pytest.mark.parametrize("change", [{"devices": 0}, {"samples": 0}, {"dirichlet_alpha": 0.0}])
def test_parameters_out_of_range(change):
    with pytest.raises(ConfigError, match="must be >= 1"):
        parts(**change)
    with pytest.raises(IndexError, match="got 1000000"):
        parts()[1_000_000]


# --- a round costs the same for any population --------------------------------------------------------------


def million(**scheme):
    return build_config(
        {
            "seed": 1,
            "workers": 1,
            "data": {"devices": 1_000_000, "cohort_size": 6, "partition": "sampled"},
            "model": {"name": "softmax"},
            "training": {"rounds": 4, "batch_size": 16, "eval_every": 4},
            "channel": {"median_snr_db": 6.0},
            "scheme": scheme,
        }
    )


def test_a_cohort_of_a_million(digits, tmp_path):
    records = list(training.run(million(name="sp_fl_plus_1"), digits))
    members = {device for record in records for device in record.cohort}
    assert len(members) == 24
    assert max(members) > MOST_ROWS
    run_experiment(million(name="sp_fl_plus_1"), digits, tmp_path / "run")
    assert not (tmp_path / "run" / "devices.parquet").exists()


# --- what single devices remember ---------------------------------------------------------------------------


def test_the_longest_unused_memories_go_first():
    state = {residual_key(d): np.ones(2, np.float32) for d in (1, 2, 3)} | {"update/last": np.zeros(2, np.float32)}
    state |= {last_key(2): np.ones(2, np.float32)}
    assert forget(state, [3], None) is state
    first = forget(state, [1, 2, 3], 3)
    assert first[ORDER].tolist() == [1, 2, 3]
    later = forget(first | {residual_key(9): np.ones(2, np.float32)}, [9, 1], 3)
    assert later[ORDER].tolist() == [3, 1, 9]
    assert later.keys() == {residual_key(3), residual_key(1), residual_key(9), "update/last", ORDER}


def test_error_feedback_keeps_no_more_than_it_may(digits):
    records = list(training.run(million(name="top_k", remembered_devices=8), digits))
    kept = [sum(name.startswith("residual/") for name in record.server.memory) for record in records]
    assert kept == [6, 8, 8, 8]
    everything = list(training.run(million(name="top_k"), digits))[-1].server.memory
    assert sum(name.startswith("residual/") for name in everything) == 24
