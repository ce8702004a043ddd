"""The server's end of the uplink, for any scheme: the packets that were received to the update.

Pure functions, with the `State` passed in and out. Axis vocabulary: `dim`, `tensor`, `device`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spfl.allocation.bound import Weights, aggregation_weight
from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, Floats, State, Vector
from spfl.compensation import Received, forget, received_key, remember, residual_key
from spfl.errors import PacketError
from spfl.packets.codec import decode_ladder, decode_modulus, decode_own, decode_signs, decode_sparse
from spfl.packets.ladder import share_received, thinned
from spfl.packets.segments import element_mask
from spfl.radio.outage import Outcome
from spfl.scheme import bias_and_noise
from spfl.uplink.admission import norm_limit
from spfl.uplink.aggregation import Sum
from spfl.uplink.calibration import calibrated_weights
from spfl.uplink.delivery import analog_unit
from spfl.uplink.format import Format
from spfl.uplink.robust import clipped, combine
from spfl.uplink.side import auxiliary, keep_side, who_told
from spfl.uplink.upload import Upload, describe, signs_of

LAST_UPDATE = "update/last"  # ghat of the last round (rule `reuse`)


@dataclass(frozen=True)
class Update:
    """The aggregate ghat (dim,), the new state, and how many devices sent packets that could not be used."""

    gradient: Vector
    state: State
    rejected: int


@dataclass(frozen=True)
class Arrived:
    """A round as the server sees it: what devices told and sent, what of it was received, and what was granted.

    `told` (device,): whose side information came by a packet of its own; None where it has none.
    """

    round_: int
    uploads: Sequence[Upload]
    outcome: Outcome
    allocation: AllocationResult
    told: Bools | None = None


@dataclass(frozen=True)
class Decoded:
    """What the server uses of a received device: `vector` float32 (dim,), its estimate of the device's gradient.

    `share` of it was received: a number, or 0 and 1 by element (dim,), where the vector is 0 for what was not.
    `signs` (packets.size,) are those of a sign packet, 0 where none came; None for other packets.
    `modulus` (packets.size,) is what a whole modulus packet told, for the compensation; None without one.
    `damaged`: a packet arrived that could not be used, and the vector is what the rest gives.
    """

    vector: Vector
    share: float | Vector = 1.0
    signs: Vector | None = None
    modulus: Vector | None = None
    damaged: bool = False


def receive(form: Format, arrived: Arrived, state: State) -> Update:
    """The server's side of a round: decode what was received, compensate what was not, aggregate, remember.

    Error feedback keeps decay (gradient - vector used) of a device that was received, and all of one that was not
    (model.md, section 8). The aggregation weight is no part of it: with other weights than `plain`, which make up for
    losses as well, a constant gradient is applied 1/q times.
    """
    weight, limit = aggregation_weights(form, arrived, state), norm_limit(form.settings, arrived.uploads)
    received, kept = Received(form.scheme.compensation), dict[str, Vector]()
    total, rejected = Sum(form.layout.size), 0
    vectors: list[Vector] = []
    for k, upload in enumerate(arrived.uploads):
        decoded = decode_device(form, arrived, k, state)
        rejected += not upload.samples or (decoded is None and bool(arrived.outcome.sign[k]))
        if form.scheme.error_feedback and upload.gradient is not None:
            kept[residual_key(upload.device)] = _residual(form, upload.gradient, decoded)
        if decoded is None:
            if form.scheme.rule == "memory" and received_key(upload.device) in state:
                total.add(weight[k], state[received_key(upload.device)])
            continue
        rejected += decoded.damaged
        if decoded.modulus is not None:
            received.add(upload.device, clipped(decoded.modulus, limit))
        vector = clipped(decoded.vector, limit)
        if form.scheme.rule == "vote" and decoded.signs is not None:
            vector = decoded.signs
        if form.scheme.rule == "memory":
            kept[received_key(upload.device)] = vector
        if form.settings.aggregation == "mean":
            total.add(weight[k], vector, decoded.share)
        else:
            vectors.append(vector)
        del decoded, vector  # else memory holds what two devices sent
    if form.settings.aggregation != "mean":
        update = combine(form.settings.aggregation, vectors, form.layout.size, form.settings.trim)
    else:
        update = _mean(form, total, state)
    return finish(form, arrived, state, Round(weight, update, received.moduli(), rejected, kept))


def _residual(form: Format, gradient: Vector, decoded: Decoded | None) -> Vector:
    delivered = np.float32(0.0) if decoded is None else decoded.vector
    return np.float32(form.settings.error_decay) * (gradient - delivered)


def _mean(form: Format, total: Sum, state: State) -> Vector:
    """The weighted sum of what was received, divided where the weights are only known after reception."""
    if form.scheme.rule == "reuse" and LAST_UPDATE in state:
        total.add(1.0, (1.0 - total.weight).astype(np.float32) * state[LAST_UPDATE])
    return total.normalized() if normalizes(form) else total.vector


def normalizes(form: Format) -> bool:
    """Whether the sum is divided by the weight that was received."""
    rules: dict[str, Weights] = {"mean": form.scheme.weights, "calibrated": "normalized"}
    return rules.get(form.scheme.rule, "plain") == "normalized"


# --- one device ------------------------------------------------------------------------------------------------


def decode_device(form: Format, arrived: Arrived, k: int, state: State) -> Decoded | None:
    """What was received of the k-th device of the cohort; None when nothing of it can be used."""
    upload, outcome = arrived.uploads[k], arrived.outcome
    if not (outcome.sign[k] and upload.samples):
        return None
    try:
        decoded = _decode(form, arrived, k, state, bool(outcome.modulus[k]))
    except PacketError:
        # One packet for both is good or damaged as a whole; of two, a damaged modulus packet counts as lost.
        if form.scheme.uplink != "split" or not outcome.modulus[k]:
            return None
        try:
            decoded = replace(_decode(form, arrived, k, state, with_modulus=False), damaged=True)
        except PacketError:
            return None
    decoded = decoded if outcome.sign_segments is None else _cut(form, arrived, k, state, decoded)
    if form.lossy and form.scheme.rule != "vote" and not np.isfinite(decoded.vector).all():
        return None  # its scales were never told
    if form.scheme.uplink == "ideal" or not (form.scheme.rotated or form.packing.output_biases):
        return decoded
    vector = form.packing.unpack(decoded.vector, upload.output_bias, form.rotation(arrived.round_, upload.device))
    if not np.isfinite(vector).all():  # moduli near the largest float32, which add up when rotated back
        return None
    return replace(decoded, vector=vector, share=float(np.mean(decoded.share)))


def _decode(form: Format, arrived: Arrived, k: int, state: State, with_modulus: bool) -> Decoded:
    """The vector in packets of a device. Raises PacketError for a packet that is damaged or not its own."""
    upload, uplink = arrived.uploads[k], form.scheme.uplink
    address: dict[str, Any] = {"layout": form.packets, "round_": arrived.round_, "device": upload.device}
    if uplink == "ideal" and upload.gradient is not None:
        return Decoded(upload.gradient)
    if uplink == "sparse":
        return Decoded(decode_sparse(upload.sparse_packet, **address))
    if uplink == "ladder":
        return Decoded(decode_ladder(upload.ladder_packet, upload.tensor_means, bits_of(form, arrived, k), **address))
    if uplink == "codec" and form.scheme.codec is not None:
        return Decoded(decode_own(form.scheme.codec, upload.own_packet, **address))
    if uplink == "analog" and upload.gradient is not None:
        signs = signs_of(upload.gradient)
    else:
        signs = decode_signs(upload.sign_packet, **address)
    if with_modulus and upload.modulus_packet:
        modulus = decode_modulus(upload.modulus_packet, **address)
        return Decoded(signs * modulus, signs=signs, modulus=modulus)
    return Decoded(signs * form.compensatory(state, upload.device, upload.tensor_means), signs=signs)


def _cut(form: Format, arrived: Arrived, k: int, state: State, decoded: Decoded) -> Decoded:
    """What segments leave of a packet: 0 where no sign came, the compensatory modulus where its own did not."""
    assert arrived.outcome.sign_segments is not None
    assert arrived.outcome.modulus_segments is not None
    if form.scheme.uplink == "ladder":
        return _cut_ladder(form, arrived, k, decoded)
    upload, size = arrived.uploads[k], form.packets.size
    came = element_mask(arrived.outcome.sign_segments[k], size).astype(np.float32)
    signs = None if decoded.signs is None else decoded.signs * came
    whole = decoded.modulus if came.all() else None
    if signs is None or decoded.modulus is None or form.scheme.uplink == "single":
        return replace(decoded, vector=decoded.vector * came, signs=signs, modulus=whole, share=came)
    told = element_mask(arrived.outcome.modulus_segments[k], size)
    modulus = np.where(told, decoded.modulus, form.compensatory(state, upload.device, upload.tensor_means))
    return replace(decoded, vector=signs * modulus, signs=signs, modulus=whole if told.all() else None, share=came)


def _cut_ladder(form: Format, arrived: Arrived, k: int, decoded: Decoded) -> Decoded:
    """The sketch that segments leave of a ladder; calibrated weights are for unbiased vectors, so it is scaled then."""
    share = share_of(form, arrived, k)
    vector = thinned(decoded.vector, segments_of(form, arrived, k), form.packets.sizes[0])
    if form.scheme.rule != "calibrated":
        return replace(decoded, vector=vector, share=share)
    return replace(decoded, vector=vector / np.float32(share) if share else vector)


def bits_of(form: Format, arrived: Arrived, k: int) -> float:
    """Bits of the vector in the ladder packet of the k-th device."""
    bits = arrived.allocation.bits
    return float(form.ladder.fixed or form.packets.size) if bits is None else float(bits[k])


def segments_of(form: Format, arrived: Arrived, k: int) -> Bools:
    """Which segments of the ladder packet of the k-th device arrived, (segment,)."""
    assert arrived.outcome.sign_segments is not None
    return arrived.outcome.sign_segments[k, : int(form.ladder.segments(bits_of(form, arrived, k)))]


def share_of(form: Format, arrived: Arrived, k: int) -> float:
    """The share of its coordinates that the ladder packet of the k-th device brought, where it is cut."""
    came = segments_of(form, arrived, k)
    return share_received(came, form.packets.size, form.packets.sizes[0], bits_of(form, arrived, k))


def shares_received(form: Format, arrived: Arrived) -> Floats:
    """The share of its coordinates that each device's ladder packet brought, (device,): 1 or 0 without segments."""
    if arrived.outcome.sign_segments is None or form.scheme.uplink != "ladder":
        return arrived.outcome.sign.astype(np.float64)
    return np.array([share_of(form, arrived, k) for k in range(len(arrived.uploads))])


