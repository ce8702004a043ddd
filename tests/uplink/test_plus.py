"""sp_fl_plus: packing, the unbiased stand-in, calibrated reception, and the objective it allocates by."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rounds import format_of, received
from spfl.allocation.bound import Devices, Objective, common_weight, device_cost
from spfl.config.schema import CodecConfig, SchemeConfig
from spfl.errors import ConfigError, PacketError
from spfl.packets.layout import Layout
from spfl.packets.rotation import Packing
from spfl.radio.outage import Outcome
from spfl.schemes import SCHEMES, resolve
from spfl.uplink.upload import Origin, encode

LAYOUT = Layout(("conv", "bias"), ((40, 50), (10,)))
PLUS = SCHEMES["sp_fl_plus"]


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
@pytest.mark.parametrize("aside", [0, 10])
def test_unpack_undoes_pack(rotated: bool, aside: int) -> None:
    packing, (gradient,) = Packing(LAYOUT, rotated, aside), gradients(1)
    vector = packing.pack(gradient, np.random.default_rng(3) if packing.rotated else None)
    assert vector.size == packing.packets.size
    rng = np.random.default_rng(3) if packing.rotated else None
    back = packing.unpack(vector, gradient[LAYOUT.size - aside :], rng)
    np.testing.assert_allclose(back, gradient, atol=1e-5)


def test_all_received_gives_the_mean_up_to_the_quantiser() -> None:
    sent = gradients(4)
    got = get(PLUS, send(PLUS, sent), [1] * 4, [1] * 4).gradient
    error = np.linalg.norm(got - sent.mean(0)) / np.linalg.norm(sent.mean(0))
    assert 0 < error < 0.35
    np.testing.assert_allclose(got[-10:], sent.mean(0)[-10:], rtol=1e-5, atol=1e-6)  # went aside, exact


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
            for scheme in (PLUS, SCHEMES["sp_fl_plus_uncalibrated"])
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
    size = format_of(PLUS, LAYOUT).packets.size
    assert 2000 <= size < 2000 + 256
    assert (signs, modulus) == (size + 320, 3 * size + 64 + 320)


def test_memories_of_the_raw_gradient_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scheme\.compensation must be layer or zero"):
        resolve(SchemeConfig(name="sp_fl_plus", compensation="ema"))


def test_common_weight_minimises_the_cost_of_all_devices() -> None:
    rng = np.random.default_rng(5)
    v2 = rng.uniform(1, 3, 7)
    devices = Devices(rng.dirichlet(np.ones(7)), v2, 1.5 * v2, 0.9 * v2, 0.1 * v2)
    q_s, r_m = rng.random(7), rng.random(7)
    best = common_weight(devices, q_s, r_m)

    def total(c: float) -> float:
        return float(device_cost(devices, q_s, r_m, Objective(theta=0.0, kappa=1.0, weights="plain", c=c)).sum())

    grid = np.linspace(0.5, 1.5, 401) * best
    assert grid[np.argmin([total(c) for c in grid])] == pytest.approx(best, rel=0.003)
    assert common_weight(devices, np.zeros(7), r_m) == 1.0


def test_first_order_error_of_the_normalised_mean() -> None:
    """The objective ranks allocations as the true squared error of the mean over the heard does (Monte Carlo)."""
    rng = np.random.default_rng(7)
    devices, dim = 60, 40
    signal = rng.standard_normal(dim)
    noise = rng.uniform(1.0, 4.0, devices)
    weight = np.full(devices, 1 / devices)

    def true_error(q: Any, r: Any) -> float:
        errors = []
        for _ in range(2000):
            g = signal / 10 + np.sqrt(noise)[:, None] * rng.standard_normal((devices, dim))
            heard = rng.random(devices) < q
            exact = rng.random(devices) < r
            sign_error = np.sqrt(0.57 * noise)[:, None] * rng.standard_normal((devices, dim))
            x = g + np.where(exact[:, None], 0, sign_error)
            a = weight * heard
            errors.append(np.sum((a @ x / a.sum() - weight @ g) ** 2))
        return float(np.mean(errors))

    def objective(q: Any, r: Any) -> float:
        v2 = dim * noise
        five = Devices(weight, v2, 1.57 * v2, v2, 0 * v2)
        c = common_weight(five, q, r)
        return float(device_cost(five, q, r, Objective(theta=0.0, kappa=1.0, weights="plain", c=c)).sum())

    full = np.ones(devices)
    options = [(0.2 * full, full), (0.3 * full, 0.5 * full), (0.5 * full, 0 * full), (0.8 * full, 0.5 * full)]
    true, ours = [true_error(*o) for o in options], [objective(*o) for o in options]
    assert np.argsort(true).tolist() == np.argsort(ours).tolist()
