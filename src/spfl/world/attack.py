"""Hostile devices, for experiments: what they compute, send and claim. `[attack]` of the configuration.

sign_flip  sends -factor times its gradient           inflate  claims a gradient norm `factor` times its own
scale      sends factor times its gradient            samples  claims `factor` times the samples it has
noise      sends noise of `factor` times its norm     replay   sends the packets of its first round again
nan        claims NaN everywhere                      stale    sends its first gradient in packets of today
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from spfl.arrays import Vector
from spfl.config.schema import AttackConfig
from spfl.rng import SETUP_ROUND, Purpose, server_stream, stream
from spfl.uplink.upload import Upload

FIRST_ROUND = 1


def hostile_devices(attack: AttackConfig, devices: int, seed: int) -> frozenset[int]:
    """Which devices are hostile: a uniform draw, the same in every round."""
    if attack.kind == "none" or attack.devices == 0:
        return frozenset()
    rng = server_stream(seed, SETUP_ROUND, Purpose.ATTACK)
    return frozenset(rng.choice(devices, attack.devices, replace=False).tolist())


def disguise(attack: AttackConfig, gradient: Vector, *, seed: int, round_: int, device: int) -> Vector:
    """What a hostile device puts in place of its gradient, float32 (dim,)."""
    if attack.kind == "noise":
        noise = stream(seed, round_, device, Purpose.ATTACK).standard_normal(gradient.size, np.float32)
        scale = np.linalg.norm(gradient) / max(float(np.linalg.norm(noise)), 1e-30)
        return np.asarray(np.float32(attack.factor * scale) * noise)
    sign = {"sign_flip": -1.0, "scale": 1.0}.get(attack.kind)
    return gradient if sign is None else np.float32(sign * attack.factor) * gradient


def tamper(attack: AttackConfig, upload: Upload) -> Upload:
    """What a hostile device claims besides: its side information."""
    factor = attack.factor
    if attack.kind == "inflate":
        return replace(
            upload, v2=factor**2 * upload.v2, v_vbar=factor * upload.v_vbar, delta2=factor**2 * upload.delta2
        )
    if attack.kind == "samples":
        return replace(upload, samples=math.ceil(factor * upload.samples))
    if attack.kind == "nan":
        bad = np.full_like(upload.tensor_means, np.nan)
        gradient = None if upload.gradient is None else np.full_like(upload.gradient, np.nan)
        nan = math.nan
        return replace(
            upload, v2=nan, v_vbar=nan, delta2=nan, tensor_means=bad, output_bias=upload.output_bias * np.float32(nan),
            gradient=gradient,
        )  # fmt: skip
    return upload
