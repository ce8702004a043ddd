"""The random rotation: orthogonal, invertible, and what makes signs unbiased."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import hadamard_matrix
from spfl.packets.rotation import Rotation
from spfl.rng import Purpose, stream


def rng(device=0):
    return stream(0, 1, device, Purpose.ROTATION)


@given(st.integers(1, 5000), st.integers(0, 10))
def test_inverse_undoes_forward_and_the_norm_is_kept(dim, seed):
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    rotation = Rotation(dim)
    rotated = rotation.forward(vector, rng(seed))
    assert rotated.dtype == np.float32
    assert rotated.size == rotation.layout.size
    np.testing.assert_allclose(rotation.inverse(rotated, rng(seed)), vector, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rotated), np.linalg.norm(vector), rtol=1e-5)


@given(st.integers(1, 200_000))
def test_padding_and_scales_stay_small(dim):
    rotation = Rotation(dim)
    assert 0 <= rotation.layout.size - dim < rotation.block <= 4096
    assert rotation.block**2 <= max(64, 32 * dim)  # whole bytes at least
    assert 32 * len(rotation.layout.shapes) <= 2 * (32 * dim) ** 0.5 + 32 or rotation.block == 4096


def test_equals_the_matrix():
    rotation = Rotation(512)
    assert rotation.block == 128
    vector = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    flips = np.unpackbits(np.frombuffer(rng().bytes(64), np.uint8)).astype(float) * 2 - 1
    expected = ((vector * flips).reshape(-1, 128) @ hadamard_matrix(128)).ravel()
    np.testing.assert_allclose(rotation.forward(vector, rng()), expected, atol=1e-5)


def sign_estimates(rotation, vector, draws, rotate=True):
    for device in range(draws):
        x = rotation.forward(vector, rng(device)) if rotate else vector
        blocks = np.abs(x).reshape(-1, rotation.block)
        scale = (blocks**2).sum(1) / blocks.sum(1)
        estimate = np.where(x >= 0, 1, -1) * np.repeat(scale, rotation.block)
        yield rotation.inverse(estimate.astype(np.float32), rng(device)) if rotate else estimate


def test_rotated_signs_are_unbiased_and_plain_signs_are_not():
    vector = (np.random.default_rng(1).standard_normal(65536) ** 3).astype(np.float32)  # heavy tails
    rotation = Rotation(vector.size)
    estimates = np.array(list(sign_estimates(rotation, vector, 100)))
    error = estimates - vector
    mean_error = np.linalg.norm(error.mean(0)) / np.linalg.norm(vector)
    one_error = np.sqrt((error**2).sum(1).mean()) / np.linalg.norm(vector)
    assert one_error**2 == pytest.approx(np.pi / 2 - 1, rel=0.1)
    assert mean_error < 1.3 * one_error / np.sqrt(100)  # shrinks as independent errors do
    plain = next(sign_estimates(rotation, vector, 1, rotate=False))
    assert np.linalg.norm(plain - vector) / np.linalg.norm(vector) > one_error  # and never shrinks


def test_rotation_shrinks_the_quantisers_variance():
    from spfl.packets.codec import Levels, encode_modulus
    from spfl.packets.layout import Layout

    vector = (np.random.default_rng(1).standard_normal(8192) ** 3).astype(np.float32)
    rotation = Rotation(vector.size)
    plain = encode_modulus(vector, Levels(3), layout=Layout(("w",), ((8192,),)), round_=1, device=0, rng=rng())[1]
    rotated = rotation.forward(vector, rng())
    assert encode_modulus(rotated, Levels(3), layout=rotation.layout, round_=1, device=0, rng=rng())[1] < plain / 5
