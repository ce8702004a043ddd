"""The allocation problem in the form the kernels take, validated (model.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spfl.allocation.bound import WEIGHT_CODES, Devices, Weights, bias_weight
from spfl.allocation.kernels import COLUMN, Rules, least_shares
from spfl.arrays import Bools, Floats
from spfl.errors import AllocationError
from spfl.radio.outage import Link, outage_exponent

SUCCESS_FLOOR = 1e-12  # a device that succeeds less often is never heard


@dataclass(frozen=True)
class Problem:
    """A validated problem in the form the kernels take: the rows of the devices worth scheduling, and the options.

    `active` (device,) marks the rows; all else is hopeless or has nothing to send. `droppable`: beta = 0 allowed.
    """

    devices: Devices
    link: Link
    rows: Floats
    active: Bools
    hopeless: Bools
    droppable: bool
    rules: Rules
    theta: float
    kappa: float
    weights: Weights
    c: float
    max_scheduled: int | None
    fixed_alpha: bool
    fixed_beta: bool
    tolerance: float = 0.0


def _in_range(name: str, value: ArrayLike, size: int, low: float, high: float) -> Floats:
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (size,)) or not ((array >= low) & (array <= high)).all():
        raise AllocationError(f"{name} must be a number or {size} numbers in [{low:g}, {high:g}], got {value!r}")
    return np.broadcast_to(array, (size,))


def pose(
    devices: Devices,
    link: Link,
    theta: float,
    kappa: float,
    weights: Weights,
    c: float,
    optimise_rho: bool,
    min_success: ArrayLike,
    max_scheduled: int | None,
    max_share: ArrayLike,
    max_power: ArrayLike,
    allow_drop: bool | None,
    fixed_alpha: bool,
    fixed_beta: bool,
) -> Problem:
    """Validate the options and bring the devices into rows; arguments as in `allocation.allocate`.

    Raises AllocationError for an option out of range and for a `min_success` that cannot be kept.
    """
    size = devices.size
    power = _in_range("max_power", max_power, size, 0.5, 1.0)
    least = np.maximum(_in_range("min_success", min_success, size, 0.0, 1.0 - 1e-12), SUCCESS_FLOOR)
    share = np.full(size, 1.0 / size) if fixed_beta else _in_range("max_share", max_share, size, 1e-12, 1.0)
    low, high = (link.split, link.split) if fixed_alpha else (1.0 - power, power)
    w = devices.weight
    columns = (
        link.noise_to_signal, link.sign_load, link.modulus_load, link.split, devices.v2, devices.vbar2,
        devices.v_vbar, devices.delta2, bias_weight(w, theta), kappa * w**2, np.zeros(size), share, low, high,
        -np.log(least), np.full(size, link.gap_slope),
    )  # fmt: skip
    rows = np.ascontiguousarray(np.stack(columns, axis=1))
    assert rows.shape[1] == len(COLUMN)
    split = np.ones(size) if optimise_rho else link.split
    exponent = outage_exponent(link.sign_load, split * share, high, link.noise_to_signal, link.gap_slope)
    worth = (w > 0) & (devices.v2 > 0)
    hopeless = worth & ~(exponent <= -np.log(SUCCESS_FLOOR))
    promised = least > SUCCESS_FLOOR
    free = allow_drop
    if free is None:
        free = max_scheduled is not None or (weights != "unbiased" and not promised.any())
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
        raise AllocationError(f"min_success must need at most the whole band, got {must:.3g} times that")
    rules = Rules(link.fading == "block", WEIGHT_CODES[weights], float(c), optimise_rho)
    return Problem(
        devices, link, rows, active, hopeless, droppable, rules, theta, kappa, weights, c, max_scheduled,
        fixed_alpha, fixed_beta,
    )  # fmt: skip
