"""Both ends of the uplink, for any scheme: a gradient to packets, and the packets that arrive to the update.

All functions are pure, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from spfl.aggregation import (
    Contribution,
    Received,
    State,
    Vector,
    aggregate,
    compensatory_modulus,
    remember,
)
from spfl.allocation import AllocationResult
from spfl.bound import Devices, Floats, Weights, aggregation_weight
from spfl.calibration import calibrated_weights
from spfl.channel import Outcome
from spfl.codec import (
    Layout,
    decode_modulus,
    decode_signs,
    decode_sparse,
    encode_modulus,
    encode_signs,
    encode_sparse,
    gradient_stats,
    modulus_packet_bits,
    sign_packet_bits,
    sparse_packet_bits,
)
from spfl.config import CodecConfig, SchemeConfig
from spfl.errors import PacketError
from spfl.rng import Purpose, stream
from spfl.rotation import Packing
from spfl.schemes import Scheme

LAST_UPDATE = "update/last"  # ghat of the last round (rule `reuse`)
SCALAR_BITS = 32
ONE = np.ones(1, np.float32)


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


# --- the device ------------------------------------------------------------------------------------------------


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
    if scheme.error_feedback and _residual_key(device) in state:
        gradient = gradient + state[_residual_key(device)]
    keep = scheme.error_feedback or scheme.uplink in ("ideal", "analog")
    if keep and not np.isfinite(gradient).all():
        raise PacketError(f"gradient of device {device} in round {round_} is not finite")
    packing = packing_of(scheme, layout)
    vector = packing.pack(gradient, stream(seed, round_, device, Purpose.ROTATION))
    aside = gradient[gradient.size - packing.aside :].copy()
    if not np.isfinite(aside).all():
        raise PacketError(f"gradient of device {device} in round {round_} is not finite")
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
    stats = gradient_stats(vector, _stand_in(scheme, state, device, means, packets))
    kept = gradient.copy() if keep else None
    return Upload(device, samples, loss, means, *stats, delta2, signs, modulus, sparse, kept, aside)


LARGEST_ASIDE = 128  # elements of an output bias that may travel as side information


@lru_cache(maxsize=16)
def packing_of(scheme: Scheme, layout: Layout) -> Packing:
    """The scheme's packing. With `calibrated`, the output bias (the last tensor, one float a class) goes aside."""
    last = layout.sizes[-1]
    calibrated = scheme.rule == "calibrated" and len(layout.sizes) > 1 and last <= LARGEST_ASIDE
    return Packing(layout, scheme.rotated, last if calibrated else 0)


def kept_values(scheme: Scheme, layout: Layout) -> int:
    """Values in a sparse packet: the scheme's density of all, at least one."""
    return max(1, round(scheme.density * layout.size))


def _residual_key(device: int) -> str:
    return f"residual/{device}"


def _mean_moduli(scheme: Scheme, vector: Vector, packing: Packing) -> Vector:
    """What a sign alone stands for in each tensor (tensor,), or ||v||_1 / d for all of them."""
    if scheme.one_mean:
        return np.full(len(packing.packets.names), np.abs(vector).mean(dtype=np.float64), np.float32)
    return packing.scales(vector)


def _stand_in(scheme: Scheme, state: Mapping[str, Vector], device: int, tensor_means: Vector, layout: Layout) -> Vector:
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
    ranges = len(packets.shapes) if codec.per_tensor else 1
    signs, modulus = sign_packet_bits(packets.size), modulus_packet_bits(packets.size, codec.bits, ranges)
    return {
        "ideal": (0, 0),
        "split": (signs, modulus),
        "single": (signs + modulus, 0),
        "sign": (signs, 0),
        "sparse": (sparse_packet_bits(layout.size, kept_values(scheme, layout)), 0),
        "analog": (layout.size, 0),
    }[scheme.uplink]


def payload_bits(scheme: Scheme, layout: Layout, codec: CodecConfig, allocation: AllocationResult) -> int:
    """Bits that all devices with band send in a round, every attempt counted; float32 values on the ideal uplink.

    A split that leaves the modulus packet no band or no power (rho or alpha = 1) sends none.
    """
    scheduled = allocation.beta > 0
    if scheme.uplink == "ideal":
        return SCALAR_BITS * layout.size * int(scheduled.sum())
    first, second = link_bits(scheme, layout, codec)
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


