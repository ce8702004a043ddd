"""The proposed scheme and every baseline, each a point of one design space, in one dictionary.

A scheme says how a gradient is put into packets, how band and power are shared, and what the server does with
the packets that arrive. The functions below carry out any scheme; they are pure, with the `State` passed in and out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spfl.aggregation import Compensation, Contribution, State, Vector, aggregate, compensatory_modulus, remember
from spfl.allocation import AllocationResult, allocate
from spfl.bound import Devices, Weights, aggregation_weight
from spfl.channel import Link, Outcome
from spfl.codec import (
    Layout,
    decode_modulus,
    decode_signs,
    encode_modulus,
    encode_signs,
    gradient_stats,
    modulus_packet_bits,
    sign_packet_bits,
)
from spfl.config import CodecConfig, SchemeConfig, SolverName
from spfl.errors import ConfigError, PacketError, did_you_mean
from spfl.rng import Purpose, stream

Uplink = Literal["ideal", "split", "single", "sign"]


@dataclass(frozen=True)
class Scheme:
    """One transmission scheme.

    uplink: `ideal` sends the exact gradient without loss; `split` a sign and a modulus packet; `single` both in one
    packet; `sign` only the sign packet. `missing` is what stands for a device that was not heard: nothing, or the
    last update (`reuse`). `vote` replaces the aggregate by its sign times the mean modulus per tensor.
    """

    name: str
    source: str
    summary: str
    uplink: Uplink = "split"
    weights: Weights = "normalized"
    compensation: Compensation = "layer"
    shrink: float = 1.0
    solver: SolverName = "uniform"
    allocate_band: bool = True
    allocate_power: bool = True
    error_feedback: bool = False


_SP_FL = Scheme(
    "sp_fl",
    "Yue et al. 2026, our reading",
    "sign and modulus packets, bandwidth and power by the one-step bound",
    uplink="split",
    weights="unbiased",
    compensation="global",
    solver="alternating",
)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("error_free", "upper limit", "exact gradients, nothing lost, no quantisation", uplink="ideal"),
        Scheme("single_packet", "conventional", "sign and modulus in one packet; a lost device is left out", "single"),
        _SP_FL,
    )
}


def resolve(config: SchemeConfig) -> Scheme:
    """The scheme a configuration names, with the keys it sets in place of the scheme's defaults.

    Raises ConfigError for an unknown name.
    """
    if config.name not in SCHEMES:
        raise ConfigError(f"unknown scheme '{config.name}'" + did_you_mean(config.name, SCHEMES))
    keys = ("weights", "compensation", "shrink", "solver", "error_feedback")
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return replace(SCHEMES[config.name], **given)


@dataclass(frozen=True)
class Upload:
    """What one device hands to its radio: packets, and the side information of THEORY 2.

    `gradient` float32 (dim,) stays only where no packet replaces it (ideal uplink) or error feedback needs it.
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
    gradient: Vector | None = None

    @classmethod
    def silent(cls, device: int, tensors: int) -> Upload:
        """A device that has nothing to send this round: no samples, no weight."""
        return cls(device, 0, math.nan, np.zeros(tensors, np.float32))


def encode(
    scheme: Scheme,
    gradient: Vector,
    *,
    state: Mapping[str, Vector],
    layout: Layout,
    codec: CodecConfig,
    seed: int,
    round_: int,
    device: int,
    samples: int,
    loss: float,
) -> Upload:
    """The device's side of a round. Raises PacketError for a gradient that is not finite."""
    if scheme.uplink == "ideal":
        if not np.isfinite(gradient).all():
            raise PacketError(f"gradient of device {device} in round {round_} is not finite")
        v2 = float(np.dot(gradient, gradient))
        return Upload(device, samples, loss, np.zeros(0, np.float32), v2, v2, v2, gradient=gradient.copy())
    if scheme.error_feedback and _residual_key(device) in state:
        gradient = gradient + state[_residual_key(device)]
    signs = encode_signs(gradient, layout=layout, round_=round_, device=device)
    means = layout.tensor_means(np.abs(gradient))
    modulus, delta2 = b"", 0.0
    if scheme.uplink != "sign":
        modulus, delta2 = encode_modulus(
            gradient,
            codec.bits,
            layout=layout,
            round_=round_,
            device=device,
            rng=stream(seed, round_, device, Purpose.QUANTISE),
            per_tensor=codec.per_tensor,
        )
    stats = gradient_stats(gradient, _stand_in(scheme, state, device, means, layout))
    kept = gradient.copy() if scheme.error_feedback else None
    return Upload(device, samples, loss, means, *stats, delta2, signs, modulus, kept)


