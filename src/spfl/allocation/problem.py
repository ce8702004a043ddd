"""The allocation problem in the form the kernels take, validated (model.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spfl.allocation.bound import WEIGHT_CODES, Devices, Objective, bias_weight
from spfl.allocation.kernels import COLUMN, Rules, least_shares, sign_exponents
from spfl.arrays import Bools, Floats
from spfl.errors import AllocationError
from spfl.radio.outage import Link, outage_exponent

SUCCESS_FLOOR = 1e-12  # a device that succeeds less often is never received


@dataclass(frozen=True)
class Limits:
    """What an allocation must keep to, and how far the search for it must go.

    Args:
        min_success: Least q_s, a number or (device,). Every device must reach it, except hopeless ones; if devices may
            be dropped, every scheduled device must.
        max_scheduled: Most devices that get bandwidth; no limit when None.
        max_share: Largest beta, a number or (device,).
        max_power: Largest share of a device's power in one packet, in [0.5, 1], a number or (device,).
        allow_drop: Whether a device may be left out, at the cost of its whole gradient. None: yes, unless there is a
            `min_success`.
        keep_received: The expected number of received devices is at least that of equal shares. None: under `unbiased`
            weights, unless one of the limits above says who must be served.
        fixed_alpha: alpha = rho: the powers are not optimised.
        fixed_beta: beta = 1/K: the shares of the bandwidth are not optimised.
        optimise_rho: rho is free as well (`exact` only).
        tolerance: A gap at which `exact` stops looking for something better; `alternating` stops when a round
            changes the objective by less than a hundredth of it.

    Raises:
        AllocationError: `max_scheduled` is below 1, or rho and fixed powers are asked for together.
    """

    min_success: ArrayLike = 0.0
    max_scheduled: int | None = None
    max_share: ArrayLike = 1.0
    max_power: ArrayLike = 1.0
    allow_drop: bool | None = None
    keep_received: bool | None = None
    fixed_alpha: bool = False
    fixed_beta: bool = False
    optimise_rho: bool = False
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.max_scheduled is not None and not self.max_scheduled >= 1:
            raise AllocationError(f"max_scheduled must be >= 1, got {self.max_scheduled}")
        if self.optimise_rho and self.fixed_alpha:
            raise AllocationError("optimise_rho needs free powers (no fixed_alpha)")


UNLIMITED = Limits()


@dataclass(frozen=True)
class Problem:
    """A validated problem in the form the kernels take: the rows of the devices worth scheduling, and the options.

    `active` (device,) marks the rows; all else is hopeless or has nothing to send. `droppable`: beta = 0 allowed.
    `least_received`: expected number of received devices that must be reached, at the price `rules.silence`.
    """

    devices: Devices
    link: Link
    objective: Objective
    limits: Limits
    rows: Floats
    active: Bools
    hopeless: Bools
    droppable: bool
    keep_received: bool
    rules: Rules
    least_received: float = 0.0


def _in_range(name: str, value: ArrayLike, size: int, low: float, high: float) -> Floats:
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (size,)) or not ((array >= low) & (array <= high)).all():
        raise AllocationError(f"{name} must be a number or {size} numbers in [{low:g}, {high:g}], got {value!r}")
    return np.broadcast_to(array, (size,))


def pose(devices: Devices, link: Link, objective: Objective, limits: Limits) -> Problem:
    """Validate the limits and bring the devices into rows; arguments as in `allocator.allocate`.

    Raises AllocationError for a limit out of range and for a `min_success` that cannot be kept.
    """
    size = devices.size
    power = _in_range("max_power", limits.max_power, size, 0.5, 1.0)
    least = np.maximum(_in_range("min_success", limits.min_success, size, 0.0, 1.0 - 1e-12), SUCCESS_FLOOR)
    share = np.full(size, 1.0 / size) if limits.fixed_beta else _in_range("max_share", limits.max_share, size, 1e-12, 1)
    low, high = (link.split, link.split) if limits.fixed_alpha else (1.0 - power, power)
    if link.superposed and limits.fixed_alpha:
        low = high = np.ones(size)  # of the two packets together, as strong as each other
    w = devices.weight
    columns = (
        link.noise_to_signal, link.sign_load, link.modulus_load, link.split, devices.v2, devices.vbar2,
        devices.v_vbar, devices.delta2, bias_weight(w, objective.theta), objective.kappa * w**2, np.zeros(size), share,
        low, high, -np.log(least), np.full(size, link.gap_slope), np.full(size, link.snr_gap * link.superposed),
    )  # fmt: skip
    rows = np.ascontiguousarray(np.stack(columns, axis=1))
    assert rows.shape[1] == len(COLUMN)
    split = np.ones(size) if limits.optimise_rho else link.split
    exponent = outage_exponent(link.sign_load, split * share, high, link.noise_to_signal, link.gap_slope)
    if link.superposed:
        exponent = sign_exponents(rows, share)
    worth = (w > 0) & (devices.v2 > 0)
    hopeless = worth & ~(exponent <= -np.log(SUCCESS_FLOOR))
    promised = least > SUCCESS_FLOOR
    free = limits.allow_drop
    if free is None:
        free = limits.max_scheduled is not None or not promised.any()
    keep = limits.keep_received
    if keep is None:
        unruled = limits.allow_drop is None and limits.max_scheduled is None and not promised.any()
        keep = objective.weights == "unbiased" and unruled
    unreachable = worth & ~hopeless & ~(exponent <= rows[:, COLUMN["x_max"]]) & promised
    if unreachable.any() and not free:
        k = int(np.argmax(unreachable))
        raise AllocationError(
            f"min_success of device {k} must be at most its best q_s {np.exp(-exponent[k]):.3g}, got {least[k]:.3g}"
        )
    active = worth & (exponent <= rows[:, COLUMN["x_max"]])
    rows = rows[active]
    if rows.size:
        rows[:, COLUMN["beta_min"]] = least_shares(rows, rows[:, COLUMN["alpha_max"]], split[active])
    droppable, must = free, float(rows[:, COLUMN["beta_min"]].sum())
    if not free and must > 1.0 and promised.any():
        raise AllocationError(f"min_success must need at most the whole bandwidth, got {must:.3g} times that")
    rules = Rules(link.fading == "block", WEIGHT_CODES[objective.weights], float(objective.c), limits.optimise_rho)
    return Problem(devices, link, objective, limits, rows, active, hopeless, droppable, keep, rules)
