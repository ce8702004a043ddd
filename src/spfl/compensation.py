"""The compensatory modulus: what stands for a lost modulus, and what both ends remember (model.md, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spfl.arrays import State, Vector
from spfl.config.section import check_fields
from spfl.packets.layout import Layout


@dataclass(frozen=True)
class CompensationRule:
    """What stands for a lost modulus, by functions of your own (model.md, section 5).

    Both functions must be pure, because both ends of the link keep the state.

    Args:
        name: What the run folder calls it.
        modulus: From (state, device, tensor_means (tensor,), layout) to vbar_k >= 0, float32 (dim,).
        remember: From (state, received, update (dim,)) to the state after a round. `received` maps devices to moduli
            (dim,). Keys that start with "compensation/" are free for the rule.

    Raises:
        ConfigError: A field is no function.
    """

    name: str
    modulus: Callable[[Mapping[str, Vector], int, Vector, Layout], Vector]
    remember: Callable[[State, Mapping[int, Vector], Vector], State] = lambda state, received, update: state

    def __post_init__(self) -> None:
        check_fields(self)


Compensation = Literal["global", "last", "layer", "constant", "ema", "scaled_ema", "zero"] | CompensationRule


VECTOR = "compensation/vector"  # |ghat| of the last round (global), or the running mean of moduli (ema)


EMA_STEP = np.float32(0.1)  # share of a round's mean modulus in the running mean


def last_key(device: int) -> str:
    return f"compensation/last/{device}"


def residual_key(device: int) -> str:
    return f"residual/{device}"


def received_key(device: int) -> str:
    """Where the rule `memory` keeps the vector last received of a device."""
    return f"received/{device}"


def compensatory_modulus(
    kind: Compensation, state: Mapping[str, Vector], device: int, tensor_means: Vector, layout: Layout
) -> Vector:
    """vbar_k of model.md, section 5, float32 (dim,): what stands for a modulus that does not arrive.

    `tensor_means` (tensor,) is the device's mean modulus per parameter tensor, sent as side information.
    Until anything was received, every kind falls back to `layer`.
    """
    if isinstance(kind, CompensationRule):
        return np.asarray(kind.modulus(state, device, tensor_means, layout), np.float32)
    if kind == "zero":
        return np.zeros(layout.size, np.float32)
    if kind == "constant":
        share = np.asarray(layout.sizes, np.float64) / max(layout.size, 1)
        return np.full(layout.size, np.float32(share @ tensor_means))
    remembered = state.get(last_key(device) if kind == "last" else VECTOR)
    if kind == "layer" or remembered is None:
        return layout.expand(tensor_means)
    if kind == "scaled_ema":
        return remembered * layout.expand(_ratio(tensor_means, layout.tensor_means(remembered)))
    return remembered


def _ratio(numerator: Vector, denominator: Vector) -> Vector:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def remember(kind: Compensation, state: State, received: Mapping[int, Vector], update: Vector) -> State:
    """The state after a round: `received` maps devices to their moduli (dim,), `update` is ghat (dim,).

    Only what both ends know enters: moduli that were acknowledged, and the broadcast update. A round in which
    nothing was received leaves the memory as it is: a modulus of zero would be wrong, and would silence every later
    sign packet that comes alone.
    """
    if isinstance(kind, CompensationRule):
        return kind.remember(state, received, update)
    if kind == "global":
        return state | {VECTOR: np.abs(update)} if update.any() else state
    if kind == "last":
        return state | {last_key(device): modulus for device, modulus in received.items()}
    if kind in ("ema", "scaled_ema") and received:
        mean: Vector = np.mean(np.stack(list(received.values())), axis=0, dtype=np.float32)
        old = state.get(VECTOR)
        refreshed: Vector = mean if old is None else old + EMA_STEP * (mean - old)
        return state | {VECTOR: refreshed}
    return state


ORDER = "memory/devices"  # devices that have a memory of their own, the longest unused first; below 2^24, so exact


def forget(state: State, touched: Iterable[int], limit: int | None) -> State:
    """The state without the memories of single devices beyond `limit`: the longest unused go first.

    `touched` are the devices of the round, whose memories are the newest. Without a limit, the state as it is.
    """
    if limit is None:
        return state
    newest = sorted(touched)
    order = [*(int(d) for d in state.get(ORDER, ()) if int(d) not in set(newest)), *newest]
    gone = {key(device) for device in order[:-limit] for key in (last_key, residual_key, received_key)}
    kept = {name: value for name, value in state.items() if name not in gone}
    return kept | {ORDER: np.array(order[-limit:], np.float32)}


class Received:
    """A round's moduli, as far as `remember` needs them: each (`last`, own rules), their mean (`ema`), or none."""

    def __init__(self, kind: Compensation) -> None:
        self._kind = kind
        self._moduli: dict[int, Vector] = {}
        self._count = 0

    def add(self, device: int, modulus: Vector) -> None:
        """Take note of an acknowledged modulus (dim,)."""
        if self._kind == "last" or isinstance(self._kind, CompensationRule):
            self._moduli[device] = modulus
        elif self._kind in ("ema", "scaled_ema"):  # a running sum: memory does not grow with the number of devices
            self._moduli[0] = self._moduli[0] + modulus if self._count else modulus
            self._count += 1

    def moduli(self) -> Mapping[int, Vector]:
        """What `remember` takes; for `ema` the mean stands for all."""
        if self._kind not in ("ema", "scaled_ema") or not self._count:
            return self._moduli
        return {0: self._moduli[0] / np.float32(self._count)}