# --- weights and memory ----------------------------------------------------------------------------------------


def aggregation_weights(form: Format, arrived: Arrived, state: State) -> Floats:
    """What multiplies the vector of each device, (device,).

    w c with the weights of model.md, section 4; w to reuse the rest or what is remembered; n_k, whose sums are exact,
    to vote; the calibrated weights of the received devices, which start from their weights over their noise (model.md,
    section 11).
    """
    scheme, devices = form.scheme, describe(arrived.uploads)
    if scheme.rule == "calibrated":
        received = arrived.outcome.sign & (devices.weight > 0)
        told = who_told(form, received, arrived.told)
        known = auxiliary(form, arrived.uploads, told, arrived.round_, state)
        start = start_of_weights(form, arrived, devices.weight)
        return calibrated_weights(devices.weight, known, received, scheme.ridge, start)
    if scheme.rule == "mean":
        q_s, r_m = arrived.allocation.q_s, arrived.allocation.r_m
        theta, kappa = bias_and_noise(scheme, form.settings)
        return devices.weight * aggregation_weight(devices, q_s, r_m, scheme.weights, theta=theta, kappa=kappa)
    return (
        devices.weight
        if scheme.rule in ("reuse", "memory")
        else np.array([u.samples for u in arrived.uploads], np.float64)
    )