# --- the server ------------------------------------------------------------------------------------------------


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
    *,
    seed: int,
) -> Update:
    """The server's side of a round: decode what arrived, compensate what did not, aggregate, remember.

    Error feedback keeps decay (gradient - signs * modulus used) of a device that was heard, and all of one that was
    not (THEORY 8). The aggregation weight is no part of it: with other weights than `plain`, which make up for losses
    as well, a constant gradient is applied 1/q times.
    """
    packing = packing_of(scheme, layout)
    scale = _scales(scheme, config, uploads, outcome, allocation)
    received = Received(scheme.compensation)
    residuals: State = {}
    rejected = [upload.device for upload in uploads if not upload.samples]

    def contributions() -> Iterator[Contribution]:
        heard = 0.0
        for k, upload in enumerate(uploads):
            used = None
            if outcome.sign[k] and upload.samples:
                used = _decode(scheme, upload, bool(outcome.modulus[k]), state, packing.packets, round_)
                if used is None or used.damaged:
                    rejected.append(upload.device)
            if used and (scheme.rotated or packing.aside):
                rng = stream(seed, round_, upload.device, Purpose.ROTATION)
                whole = packing.unpack(used.signs * used.modulus, upload.aside, rng)
                used = replace(used, signs=whole, modulus=ONE)
            if scheme.error_feedback and upload.gradient is not None:
                delivered = used.signs * used.modulus if used else np.float32(0.0)
                residuals[_residual_key(upload.device)] = np.float32(config.error_decay) * (upload.gradient - delivered)
            if used:
                if used.exact:
                    received.add(upload.device, used.modulus)
                heard += scale[k]
                yield Contribution(scale[k], used.signs, ONE if scheme.rule == "vote" else used.modulus)
        if scheme.rule == "reuse" and LAST_UPDATE in state:
            yield Contribution(1.0 - heard, state[LAST_UPDATE], ONE)

    rules: dict[str, Weights] = {"mean": scheme.weights, "calibrated": "normalized"}
    weights = rules.get(scheme.rule, "plain")
    update = aggregate(contributions(), layout.size, weights)
    if packing.aside and scale.any():  # when nobody was heard, nothing moves
        update[-packing.aside :] = _mean_aside(uploads)
    if scheme.rule == "vote":
        votes = update if outcome.votes is None else outcome.votes
        update = np.sign(votes) * layout.expand(_common_means(uploads, len(layout.names)))
    memory = remember(scheme.compensation, state, received.moduli(), update) | residuals
    return Update(update, memory | ({LAST_UPDATE: update} if scheme.rule == "reuse" else {}), len(rejected))


def _mean_aside(uploads: Sequence[Upload]) -> Vector:
    """The exact mean of what every device sent aside, (aside,)."""
    weight = describe(uploads).weight.astype(np.float32)
    return np.asarray(weight @ np.stack([upload.aside for upload in uploads]))


def _scales(
    scheme: Scheme,
    config: SchemeConfig,
    uploads: Sequence[Upload],
    outcome: Outcome,
    allocation: AllocationResult,
) -> Floats:
    """What multiplies each heard device, (device,): w c; w to reuse the rest; n, whose sums are exact, to vote."""
    devices = describe(uploads)
    if scheme.rule == "calibrated":
        heard = outcome.sign & (devices.weight > 0)
        return calibrated_weights(devices.weight, np.stack([upload.aside for upload in uploads]), heard)
    if scheme.rule == "mean":
        q_s, r_m = allocation.q_s, allocation.r_m
        c = aggregation_weight(devices, q_s, r_m, scheme.weights, theta=config.theta, kappa=config.kappa)
        return devices.weight * c
    return devices.weight if scheme.rule == "reuse" else np.array([u.samples for u in uploads], np.float64)


def _common_means(uploads: Sequence[Upload], tensors: int) -> Vector:
    """Mean modulus of each tensor over all devices, weighted by samples: side information, so it always arrives."""
    total = sum(upload.samples for upload in uploads)
    weighted = [np.float32(upload.samples / total) * upload.tensor_means for upload in uploads if upload.samples]
    return np.sum(weighted, axis=0, dtype=np.float32) if weighted else np.zeros(tensors, np.float32)


@dataclass(frozen=True)
class _Used:
    """What the server uses of a heard device: their product is the gradient. `exact`: from a modulus packet."""

    signs: Vector
    modulus: Vector
    exact: bool = False
    damaged: bool = False


def _decode(
    scheme: Scheme, upload: Upload, has_modulus: bool, state: State, layout: Layout, round_: int
) -> _Used | None:
    """What arrived of a device; None when nothing of it can be used.

    Of two packets, a damaged modulus packet counts as lost, and its sign packet stays good. One packet for both is
    good or damaged as a whole.
    """
    try:
        return _open(scheme, upload, has_modulus, state, layout, round_)
    except PacketError:
        if scheme.uplink != "split" or not has_modulus:
            return None
    try:
        used = _open(scheme, upload, False, state, layout, round_)
    except PacketError:
        return None
    return _Used(used.signs, used.modulus, damaged=True)


def _open(scheme: Scheme, upload: Upload, has_modulus: bool, state: State, layout: Layout, round_: int) -> _Used:
    """Raises PacketError for a packet that is damaged or not its own."""
    device = upload.device
    if scheme.uplink == "ideal" and upload.gradient is not None:
        return _Used(upload.gradient, ONE)
    if scheme.uplink == "sparse":
        return _Used(decode_sparse(upload.sparse_packet, layout=layout, round_=round_, device=device), ONE)
    if scheme.uplink == "analog" and upload.gradient is not None:
        signs = signs_of(upload.gradient)
    else:
        signs = decode_signs(upload.sign_packet, layout=layout, round_=round_, device=device)
    if has_modulus and upload.modulus_packet:
        return _Used(signs, decode_modulus(upload.modulus_packet, layout=layout, round_=round_, device=device), True)
    return _Used(signs, _stand_in(scheme, state, device, upload.tensor_means, layout))


def signs_of(gradient: Vector) -> Vector:
    """Signs +-1 of a gradient (dim,), float32; zero counts as +1, as in a sign packet."""
    return np.where(gradient >= 0, np.float32(1.0), np.float32(-1.0))