def _residual_key(device: int) -> str:
    return f"residual/{device}"


def _stand_in(scheme: Scheme, state: Mapping[str, Vector], device: int, tensor_means: Vector, layout: Layout) -> Vector:
    """vbar_k: the compensatory modulus, shrunk."""
    vbar = compensatory_modulus(scheme.compensation, state, device, tensor_means, layout)
    return vbar if scheme.shrink == 1.0 else np.float32(scheme.shrink) * vbar


def describe(uploads: Sequence[Upload]) -> Devices:
    """The side information of a cohort as the allocator takes it; weights n_k / n."""
    names = ("samples", "v2", "vbar2", "v_vbar", "delta2")
    return Devices(*(np.array([getattr(u, name) for u in uploads], np.float64) for name in names)).normalized()


def link_bits(scheme: Scheme, layout: Layout, codec: CodecConfig) -> tuple[int, int]:
    """Bits that the first and the second packet put on the link, headers included; 0 for a packet that is not sent."""
    ranges = len(layout.shapes) if codec.per_tensor else 1
    signs, modulus = sign_packet_bits(layout.size), modulus_packet_bits(layout.size, codec.bits, ranges)
    if scheme.uplink == "ideal":
        return 0, 0
    if scheme.uplink == "split":
        return signs, modulus
    return (signs + modulus if scheme.uplink == "single" else signs), 0


def device_bits(scheme: Scheme, layout: Layout, codec: CodecConfig) -> int:
    """Bits a device sends in a round; the ideal uplink is charged float32 values."""
    return 32 * layout.size if scheme.uplink == "ideal" else sum(link_bits(scheme, layout, codec))


def share_resources(
    scheme: Scheme,
    devices: Devices,
    link: Link,
    config: SchemeConfig,
    previous: AllocationResult | None = None,
) -> AllocationResult:
    """Bandwidth and power of every device for one round (THEORY 7)."""
    return allocate(
        devices,
        link,
        solver=scheme.solver,
        theta=config.theta,
        kappa=config.kappa,
        weights=scheme.weights,
        fixed_alpha=not scheme.allocate_power,
        fixed_beta=not scheme.allocate_band,
        start=previous,
    )


@dataclass(frozen=True)
class Update:
    """The aggregate ghat (dim,), the new state, and how many devices sent packets that could not be used."""

    gradient: Vector
    state: State
    rejected: int


def receive(
    scheme: Scheme,
    config: SchemeConfig,
    layout: Layout,
    uploads: Sequence[Upload],
    outcome: Outcome,
    allocation: AllocationResult,
    state: State,
    round_: int,
) -> Update:
    """The server's side of a round: decode what arrived, compensate what did not, aggregate, remember."""
    devices = describe(uploads)
    q_s, r_m = allocation.q_s, allocation.r_m
    c = aggregation_weight(devices, q_s, r_m, scheme.weights, theta=config.theta, kappa=config.kappa)
    moduli: dict[int, Vector] = {}
    residuals: State = {}
    rejected = [upload.device for upload in uploads if not upload.samples]

    def contributions() -> Iterator[Contribution]:
        for k, upload in enumerate(uploads):
            used = None
            if outcome.sign[k] and upload.samples:
                try:
                    used = _decode(scheme, upload, bool(outcome.modulus[k]), state, layout, round_)
                except PacketError:
                    rejected.append(upload.device)
            if scheme.error_feedback and upload.gradient is not None:
                delivered = used[0] * used[1] if used else np.float32(0.0)
                residuals[_residual_key(upload.device)] = np.float32(config.error_decay) * (upload.gradient - delivered)
            if used:
                if outcome.modulus[k] and scheme.compensation in ("last", "ema", "scaled_ema"):
                    moduli[upload.device] = used[1]
                yield Contribution(devices.weight[k] * c[k], *used)

    update = aggregate(contributions(), layout.size, scheme.weights)
    return Update(update, remember(scheme.compensation, state, moduli, update) | residuals, len(rejected))


def _decode(
    scheme: Scheme, upload: Upload, has_modulus: bool, state: State, layout: Layout, round_: int
) -> tuple[Vector, Vector]:
    """Signs and modulus of a heard device. Raises PacketError for a packet that is damaged or not its own."""
    if upload.gradient is not None and scheme.uplink == "ideal":
        return upload.gradient, np.ones(1, np.float32)
    signs = decode_signs(upload.sign_packet, layout=layout, round_=round_, device=upload.device)
    if has_modulus and upload.modulus_packet:
        return signs, decode_modulus(upload.modulus_packet, layout=layout, round_=round_, device=upload.device)
    return signs, _stand_in(scheme, state, upload.device, upload.tensor_means, layout)
