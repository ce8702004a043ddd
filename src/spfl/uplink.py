"""The device's end of the uplink, for any scheme: a gradient to packets, what they cost, and what the server is told.

All functions are pure, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from spfl.aggregation import Vector, compensatory_modulus, residual_key
from spfl.allocation import AllocationResult
from spfl.bound import Devices
from spfl.codec import (
    Layout,
    encode_modulus,
    encode_signs,
    encode_sparse,
    gradient_stats,
    modulus_packet_bits,
    sign_packet_bits,
    sparse_packet_bits,
)
from spfl.config import CodecConfig
from spfl.errors import PacketError
from spfl.rng import Purpose, stream
from spfl.rotation import Packing
from spfl.schemes import Scheme

SCALAR_BITS = 32


@dataclass(frozen=True)
class Upload:
    """What one device hands to its radio: packets, and the side information of THEORY 2.

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


LARGEST_ASIDE = 128  # elements of an output bias that may travel as side information


@lru_cache(maxsize=16)
def packing_of(scheme: Scheme, layout: Layout) -> Packing:
    """The scheme's packing. With `calibrated`, the output bias (the last tensor, one float a class) goes aside."""
    last = layout.sizes[-1]
    calibrated = scheme.rule == "calibrated" and len(layout.sizes) > 1 and last <= LARGEST_ASIDE
    return Packing(layout, scheme.rotated, last if calibrated else 0)


def silent(scheme: Scheme, layout: Layout, device: int) -> Upload:
    """The upload of a device that has nothing to send, in the shapes of the scheme."""
    packing = packing_of(scheme, layout)
    return Upload.silent(device, len(packing.packets.names), packing.aside)


def quantiser_ranges(scheme: Scheme, layout: Layout, codec: CodecConfig) -> int:
    """Ranges in a modulus packet: one a tensor, or one in all."""
    return len(packing_of(scheme, layout).packets.shapes) if codec.per_tensor else 1


def kept_values(scheme: Scheme, layout: Layout) -> int:
    """Values in a sparse packet: the scheme's density of all, at least one."""
    return max(1, round(scheme.density * layout.size))


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


def link_bits(scheme: Scheme, layout: Layout, codec: CodecConfig) -> tuple[int, int]:
    """Bits that the first and the second packet put on the link, headers included; 0 for a packet that is not sent.

    The output bias that goes aside is not in them, but in `side_bits`.
    The analogue uplink has no packets and no header: one bit a parameter.
    """
    packets = packing_of(scheme, layout).packets
    ranges = quantiser_ranges(scheme, layout, codec)
    signs, modulus = sign_packet_bits(packets.size), modulus_packet_bits(packets.size, codec.bits, ranges)
    return {
        "ideal": (0, 0),
        "split": (signs, modulus),
        "single": (signs + modulus, 0),
        "sign": (signs, 0),
        "sparse": (sparse_packet_bits(layout.size, kept_values(scheme, layout)), 0),
        "analog": (layout.size, 0),
    }[scheme.uplink]


def payload_bits(
    scheme: Scheme,
    layout: Layout,
    codec: CodecConfig,
    allocation: AllocationResult,
    packets: tuple[int, int] | None = None,
) -> int:
    """Bits that all devices with band send in a round, every attempt counted; float32 values on the ideal uplink.

    `packets`: bits of the two packets, where they are not those of `link_bits`.
    A split that leaves the modulus packet no band or no power (rho or alpha = 1) sends none.
    """
    scheduled = allocation.beta > 0
    if scheme.uplink == "ideal":
        return SCALAR_BITS * layout.size * int(scheduled.sum())
    first, second = packets or link_bits(scheme, layout, codec)
    both = scheduled & (allocation.rho < 1) & (allocation.alpha < 1)
    return scheme.attempts * (first * int(scheduled.sum()) + second * int(both.sum()))


def side_bits(scheme: Scheme, layout: Layout) -> int:
    """Bits of side information a device sends in a round over the control channel, besides its packets.

    n_k and five float32 (||v||^2, ||vbar||^2, <v, vbar>, delta^2, loss); and where a mean modulus may stand in for what
    is not sent or not heard, or scales a vote, one float32 a tensor or rotated block (one in all with `one_mean`);
    and the tensor that goes aside.
    """
    packing = packing_of(scheme, layout)
    stands_in = scheme.uplink in ("split", "sign") and scheme.compensation != "zero"
    scales = 1 if scheme.one_mean else len(packing.packets.names)
    return SCALAR_BITS * (6 + (scales if stands_in or scheme.rule == "vote" else 0) + packing.aside)


def describe(uploads: Sequence[Upload]) -> Devices:
    """The side information of a cohort as the allocator takes it; weights n_k / n."""
    names = ("samples", "v2", "vbar2", "v_vbar", "delta2")
    return Devices(*(np.array([getattr(u, name) for u in uploads], np.float64) for name in names)).normalized()


def signs_of(gradient: Vector) -> Vector:
    """Signs +-1 of a gradient (dim,), float32; zero counts as +1, as in a sign packet."""
    return np.where(gradient >= 0, np.float32(1.0), np.float32(-1.0))
