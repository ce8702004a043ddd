"""Four devices, seven parameters: what the tests of the uplink's stages share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rounds import format_of, received
from spfl.allocation.bound import Devices
from spfl.arrays import State
from spfl.packets.layout import Layout
from spfl.radio.outage import Link, Outcome
from spfl.scheme import Scheme
from spfl.uplink.reception import Update
from spfl.uplink.upload import Origin, Upload, encode

LAYOUT = Layout(("a", "b"), ((4,), (3,)))
DIM = LAYOUT.size
SAMPLES = (10, 20, 30, 40)
WEIGHT = np.array(SAMPLES) / 100

Vector = NDArray[np.float32]


def constant_modulus(rng: np.random.Generator, size: int = DIM) -> Vector:
    """Random signs, one random modulus: what the quantiser sends exactly."""
    return (rng.choice([-1.0, 1.0], size) * rng.uniform(0.5, 2.0)).astype(np.float32)


def send(scheme: Scheme, gradients: list[Vector], state: State | None = None, round_: int = 1) -> list[Upload]:
    return [
        encode(format_of(scheme, LAYOUT), g, state or {}, Origin(k, round_, SAMPLES[k], 0.0))
        for k, g in enumerate(gradients)
    ]


def get(
    scheme: Scheme, uploads: list[Upload], heard: Any, state: State | None = None, round_: int = 1, q_s: Any = 1.0
) -> Update:
    """What the server makes of the uploads when these devices are heard, with all their packets."""
    sign = np.asarray(heard, np.bool_)
    allocation: Any = SimpleNamespace(q_s=np.full(len(sign), q_s), r_m=np.ones(len(sign)), bits=None)
    return received(format_of(scheme, LAYOUT), uploads, Outcome(sign, sign), allocation, state, round_)


def make_link(gain: Any = (1.0, 0.3, 0.1, 0.03), bits: int = 100, symbols: float = 400.0, **more: Any) -> Link:
    """B N_0 = 1, so that `gain` is the mean SNR over the whole band at full power; `symbols` = B tau."""
    one = np.ones(len(gain))
    known = {"sign_bits": bits * one, "modulus_bits": 0 * one, "gain": np.array(gain), "tau_s": symbols * one} | more
    return Link(bandwidth_hz=1.0, noise_w_per_hz=1.0, power_w=one, **known)


def make_devices(size: int = 4, seed: int = 0) -> Devices:
    v2 = np.random.default_rng(seed).uniform(1, 2, size)
    return Devices(np.full(size, 1 / size), v2, 0.6 * v2, 0.7 * v2, 0.05 * v2)


def fades(rng: np.random.Generator, size: int = 4) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = rng.exponential(size=size)
    return both, both
