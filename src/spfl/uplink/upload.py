"""The device's end of the uplink, for any scheme: a gradient to packets, and what the server is told.

All functions are pure, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from spfl.allocation.bound import Devices
from spfl.arrays import Vector
from spfl.compensation import residual_key
from spfl.errors import PacketError
from spfl.packets.codec import (
    Levels,
    encode_ladder,
    encode_modulus,
    encode_own,
    encode_signs,
    encode_sparse,
    gradient_stats,
)
from spfl.rng import Purpose, stream
from spfl.uplink.format import Format


class Origin(NamedTuple):
    """Where a gradient is from: device and round, the device's samples, and its training loss."""

    device: int
    round_: int
    samples: int
    loss: float = math.nan


@dataclass(frozen=True)
class Upload:
    """What one device hands to its radio: packets, and the side information of model.md, section 2.

    `gradient` float32 (dim,) stays only where no packet replaces it (ideal and analogue uplinks) or error feedback
    needs it. `kept` float32 (dim,) is what the device's local rule keeps for its next round; it is not sent. `held` is
    the fleet's own record of packets that stay on a PyTorch device.
    `statistics` are what BatchNorm kept of the device's batches, sent as side information.
    `trust` is the server's own factor on the device's weight, below 1 for what is old (asynchronous rounds).
    """

    device: int
    samples: int
    loss: float
    tensor_means: Vector
    v2: float = 0.0
    vbar2: float = 0.0
    v_vbar: float = 0.0
    delta2: float = 0.0
    sign_packet: bytes = b""
    modulus_packet: bytes = b""
    sparse_packet: bytes = b""
    gradient: Vector | None = None
    output_bias: Vector = field(default_factory=lambda: np.zeros(0, np.float32))
    ladder_packet: bytes = b""
    own_packet: bytes = b""
    kept: Vector | None = None
    statistics: Vector | None = None
    trust: float = 1.0
    held: object = field(default=None, compare=False, repr=False)


def silent(form: Format, device: int) -> Upload:
    """The upload of a device that has nothing to send this round: no samples, no weight."""
    means, output_bias = np.zeros(len(form.packets.names), np.float32), np.zeros(form.packing.output_biases, np.float32)
    return Upload(device, 0, math.nan, means, output_bias=output_bias)


def encode(form: Format, gradient: Vector, state: Mapping[str, Vector], origin: Origin) -> Upload:
    """The device's side of a round. Raises PacketError for a gradient that is not finite."""
    scheme, packing, device = form.scheme, form.packing, origin.device
    if scheme.error_feedback and residual_key(device) in state:
        gradient = gradient + state[residual_key(device)]
    keep = scheme.error_feedback or scheme.uplink in ("ideal", "analog")
    output_bias = gradient[gradient.size - packing.output_biases :].copy()
    if not np.isfinite(gradient).all():
        raise PacketError(f"gradient of device {device} in round {origin.round_} is not finite")
    vector = packing.pack(gradient, form.rotation(origin.round_, device))
    means = form.scales(vector)
    sent, delta2 = _packets(form, vector, origin)
    stats = gradient_stats(vector, form.compensatory(state, device, means))
    kept = gradient.copy() if keep else None
    if form.scheme.uplink == "ladder" and form.ladder.fixed is not None:
        delta2 = stats[0] * float(form.ladder.noise(form.ladder.fixed))
    return Upload(
        device, origin.samples, origin.loss, means, *stats, delta2, gradient=kept, output_bias=output_bias, **sent
    )


def _packets(form: Format, vector: Vector, origin: Origin) -> tuple[dict[str, Any], float]:
    """The packets of the scheme by the field of `Upload` that holds them, and delta^2 of their quantiser."""
    uplink, device, round_ = form.scheme.uplink, origin.device, origin.round_
    address: dict[str, Any] = {"layout": form.packets, "round_": round_, "device": device}
    sent, delta2 = {}, 0.0
    if uplink in ("split", "single", "sign"):
        sent["sign_packet"] = encode_signs(vector, **address)
    if uplink in ("split", "single"):
        rng = stream(form.seed, round_, device, Purpose.QUANTISE)
        levels = Levels(form.codec.bits, form.codec.per_tensor)
        sent["modulus_packet"], delta2 = encode_modulus(vector, levels, rng=rng, **address)
    if uplink == "sparse":
        sent["sparse_packet"] = encode_sparse(vector, form.kept_values, **address)
    if uplink == "ladder":
        sent["ladder_packet"] = encode_ladder(vector, form.digits, **address)
    if uplink == "codec" and form.scheme.codec is not None:
        rng = stream(form.seed, round_, device, Purpose.QUANTISE)
        sent["own_packet"] = encode_own(form.scheme.codec, vector, rng, **address)
    return sent, delta2


def describe(uploads: Sequence[Upload]) -> Devices:
    """The side information of a cohort as the allocator takes it; weights n_k / n, with trust n_k s_k / sum n s."""
    weight = np.array([u.samples * u.trust for u in uploads], np.float64)
    names = ("v2", "vbar2", "v_vbar", "delta2")
    told = (np.array([getattr(u, name) for u in uploads], np.float64) for name in names)
    return Devices(weight, *told).normalized()


def signs_of(gradient: Vector) -> Vector:
    """Signs +-1 of a gradient (dim,), float32; zero counts as +1, as in a sign packet."""
    return np.where(gradient >= 0, np.float32(1.0), np.float32(-1.0))
