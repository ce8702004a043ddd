"""Rotated packets and calibrated weights, from upload to update."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rounds import format_of, received
from spfl.config.schema import CodecConfig, SchemeConfig
from spfl.errors import ConfigError, PacketError
from spfl.packets.layout import Layout
from spfl.packets.rotation import Packing
from spfl.radio.outage import Outcome
from spfl.schemes import SCHEMES, resolve
from spfl.uplink.upload import Origin, encode

LAYOUT = Layout(("conv", "bias"), ((40, 50), (10,)))
PLUS = SCHEMES["sp_fl_plus_1"]


def send(scheme: Any, gradients: Any, round_: int = 1) -> list[Any]:
    return [
        encode(format_of(scheme, LAYOUT, CodecConfig(bits=3)), gradient, {}, Origin(k, round_, 10, 1.0))
        for k, gradient in enumerate(gradients)
    ]


def get(scheme: Any, uploads: Any, sign: Any, modulus: Any, round_: int = 1) -> Any:
    odds: Any = SimpleNamespace(q_s=np.ones(len(sign)), r_m=np.ones(len(sign)), bits=None)
    outcome = Outcome(np.array(sign, bool), np.array(modulus, bool))
    return received(format_of(scheme, LAYOUT), uploads, outcome, odds, round_=round_)


def gradients(devices: int, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal((devices, LAYOUT.size)) ** 3).astype(np.float32)


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("output_bias", [0, 10])
def test_unpack_undoes_pack(rotated: bool, output_bias: int) -> None:
    packing, (gradient,) = Packing(LAYOUT, rotated, output_bias), gradients(1)
    vector = packing.pack(gradient, np.random.default_rng(3) if packing.rotated else None)
    assert vector.size == packing.packets.size
    rng = np.random.default_rng(3) if packing.rotated else None
    back = packing.unpack(vector, gradient[LAYOUT.size - output_bias :], rng)
    np.testing.assert_allclose(back, gradient, atol=1e-5)


def test_all_received_gives_the_mean_up_to_the_quantiser() -> None:
    sent = gradients(4)
    got = get(PLUS, send(PLUS, sent), [1] * 4, [1] * 4).gradient
    error = np.linalg.norm(got - sent.mean(0)) / np.linalg.norm(sent.mean(0))
    assert 0 < error < 0.35
    np.testing.assert_allclose(got[-10:], sent.mean(0)[-10:], rtol=1e-5, atol=1e-6)  # side information, exact


def test_signs_alone_are_nearly_unbiased_over_rotations() -> None:
    """For Laplace tails. A coordinate that outweighs its whole block leaves a bias: a rotated spike is not Gaussian."""
    sent = np.random.default_rng(0).laplace(size=(1, LAYOUT.size)).astype(np.float32)
    draws = np.array([get(PLUS, send(PLUS, sent, t), [1], [0], t).gradient for t in range(1, 401)])
    error = draws - sent[0]
    single, mean = np.sqrt((error**2).sum(1).mean()), np.linalg.norm(error.mean(0))
    assert mean < 1.3 * single / np.sqrt(400)
    unrotated = replace(PLUS, rotated=False)
    biased = np.array([get(unrotated, send(unrotated, sent, t), [1], [0], t).gradient for t in (1, 2)]) - sent[0]
    assert np.linalg.norm(biased.mean(0)) > 0.4 * single  # the twin that must fail


def test_the_five_floats_say_that_a_sign_is_unbiased() -> None:
    (upload,) = send(PLUS, gradients(1))
    assert upload.v_vbar == pytest.approx(upload.v2, rel=1e-4)
    assert upload.vbar2 / upload.v2 == pytest.approx(np.pi / 2, rel=0.15)


def test_lost_devices_are_made_up_for_by_calibration() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((10, 2000)).astype(np.float32)
    wins = []
    for seed in range(20):
        auxiliary = np.random.default_rng(seed).standard_normal((12, 10)).astype(np.float32)
        sent = np.concatenate([auxiliary @ mixing, auxiliary], axis=1)
        heard = np.random.default_rng(100 + seed).random(12) < 0.6
        errors = [
            np.linalg.norm(get(scheme, send(scheme, sent), heard, heard).gradient[:2000] - sent.mean(0)[:2000])
            for scheme in (PLUS, SCHEMES["sp_fl_plus_1_uncalibrated"])
        ]
        wins.append(errors[0] < errors[1])
    assert np.mean(wins) > 0.8


def test_not_finite_aside_is_refused() -> None:
    (gradient,) = gradients(1)
    gradient[-1] = np.nan
    with pytest.raises(PacketError, match="not finite"):
        send(PLUS, [gradient])


def test_packets_carry_the_rotated_vector_and_nothing_else() -> None:
    signs, modulus = format_of(PLUS, LAYOUT, CodecConfig(bits=3)).link_bits
    blocks = format_of(PLUS, LAYOUT).packets
    assert 2000 <= blocks.size < 2000 + 256
    assert (signs, modulus) == (blocks.size + 320, 3 * blocks.size + 64 * len(blocks.names) + 320)


def test_memories_of_the_raw_gradient_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scheme\.compensation must be layer or zero"):
        resolve(SchemeConfig(name="sp_fl_plus_1", compensation="ema"))