def start_of_weights(form: Format, arrived: Arrived, weight: Floats) -> Floats | None:
    """w_k / (tau + v_k) for a ladder whose weights know its noise; w_k by what came of it; None to start from w_k."""
    share = shares_received(form, arrived)
    if not (form.scheme.noise_aware and form.scheme.uplink == "ladder"):
        return None if arrived.outcome.sign_segments is None else weight * share
    sent = np.array([bits_of(form, arrived, k) for k in range(weight.size)])
    v = form.ladder.noise(np.maximum(sent, 1.0))
    if arrived.outcome.sign_segments is not None:
        v = (1.0 + v) / np.where(share > 0, share, 1.0) - 1.0
    return weight / (form.scheme.tau + v)


@dataclass(frozen=True)
class Round:
    """What an engine hands over at the end of a round: the weights, their sum of vectors, and what was received.

    `update` (dim,) is the aggregate of the received devices, `weight` (device,) what multiplied each.
    """

    weight: Floats
    update: Vector
    moduli: Mapping[int, Vector] = field(default_factory=dict)
    rejected: int = 0
    kept: Mapping[str, Vector] = field(default_factory=dict)


def finish(form: Format, arrived: Arrived, state: State, done: Round) -> Update:
    """The end of a round for any engine: the output bias, the vote, and what both ends remember."""
    scheme, uploads, update, output_bias = form.scheme, arrived.uploads, done.update, form.packing.output_biases
    told = who_told(form, arrived.outcome.sign, arrived.told)
    if output_bias and done.weight.any():  # when nobody was received, nothing moves
        update[-output_bias:] = _mean_output_bias(form, arrived, done.weight, told)
    if scheme.rule == "mean" and arrived.outcome.votes is not None:
        update = _analog_mean(arrived)
    if scheme.rule == "vote":
        votes = update if arrived.outcome.votes is None else arrived.outcome.votes
        means = _common_means([u for u, came in zip(uploads, told, strict=True) if came], len(form.layout.names))
        update = np.sign(votes) * form.layout.expand(means)
    memory = remember(scheme.compensation, state, done.moduli, update) | dict(done.kept)
    memory = keep_side(form, arrived.round_, uploads, told, memory)
    memory = forget(memory, [upload.device for upload in uploads], form.settings.remembered_devices)
    return Update(update, memory | ({LAST_UPDATE: update} if scheme.rule == "reuse" else {}), done.rejected)


