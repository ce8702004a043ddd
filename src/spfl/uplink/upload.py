"""The device's end of the uplink, for any scheme: a gradient to packets, what they cost, and what the server is told.

All functions are pure, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spfl.allocation.bound import Devices
from spfl.arrays import Vector
from spfl.compensation import compensatory_modulus, residual_key
from spfl.config.schema import CodecConfig
from spfl.errors import PacketError
from spfl.packets.codec import (
    encode_modulus,
    encode_signs,
    encode_sparse,
    gradient_stats,
)
from spfl.packets.layout import Layout
from spfl.packets.rotation import Packing
from spfl.rng import Purpose, stream
from spfl.schemes import Scheme
from spfl.uplink.format import kept_values, packing_of


@dataclass(frozen=True)
class Upload:
    """What one device hands to its radio: packets, and the side information of model.md, section 2.

    `gradient` float32 (dim,) stays only where no packet replaces it (ideal and analogue uplinks) or error feedback
    needs it.
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
    aside: Vector = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def silent(cls, device: int, tensors: int, aside: int = 0) -> Upload:
        """A device that has nothing to send this round: no samples, no weight."""
        return cls(device, 0, math.nan, np.zeros(tensors, np.float32), aside=np.zeros(aside, np.float32))


# --- packets ---------------------------------------------------------------------------------------------------


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
    if scheme.error_feedback and residual_key(device) in state:
        gradient = gradient + state[residual_key(device)]
    keep = scheme.error_feedback or scheme.uplink in ("ideal", "analog")
    packing = packing_of(scheme, layout)
    aside = gradient[gradient.size - packing.aside :].copy()
    unchecked = gradient if keep else aside  # packets check what they carry
    if not np.isfinite(unchecked).all():
        raise PacketError(f"gradient of device {device} in round {round_} is not finite")
    vector = packing.pack(gradient, stream(seed, round_, device, Purpose.ROTATION) if packing.rotated else None)
    signs, modulus, sparse, delta2 = b"", b"", b"", 0.0
    packets = packing.packets
    if scheme.uplink in ("split", "single", "sign"):
        signs = encode_signs(vector, layout=packets, round_=round_, device=device)
    if scheme.uplink in ("split", "single"):
        rng = stream(seed, round_, device, Purpose.QUANTISE)
        modulus, delta2 = encode_modulus(
            vector, codec.bits, rng=rng, per_tensor=codec.per_tensor, layout=packets, round_=round_, device=device
        )
    if scheme.uplink == "sparse":
        sparse = encode_sparse(vector, kept_values(scheme, layout), layout=packets, round_=round_, device=device)
    means = _mean_moduli(scheme, vector, packing)
    stats = gradient_stats(vector, stand_in(scheme, state, device, means, packets))
    kept = gradient.copy() if keep else None
    return Upload(device, samples, loss, means, *stats, delta2, signs, modulus, sparse, kept, aside)


def silent(scheme: Scheme, layout: Layout, device: int) -> Upload:
    """The upload of a device that has nothing to send, in the shapes of the scheme."""
    packing = packing_of(scheme, layout)
    return Upload.silent(device, len(packing.packets.names), packing.aside)


def _mean_moduli(scheme: Scheme, vector: Vector, packing: Packing) -> Vector:
    """What a sign alone stands for in each tensor (tensor,), or ||v||_1 / d for all of them."""
    if scheme.one_mean:
        return np.full(len(packing.packets.names), np.abs(vector).mean(dtype=np.float64), np.float32)
    return packing.scales(vector)


def stand_in(scheme: Scheme, state: Mapping[str, Vector], device: int, tensor_means: Vector, layout: Layout) -> Vector:
    """vbar_k: the compensatory modulus, shrunk."""
    vbar = compensatory_modulus(scheme.compensation, state, device, tensor_means, layout)
    return vbar if scheme.shrink == 1.0 else np.float32(scheme.shrink) * vbar


# --- what it costs ---------------------------------------------------------------------------------------------


def describe(uploads: Sequence[Upload]) -> Devices:
    """The side information of a cohort as the allocator takes it; weights n_k / n."""
    names = ("samples", "v2", "vbar2", "v_vbar", "delta2")
    return Devices(*(np.array([getattr(u, name) for u in uploads], np.float64) for name in names)).normalized()


def signs_of(gradient: Vector) -> Vector:
    """Signs +-1 of a gradient (dim,), float32; zero counts as +1, as in a sign packet."""
    return np.where(gradient >= 0, np.float32(1.0), np.float32(-1.0))
