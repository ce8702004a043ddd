"""The best share, power split and bandwidth split of a device, by Newton, where rho is free (model.md, section 7)."""

from __future__ import annotations

import math

import numpy as np

from spfl.allocation.kernels import Device, Rules, chain, cost, elasticities, exponents, over, probability_slopes
from spfl.allocation.power_split import DECREMENT, NEWTON_LIMIT, STEP, descend_line, expit, logit, settles
from spfl.allocation.solvers import solve_positive
from spfl.compiled import CACHE, njit


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _with_rho(device: Device, rho: float) -> Device:
    d = device
    return Device(
        d.noise, d.sign_load, d.modulus_load, rho, d.v2, d.vbar2, d.v_vbar, d.delta2, d.bias_weight, d.noise_weight,
        d.beta_min, d.beta_max, d.alpha_min, d.alpha_max, d.x_max, d.gap_slope, d.interference,
    )  # fmt: skip


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _space_slopes(x, args, slope):  # type: ignore[no-untyped-def]
    """J + price * beta and its slopes in (ln beta, logit rho, logit alpha), where the modulus packet is the weaker."""
    device, price, rules = args
    beta, rho, alpha = math.exp(x[0]), expit(x[1]), expit(x[2])
    a, b = exponents(device, beta, rho)
    e_s, e_m = elasticities(device, beta, rho)
    x_s, x_m = over(a, alpha), over(b, 1.0 - alpha)
    q_s, r_m = math.exp(-x_s), math.exp(-(x_m - x_s) if rules.block else -x_m)
    x_m = x_m if r_m > 0.0 else 0.0  # a lost modulus packet has no slope
    slope[0] = chain(device, q_s, r_m, x_s * e_s, x_m * e_m, True, rules) + price * beta
    slope[1] = chain(device, q_s, r_m, x_s * e_s * (1.0 - rho), -x_m * e_m * rho, True, rules)
    slope[2] = chain(device, q_s, r_m, -x_s * (1.0 - alpha), x_m * alpha, True, rules)
    return cost(device, a, b, alpha, rules) + price * beta


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _kink_slopes(x, args, slope):  # type: ignore[no-untyped-def]
    """The same in (ln beta, logit rho) along the kink, where the power makes both packets equally strong."""
    device, price, rules = args
    beta, rho = math.exp(x[0]), expit(x[1])
    a, b = exponents(device, beta, rho)
    e_s, e_m = elasticities(device, beta, rho)
    q = math.exp(-a - b)
    by_exponent = -probability_slopes(device, q, 1.0, rules)[0] * q
    slope[0] = by_exponent * (a * e_s + b * e_m) + price * beta
    slope[1] = by_exponent * (a * e_s * (1.0 - rho) - b * e_m * rho)
    return cost(device, a, b, a / (a + b), rules) + price * beta


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _slopes(x, on_kink, args, slope):  # type: ignore[no-untyped-def]
    return _kink_slopes(x, args, slope) if on_kink else _space_slopes(x, args, slope)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _newton(x, on_kink, args):  # type: ignore[no-untyped-def]
    """Damped Newton from x, in place: (value, whether it met a minimum). Ends where the curvature is not positive."""
    n = x.size
    slope, ahead, move, curvature = np.empty(n), np.empty(n), np.empty(n), np.empty((n, n))
    for _ in range(NEWTON_LIMIT):
        value = _slopes(x, on_kink, args, slope)
        for i in range(n):
            kept = x[i]
            x[i] = kept + STEP
            _slopes(x, on_kink, args, ahead)
            x[i] = kept
            for j in range(n):
                curvature[i, j] = (ahead[j] - slope[j]) / STEP
        if not (value < math.inf and solve_positive(curvature, slope, move)):
            return value, False
        longest, predicted = 0.0, 0.0
        for i in range(n):
            longest, predicted = max(longest, abs(move[i])), predicted + slope[i] * move[i]
        for i in range(n):
            x[i] -= move[i] * min(1.0, 0.7 / max(longest, 1e-300))
        if predicted <= DECREMENT * abs(value):  # the step just taken squares this error
            return _slopes(x, on_kink, args, slope), True
    return math.inf, False


@njit(cache=CACHE, nogil=True, error_model="numpy")
def descend_free(device: Device, beta: float, alpha: float, rho: float, price: float, rules: Rules):  # type: ignore[no-untyped-def]
    """`descend` with rho free: (value, beta, alpha, rho, settled)."""
    if rho >= 1.0:
        alone = _with_rho(device, 1.0)
        value, beta, alpha, settled = descend_line(alone, beta, device.alpha_max, False, price, rules)
        return value, beta, alpha, 1.0, settled
    if alpha >= device.alpha_max:
        return math.inf, beta, alpha, rho, False
    a, b = exponents(device, beta, rho)
    kink = a / (a + b) if a + b < math.inf else 0.0
    on_kink = rules.block and abs(alpha - kink) <= 1e-6 * kink
    args = (device, price, rules)
    x = np.array([math.log(beta), logit(rho), logit(alpha)])
    value, found = _newton(x[:2] if on_kink else x, on_kink, args)
    beta, rho, alpha = math.exp(x[0]), expit(x[1]), expit(x[2])
    a, b = exponents(device, beta, rho)
    if on_kink:
        alpha = a / (a + b)
    nested = on_kink or not rules.block or over(b, 1.0 - alpha) > over(a, alpha)
    settled = found and nested and settles(_with_rho(device, rho), beta, alpha, on_kink, rules)
    return value, beta, alpha, rho, settled
