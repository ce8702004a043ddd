"""Power between the two packets of each device by convex quadratic models of J (model.md, section 7).

The paper's step is successive convex approximation. Ours is one of its kin: each model touches J where it stands and
is above J where it ends, but not everywhere (docs/allocation.md). So the descent is sure, the textbook's proof is not.
"""

from __future__ import annotations

import math

from spfl.allocation.kernels import Device, Rules, cost, device_at, exponents, slopes
from spfl.arrays import Floats
from spfl.compiled import CACHE, njit


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _alpha_slope(device: Device, beta: float, alpha: float, rules: Rules) -> float:
    """dJ / dalpha, inside (0, 1)."""
    inside = alpha * (1.0 - alpha)
    return slopes(device, beta, alpha, device.rho, rules)[1] / inside if inside > 0.0 else 0.0


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _split_step(device: Device, beta: float, alpha: float, rules: Rules) -> float:
    """One step: minimise a convex quadratic that touches J at alpha and lies above it where it ends.

    The curvature starts at J's own and is raised until the surrogate is above J at its minimiser.
    """
    a, b = exponents(device, beta, device.rho)
    low = max(device.alpha_min, min(a / device.x_max, device.alpha_max))
    now = cost(device, a, b, alpha, rules)
    step = 1e-6 * min(alpha, 1.0 - alpha)
    if step <= 0.0:
        return alpha
    right = _alpha_slope(device, beta, min(alpha + step, device.alpha_max), rules)
    left = _alpha_slope(device, beta, max(alpha - step, low), rules)
    slope = right if right < 0.0 else left
    if right >= 0.0 and left <= 0.0:
        return alpha
    curvature = max((right - left) / (2.0 * step), abs(slope) / 0.5)
    for _ in range(40):
        trial = min(max(alpha - slope / curvature, low), device.alpha_max)
        move = trial - alpha
        value = cost(device, a, b, trial, rules)
        if value <= now + move * (slope + 0.5 * curvature * move) and value <= now:
            return float(trial)
        curvature *= 4.0
    return alpha


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _sca(device: Device, beta: float, alpha: float, rules: Rules) -> tuple[float, float]:
    """(cost, alpha) where SCA from alpha ends: when it moves by less than 1e-9, or after 30 steps."""
    for _ in range(30):
        before = alpha
        alpha = _split_step(device, beta, before, rules)
        if abs(alpha - before) <= 1e-9 * before:
            break
    a, b = exponents(device, beta, device.rho)
    return cost(device, a, b, alpha, rules), alpha


@njit(cache=CACHE, nogil=True, error_model="numpy")
def split(rows: Floats, beta: Floats, alpha: Floats, rules: Rules) -> Floats:
    """SCA over the power of every device from where it is, from alpha = rho, 0.05, 1/2 and 0.999; the best end."""
    out = alpha.copy()
    for k in range(rows.shape[0]):
        if beta[k] <= 0.0:
            continue
        device = device_at(rows, k)
        a, b = exponents(device, beta[k], device.rho)
        low = max(device.alpha_min, a / device.x_max)
        conventional = device.rho if device.interference == 0.0 or not a + b < math.inf else a / (a + b)
        best, out[k] = _sca(device, beta[k], alpha[k], rules)
        for start in (conventional, 0.05, 0.5, 0.999):
            value, end = _sca(device, beta[k], min(max(start, low), device.alpha_max), rules)
            if value < best:
                best, out[k] = value, end
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def admissible_alpha(rows: Floats, beta: Floats, alpha: Floats, rules: Rules) -> Floats:
    """The nearest power split at which the outage exponent of the signs is at most x_max, (device,)."""
    out = alpha.copy()
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        a = exponents(device, beta[k], device.rho)[0] if beta[k] > 0.0 else math.inf
        if a < math.inf:
            out[k] = min(max(alpha[k], device.alpha_min, a / device.x_max), device.alpha_max)
    return out
