"""Calibrated aggregation weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import calibrated_weights_by_minimisation
from spfl.uplink.calibration import calibrated_weights


def instance(seed, devices=12, classes=4):
    rng = np.random.default_rng(seed)
    heard = rng.random(devices) < 0.6
    heard[0] = True
    return rng.dirichlet(np.ones(devices)), rng.standard_normal((devices, classes)), heard


@given(st.integers(0, 200))
def test_weights_of_the_heard_sum_to_one(seed):
    weight, auxiliary, heard = instance(seed)
    out = calibrated_weights(weight, auxiliary, heard)
    assert out.sum() == pytest.approx(1)
    assert (out >= 0).all()
    assert (out[~heard] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_minimises_what_the_docstring_says(seed):
    weight, auxiliary, heard = instance(seed)
    auxiliary = 0.1 * auxiliary + 1.0  # mild corrections: nothing is clipped
    out = calibrated_weights(weight, auxiliary, heard, ridge=2.0)
    expected = calibrated_weights_by_minimisation(weight, auxiliary, heard, ridge=2.0)
    np.testing.assert_allclose(out, expected / expected.sum(), atol=1e-5)


def test_all_heard_keeps_the_weights():
    weight, auxiliary, heard = instance(3)
    np.testing.assert_allclose(calibrated_weights(weight, auxiliary, np.ones_like(heard)), weight, atol=1e-12)


def test_without_auxiliary_information_it_is_the_normalized_weight():
    weight, auxiliary, heard = instance(4)
    expected = np.where(heard, weight, 0) / weight[heard].sum()
    np.testing.assert_allclose(calibrated_weights(weight, auxiliary[:, :0], heard), expected)
    np.testing.assert_allclose(calibrated_weights(weight, 0 * auxiliary, heard), expected)
    assert not calibrated_weights(weight, auxiliary, np.zeros_like(heard)).any()


def test_reduces_the_error_of_the_mean_when_gradients_follow_the_auxiliary_vector():
    plain, calibrated = [], []
    for seed in range(200):
        weight, auxiliary, heard = instance(seed)
        gradients = auxiliary @ np.random.default_rng(seed + 1).standard_normal((4, 30))
        truth = weight @ gradients
        normalized = np.where(heard, weight, 0) / weight[heard].sum()
        plain.append(np.sum((normalized @ gradients - truth) ** 2))
        calibrated.append(np.sum((calibrated_weights(weight, auxiliary, heard) @ gradients - truth) ** 2))
    assert np.mean(calibrated) < 0.5 * np.mean(plain)
