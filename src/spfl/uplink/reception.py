"""The server's end of the uplink, for any scheme: the packets that arrive to the update.

Pure functions, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spfl.allocation.bound import Weights, aggregation_weight
from spfl.allocation.result import AllocationResult
from spfl.arrays import Floats, State, Vector
from spfl.compensation import Received, forget, remember, residual_key
from spfl.config.schema import SchemeConfig
from spfl.errors import PacketError
from spfl.packets.codec import decode_modulus, decode_signs, decode_sparse
from spfl.packets.layout import Layout
from spfl.packets.segments import element_mask
from spfl.radio.outage import Outcome
from spfl.rng import Purpose, stream
from spfl.schemes import Scheme
from spfl.uplink.admission import norm_limit
from spfl.uplink.aggregation import Contribution, aggregate
from spfl.uplink.calibration import calibrated_weights
from spfl.uplink.format import packing_of
from spfl.uplink.robust import clipped, combine
from spfl.uplink.upload import Upload, describe, signs_of, stand_in

LAST_UPDATE = "update/last"  # ghat of the last round (rule `reuse`)
ONE = np.ones(1, np.float32)


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
    not (model.md, section 8). The aggregation weight is no part of it: with other weights than `plain`, which make up
    for losses as well, a constant gradient is applied 1/q times.
    """
    packing = packing_of(scheme, layout)
    scale = scales(scheme, config, uploads, outcome, allocation)
    limit = norm_limit(config, uploads)
    received = Received(scheme.compensation)
    residuals: State = {}
    rejected = [upload.device for upload in uploads if not upload.samples]

    def contributions() -> Iterator[Contribution]:
        heard: float | Vector = 0.0
        for k, upload in enumerate(uploads):
            used = None
            if outcome.sign[k] and upload.samples:
                used = _decode(scheme, upload, bool(outcome.modulus[k]), state, packing.packets, round_)
                if used is None or used.damaged:
                    rejected.append(upload.device)
                if used and outcome.sign_segments is not None:
                    used = _cut(scheme, upload, used, outcome, k, state, packing.packets)
            if used and (scheme.rotated or packing.aside):
                rng = stream(seed, round_, upload.device, Purpose.ROTATION) if packing.rotated else None
                whole = packing.unpack(used.signs * used.modulus, upload.aside, rng)
                used = replace(used, signs=whole, modulus=ONE, share=float(np.mean(used.share)))
                if not np.isfinite(whole).all():  # moduli near the largest float32, which add up when rotated back
                    rejected.append(upload.device)
                    used = None
            if scheme.error_feedback and upload.gradient is not None:
                delivered = used.signs * used.modulus if used else np.float32(0.0)
                residuals[residual_key(upload.device)] = np.float32(config.error_decay) * (upload.gradient - delivered)
            if used:
                if used.exact:
                    received.add(upload.device, clipped(used.modulus, limit))
                if scheme.rule != "vote" and limit < math.inf:
                    used = replace(used, signs=clipped(used.signs * used.modulus, limit), modulus=ONE)
                heard = heard + scale[k] * used.share
                yield Contribution(scale[k], used.signs, ONE if scheme.rule == "vote" else used.modulus, used.share)
        if scheme.rule == "reuse" and LAST_UPDATE in state:
            yield Contribution(1.0, np.float32(1.0 - heard) * state[LAST_UPDATE], ONE)

    rules: dict[str, Weights] = {"mean": scheme.weights, "calibrated": "normalized"}
    weights = rules.get(scheme.rule, "plain")
    if config.aggregation == "mean":
        update = aggregate(contributions(), layout.size, weights)
    else:
        vectors = [part.signs * part.modulus for part in contributions()]
        update = combine(config.aggregation, vectors, layout.size, config.trim)
    count = len(rejected)
    return conclude(scheme, config, layout, uploads, outcome, scale, update, state, received.moduli(), count, residuals)


def conclude(
    scheme: Scheme,
    config: SchemeConfig,
    layout: Layout,
    uploads: Sequence[Upload],
    outcome: Outcome,
    scale: Floats,
    update: Vector,
    state: State,
    moduli: Mapping[int, Vector],
    rejected: int,
    residuals: State | None = None,
) -> Update:
    """The end of a round for any engine: what goes aside, the vote, and what both ends remember.

    `update` (dim,) is the aggregate of the heard devices, `scale` (device,) what multiplied each.
    """
    packing = packing_of(scheme, layout)
    if packing.aside and scale.any():  # when nobody was heard, nothing moves
        update[-packing.aside :] = _mean_aside(config, uploads)
    if scheme.rule == "vote":
        votes = update if outcome.votes is None else outcome.votes
        update = np.sign(votes) * layout.expand(_common_means(uploads, len(layout.names)))
    memory = remember(scheme.compensation, state, moduli, update) | (residuals or {})
    memory = forget(memory, [upload.device for upload in uploads], config.remembered_devices)
    return Update(update, memory | ({LAST_UPDATE: update} if scheme.rule == "reuse" else {}), rejected)


def _mean_aside(config: SchemeConfig, uploads: Sequence[Upload]) -> Vector:
    """The exact mean of what every device sent aside, (aside,); or the robust one."""
    if config.aggregation != "mean":
        vectors = [upload.aside for upload in uploads if upload.samples]
        return combine(config.aggregation, vectors, uploads[0].aside.size, config.trim)
    weight = describe(uploads).weight.astype(np.float32)
    return np.asarray(weight @ np.stack([upload.aside for upload in uploads]))


def scales(
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
    """What the server uses of a heard device: their product is the gradient. `exact`: from a whole modulus packet.

    `share` as in `Contribution`.
    """

    signs: Vector
    modulus: Vector
    exact: bool = False
    damaged: bool = False
    share: float | Vector = 1.0


def _cut(scheme: Scheme, upload: Upload, used: _Used, outcome: Outcome, k: int, state: State, layout: Layout) -> _Used:
    """What segments leave of a packet: signs are 0 where none came, moduli are compensated where their own did not."""
    assert outcome.sign_segments is not None
    assert outcome.modulus_segments is not None
    signs = element_mask(outcome.sign_segments[k], layout.size).astype(np.float32)
    if not used.exact or scheme.uplink == "single":
        return replace(used, signs=used.signs * signs, exact=used.exact and bool(signs.all()), share=signs)
    moduli = element_mask(outcome.modulus_segments[k], layout.size)
    vbar = stand_in(scheme, state, upload.device, upload.tensor_means, layout)
    exact = bool(moduli.all() and signs.all())
    return replace(
        used, signs=used.signs * signs, modulus=np.where(moduli, used.modulus, vbar), exact=exact, share=signs
    )


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
    return _Used(signs, stand_in(scheme, state, device, upload.tensor_means, layout))
