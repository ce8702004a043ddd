"""Calibrated aggregation weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import calibrated_weights_by_minimisation
from spfl.uplink.calibration import calibrated_weights


def instance(seed, devices=12, classes=4):
    rng = np.random.default_rng(seed)
    received = rng.random(devices) < 0.6
    received[0] = True
    return rng.dirichlet(np.ones(devices)), rng.standard_normal((devices, classes)), received


@given(st.integers(0, 200))
def test_weights_of_the_heard_sum_to_one(seed):
    weight, auxiliary, received = instance(seed)
    out = calibrated_weights(weight, auxiliary, received)
    assert out.sum() == pytest.approx(1)
    assert (out >= 0).all()
    assert (out[~received] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_minimises_what_the_docstring_says(seed):
    weight, auxiliary, received = instance(seed)
    auxiliary = 0.1 * auxiliary + 1.0  # mild corrections: nothing is clipped
    out = calibrated_weights(weight, auxiliary, received, ridge=2.0)
    expected = calibrated_weights_by_minimisation(weight, auxiliary, received, ridge=2.0)
    np.testing.assert_allclose(out, expected / expected.sum(), atol=1e-5)


def test_all_heard_keeps_the_weights():
    weight, auxiliary, received = instance(3)
    np.testing.assert_allclose(calibrated_weights(weight, auxiliary, np.ones_like(received)), weight, atol=1e-12)


def test_without_auxiliary_information_it_is_the_normalized_weight():
    weight, auxiliary, received = instance(4)
    expected = np.where(received, weight, 0) / weight[received].sum()
    np.testing.assert_allclose(calibrated_weights(weight, auxiliary[:, :0], received), expected)
    np.testing.assert_allclose(calibrated_weights(weight, 0 * auxiliary, received), expected)
    assert not calibrated_weights(weight, auxiliary, np.zeros_like(received)).any()


def test_reduces_the_error_of_the_mean_when_gradients_follow_the_auxiliary_vector():
    plain, calibrated = [], []
    for seed in range(200):
        weight, auxiliary, received = instance(seed)
        gradients = auxiliary @ np.random.default_rng(seed + 1).standard_normal((4, 30))
        truth = weight @ gradients
        normalized = np.where(received, weight, 0) / weight[received].sum()
        plain.append(np.sum((normalized @ gradients - truth) ** 2))
        calibrated.append(np.sum((calibrated_weights(weight, auxiliary, received) @ gradients - truth) ** 2))
    assert np.mean(calibrated) < 0.5 * np.mean(plain)