def _analog_mean(arrived: Arrived) -> Vector:
    """The mean of the gradients that were superposed in the air, (dim,): the server knows who took part."""
    samples = sum(u.samples for u, sent in zip(arrived.uploads, arrived.outcome.sign, strict=True) if sent)
    votes = arrived.outcome.votes
    assert votes is not None
    return votes * np.float32(analog_unit(arrived.uploads) / samples) if samples else np.zeros_like(votes)


def _mean_output_bias(form: Format, arrived: Arrived, weight: Floats, told: Bools) -> Vector:
    """The mean of all output biases, (output_biases,), or the robust one; of those that told if they may be lost."""
    uploads = arrived.uploads
    if form.settings.aggregation != "mean":
        known = [u for u, came in zip(uploads, told, strict=True) if u.samples and came]
        return combine(
            form.settings.aggregation, [u.output_bias for u in known], uploads[0].output_bias.size, form.settings.trim
        )
    if form.lossy:
        weight = describe(uploads).weight * told
    if form.in_packet or form.lossy:
        return np.asarray(weight @ np.stack([u.output_bias for u in uploads]) / max(weight.sum(), 1e-300), np.float32)
    return np.asarray(
        describe(uploads).weight.astype(np.float32) @ np.stack([upload.output_bias for upload in uploads])
    )


def _common_means(uploads: Sequence[Upload], tensors: int) -> Vector:
    """Mean modulus of each tensor over the devices that told theirs, weighted by samples."""
    total = sum(upload.samples for upload in uploads)
    weighted = [np.float32(upload.samples / total) * upload.tensor_means for upload in uploads if upload.samples]
    return np.sum(weighted, axis=0, dtype=np.float32) if weighted else np.zeros(tensors, np.float32)
