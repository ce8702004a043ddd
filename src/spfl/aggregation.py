"""From received packets to the update: aggregation weights (THEORY 4) and the compensatory modulus (THEORY 5).

What both ends remember between rounds is a plain `State`, a dictionary of arrays, so that it can be written to
disk as it stands. Axis vocabulary: `dim` (parameters), `tensor` (parameter tensors), `device`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spfl.bound import Devices, Floats, Weights, aggregation_weight
from spfl.channel import Bools
from spfl.codec import Layout

Compensation = Literal["global", "last", "layer", "ema", "scaled_ema", "zero"]
Vector = NDArray[np.float32]
State = dict[str, Vector]

VECTOR = "compensation/vector"  # |ghat| of the last round (global), or the running mean of moduli (ema)
EMA_STEP = np.float32(0.1)  # share of a round's mean modulus in the running mean


def _last_key(device: int) -> str:
    return f"compensation/last/{device}"


def compensatory_modulus(
    kind: Compensation, state: Mapping[str, Vector], device: int, tensor_means: Vector, layout: Layout
) -> Vector:
    """vbar_k of THEORY 5, float32 (dim,): what stands for a modulus that does not arrive.

    `tensor_means` (tensor,) is the device's mean modulus per parameter tensor, sent as side information.
    Until anything was received, every kind falls back to `layer`.
    """
    if kind == "zero":
        return np.zeros(layout.size, np.float32)
    remembered = state.get(_last_key(device) if kind == "last" else VECTOR)
    if kind == "layer" or remembered is None:
        return layout.expand(tensor_means)
    if kind == "scaled_ema":
        return remembered * layout.expand(_ratio(tensor_means, layout.tensor_means(remembered)))
    return remembered


def _ratio(numerator: Vector, denominator: Vector) -> Vector:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def remember(kind: Compensation, state: State, received: Mapping[int, Vector], update: Vector) -> State:
    """The state after a round: `received` maps devices to their moduli (dim,), `update` is ghat (dim,).

    Only what both ends know enters: moduli that were acknowledged, and the broadcast update.
    """
    if kind == "global":
        return state | {VECTOR: np.abs(update)}
    if kind == "last":
        return state | {_last_key(device): modulus for device, modulus in received.items()}
    if kind in ("ema", "scaled_ema") and received:
        mean = np.mean(list(received.values()), axis=0, dtype=np.float32)
        old = state.get(VECTOR)
        return state | {VECTOR: mean if old is None else old + EMA_STEP * (mean - old)}
    return state


def scales(
    devices: Devices,
    q_s: Floats,
    r_m: Floats,
    heard: Bools,
    weights: Weights,
    *,
    theta: float = 1.0,
    kappa: float = 1.0,
) -> Floats:
    """w_k c_k of every device, (device,), zero for those not heard (THEORY 4).

    `normalized` divides by the weight that was heard: one common scale, known only after reception.
    """
    c = aggregation_weight(devices, q_s, r_m, weights, theta=theta, kappa=kappa)
    out = np.where(heard, devices.weight * c, 0.0)
    if weights == "normalized" and out.sum() > 0:
        return np.asarray(out / out.sum())
    return out


@dataclass(frozen=True)
class Contribution:
    """What the server holds of one device: scale w_k c_k, signs and the modulus it uses, float32 (dim,)."""

    scale: float
    signs: Vector
    modulus: Vector


def weighted_sum(contributions: Iterable[Contribution], dim: int) -> Vector:
    """ghat = sum_k w_k c_k s_k * modulus_k, float32 (dim,), summed in the order given."""
    total = np.zeros(dim, np.float32)
    for part in contributions:
        total += np.float32(part.scale) * (part.signs * part.modulus)
    return total
