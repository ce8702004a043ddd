"""The one-step convergence bound and the cost of each device that it reveals (model.md, section 6).

Only five floats a device enter: ||v||^2, ||vbar||^2, <v, vbar>, delta^2 and the weight w. Arrays: (device,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from spfl.arrays import Floats
from spfl.compiled import CACHE, njit, vectorize
from spfl.errors import AllocationError

Weights = Literal["unbiased", "normalized", "mmse", "plain"]

# How c enters the cost. `normalized` is known only after reception: it is `plain` up to one common scale,
# which `c` of the caller (the expected normaliser) carries.
UNBIASED, MMSE, PLAIN = 0, 1, 2
WEIGHT_CODES: dict[str, int] = {"unbiased": UNBIASED, "mmse": MMSE, "plain": PLAIN, "normalized": PLAIN}
NEVER = 1e-150  # a smaller q_s counts as 0, so that neither 1 / q_s^2 nor q_s^2 leaves the range of float64


@dataclass(frozen=True)
class Devices:
    """What the server learns of each gradient before it allocates: five numbers a device (model.md, section 6).

    Args:
        weight: Weight w_k of the device, its share of the samples, (device,).
        v2: ||v||^2, squared norm of the gradient, (device,).
        vbar2: ||vbar||^2, squared norm of the compensatory modulus, (device,).
        v_vbar: <v, vbar>, (device,).
        delta2: Variance that the quantiser adds, (device,).

    Raises:
        ValueError: A value is negative or not finite.
    """

    weight: Floats
    v2: Floats
    vbar2: Floats
    v_vbar: Floats
    delta2: Floats

    def __post_init__(self) -> None:
        for field in fields(self):
            array = np.atleast_1d(np.asarray(getattr(self, field.name), np.float64))
            if not (np.isfinite(array).all() and (array >= 0).all()):
                raise ValueError(f"{field.name} must be finite and >= 0, got {array}")
            object.__setattr__(self, field.name, array)

    @property
    def size(self) -> int:
        """Number of devices K."""
        return int(self.weight.size)

    def normalized(self) -> Devices:
        """The same devices with weights that sum to one (unchanged when all are zero)."""
        total = self.weight.sum()
        if total == np.inf:  # of finite weights near the end of the range
            return replace(self, weight=self.weight / self.weight.max()).normalized()
        return replace(self, weight=self.weight / total) if total > 0 else self


@dataclass(frozen=True)
class Objective:
    """What J_k means: the reading of the one-step bound that an allocation minimises (docs/model.md, section 6).

    Args:
        theta: Weight of the bias in [0, 1]: 1 is Jensen's inequality, 0 takes biases as uncorrelated.
        kappa: L eta in [0, 1], the weight of the variance.
        weights: How a received gradient is weighted: `unbiased`, `normalized`, `mmse` or `plain`.
        c: The common aggregation weight under `plain` and `normalized`, > 0; the other two compute their own.

    Raises:
        AllocationError: A value is out of its range.
    """

    theta: float = 1.0
    kappa: float = 1.0
    weights: Weights = "unbiased"
    c: float = 1.0

    def __post_init__(self) -> None:
        if self.weights not in WEIGHT_CODES:
            raise AllocationError(f"weights must be one of {', '.join(WEIGHT_CODES)}, got {self.weights!r}")
        for name, value in (("theta", self.theta), ("kappa", self.kappa)):
            if not 0.0 <= value <= 1.0:
                raise AllocationError(f"{name} must lie in [0, 1], got {value}")
        if not 0.0 < self.c < np.inf:
            raise AllocationError(f"c must be finite and > 0, got {self.c}")


BOUND = Objective()


@njit(cache=CACHE, nogil=True)
def mean_square_scalar(r_m: float, v2: float, vbar2: float, v_vbar: float) -> float:
    """||m||^2 for the mean modulus m = r_m v + (1 - r_m) vbar (model.md, section 4)."""
    lost = 1.0 - r_m
    return r_m * r_m * v2 + 2.0 * r_m * lost * v_vbar + lost * lost * vbar2


@njit(cache=CACHE, nogil=True)
def mean_product(r_m, v2, v_vbar):  # type: ignore[no-untyped-def]
    """<m, v> for the mean modulus m; numbers, or arrays (device,)."""
    return r_m * v2 + (1.0 - r_m) * v_vbar


@njit(cache=CACHE, nogil=True)
def second_moment(r_m, v2, vbar2, delta2):  # type: ignore[no-untyped-def]
    """e: the mean square of the modulus that the server uses of a received device; numbers, or arrays (device,)."""
    return r_m * (v2 + delta2) + (1.0 - r_m) * vbar2


@njit(cache=CACHE, nogil=True)
def mmse_weight_scalar(
    q_s: float,
    r_m: float,
    v2: float,
    vbar2: float,
    v_vbar: float,
    delta2: float,
    bias_weight: float,
    noise_weight: float,
) -> float:
    """c* = W <m,v> / (W q_s ||m||^2 + kappa w^2 (e - q_s ||m||^2)), the minimiser of the device's own cost.

    0 for a device that is never received, and where nothing depends on c.
    """
    if q_s <= NEVER:
        return 0.0
    m2 = mean_square_scalar(r_m, v2, vbar2, v_vbar)
    m_v: float = mean_product(r_m, v2, v_vbar)
    e: float = second_moment(r_m, v2, vbar2, delta2)
    denominator = bias_weight * q_s * m2 + noise_weight * (e - q_s * m2)
    return bias_weight * m_v / denominator if denominator > 0.0 else 0.0


@njit(cache=CACHE, nogil=True)
def cost_scalar(
    q_s: float,
    r_m: float,
    v2: float,
    vbar2: float,
    v_vbar: float,
    delta2: float,
    bias_weight: float,
    noise_weight: float,
    weights: int,
    c: float,
) -> float:
    """J_k of model.md, section 6, with bias_weight = W_k and noise_weight = kappa w_k^2.

    `weights` is UNBIASED, MMSE or PLAIN; `c` is the fixed weight that PLAIN uses. A device that is never received
    (q_s = 0) contributes nothing to the aggregate whatever its weight, so it costs its whole gradient, W ||v||^2.
    """
    if q_s <= NEVER:
        return bias_weight * v2
    m2 = mean_square_scalar(r_m, v2, vbar2, v_vbar)
    e: float = second_moment(r_m, v2, vbar2, delta2)
    if weights == UNBIASED:
        lost = (1.0 - r_m) * (1.0 - r_m)
        gap = max(v2 - 2.0 * v_vbar + vbar2, 0.0)
        return bias_weight * lost * gap + noise_weight * max(e / q_s - m2, 0.0)
    if weights == MMSE:
        c = mmse_weight_scalar(q_s, r_m, v2, vbar2, v_vbar, delta2, bias_weight, noise_weight)
    m_v: float = mean_product(r_m, v2, v_vbar)
    bias = max(c * c * q_s * q_s * m2 - 2.0 * c * q_s * m_v + v2, 0.0)
    return bias_weight * bias + noise_weight * c * c * max(q_s * e - q_s * q_s * m2, 0.0)


@vectorize(cache=CACHE)
def _cost(q_s, r_m, v2, vbar2, v_vbar, delta2, bias_weight, noise_weight, weights, c):  # type: ignore[no-untyped-def]
    return cost_scalar(q_s, r_m, v2, vbar2, v_vbar, delta2, bias_weight, noise_weight, weights, c)


@vectorize(cache=CACHE)
def _mmse_weight(q_s, r_m, v2, vbar2, v_vbar, delta2, bias_weight, noise_weight):  # type: ignore[no-untyped-def]
    return mmse_weight_scalar(q_s, r_m, v2, vbar2, v_vbar, delta2, bias_weight, noise_weight)


def bias_weight(weight: Floats, theta: float) -> Floats:
    """W_k = theta w_k + (1 - theta) w_k^2: theta = 1 is Jensen, theta = 0 exact for uncorrelated biases."""
    return theta * weight + (1.0 - theta) * weight**2


def device_cost(devices: Devices, q_s: ArrayLike, r_m: ArrayLike, objective: Objective = BOUND) -> Floats:
    """J_k of every device (model.md, section 6), shape (device,) or broadcast with q_s and r_m."""
    w = devices.weight
    five = (devices.v2, devices.vbar2, devices.v_vbar, devices.delta2)
    scales = (bias_weight(w, objective.theta), objective.kappa * w**2)
    with np.errstate(all="ignore"):  # some processors compute both arms of a condition together
        return np.asarray(_cost(q_s, r_m, *five, *scales, WEIGHT_CODES[objective.weights], objective.c))


def aggregation_weight(
    devices: Devices, q_s: Floats, r_m: Floats, weights: Weights, *, theta: float = 1.0, kappa: float = 1.0
) -> Floats:
    """c_k known before reception, (device,): 1/q_s, the mmse weight, or 1 (`plain`; `normalized` rescales later).

    `unbiased` and `mmse` give 0 to a device that is never received.
    """
    if weights == "unbiased":
        return np.divide(1.0, q_s, out=np.zeros_like(q_s), where=q_s > NEVER)
    if weights == "mmse":
        w = devices.weight
        five = (devices.v2, devices.vbar2, devices.v_vbar, devices.delta2)
        with np.errstate(all="ignore"):
            return np.asarray(_mmse_weight(q_s, r_m, *five, bias_weight(w, theta), kappa * w**2))
    return np.ones_like(q_s)


def common_weight(devices: Devices, q_s: Floats, r_m: Floats) -> float:
    """The one c for all devices that minimises sum_k J_k at theta = 0, kappa = 1: sum w^2 q <m,v> / sum w^2 q e.

    This is what `normalized` weights come to in the objective: to first order, the error of a weighted mean over the
    received devices is minimal where sum_k w_k^2 (c^2 q e - 2 c q <m,v> + ||v||^2) is, at this c (docs/model.md, 9).
    One when nobody is received.
    """
    received = devices.weight**2 * q_s
    denominator = float(received @ second_moment(r_m, devices.v2, devices.vbar2, devices.delta2))
    products = mean_product(r_m, devices.v2, devices.v_vbar)
    return float(received @ products) / denominator if denominator > 0 else 1.0


def one_step_bound(
    gradient2: float, mean2: float, bias2: float, variance: float, *, rate: float, smoothness: float
) -> float:
    """Upper bound on E F(w_{t+1}) - F(w_t) for an L-smooth F and rate <= 1/L (model.md, section 6).

    gradient2 = ||grad F||^2, mean2 = ||E ghat||^2, bias2 = ||E ghat - grad F||^2, variance = sum_k w_k^2 Var_k.
    Exact-gradient form: `bias2` is measured against grad F. Raises ValueError when rate * smoothness > 1, where the
    term of ||E ghat||^2 harms, so that it could no longer be dropped.
    """
    kappa = rate * smoothness
    if not (rate > 0 and 0 < kappa <= 1 and math.isfinite(kappa)):
        raise ValueError(f"rate * smoothness must lie in (0, 1], got {kappa}")
    return -rate / 2 * (gradient2 + (1 - kappa) * mean2 - bias2) + rate * kappa / 2 * variance
