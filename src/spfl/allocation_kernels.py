"""Compiled kernels of the allocator: one device's cost, slopes and inner minimisations (THEORY 6 and 7).

A device is a row of floats (columns below), so that a kernel runs over K devices without the interpreter lock.
With the whole power a packet has the outage exponent a (signs) or b (modulus); with the share alpha of the power
it is a / alpha and b / (1 - alpha). So the search over alpha needs no logarithm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from spfl.bound import MMSE, UNBIASED, Floats, cost_scalar, mean_square_scalar, mmse_weight_scalar
from spfl.channel import LN2, outage_exponent_scalar

# columns of a device's row
NOISE, SIGN_LOAD, MODULUS_LOAD, RHO, V2, VBAR2, V_VBAR, DELTA2, BIAS_WEIGHT, NOISE_WEIGHT = range(10)
# least share that schedules the device, largest share, range of alpha, largest outage exponent of the signs
BETA_MIN, BETA_MAX, ALPHA_MIN, ALPHA_MAX, X_MAX = range(10, 15)
COLUMNS = 15


class Rules(NamedTuple):
    """What all devices have in common: fading, aggregation weights (bound.WEIGHT_CODES and c), free rho."""

    block: bool
    weights: int
    c: float
    optimise_rho: bool


@njit(cache=True, nogil=True)
def exponents(row: Floats, beta: float, rho: float) -> tuple[float, float]:
    """(a, b): outage exponents of the sign and of the modulus packet with the whole power."""
    a = outage_exponent_scalar(row[SIGN_LOAD], rho * beta, 1.0, row[NOISE])
    b = outage_exponent_scalar(row[MODULUS_LOAD], (1.0 - rho) * beta, 1.0, row[NOISE])
    return a, b


@njit(cache=True, nogil=True)
def over(exponent: float, power: float) -> float:
    """exponent / power, where an empty packet (0) needs no power."""
    if exponent == 0.0:
        return 0.0
    return exponent / power if power > 0.0 else math.inf


@njit(cache=True, nogil=True)
def probabilities(a: float, b: float, alpha: float, block: bool) -> tuple[float, float]:
    """(q_s, r_m) of THEORY 3."""
    x_s, x_m = over(a, alpha), over(b, 1.0 - alpha)
    if x_m == math.inf:
        return math.exp(-x_s), 0.0
    return math.exp(-x_s), math.exp(-max(x_m - x_s, 0.0) if block else -x_m)


@njit(cache=True, nogil=True)
def cost(row: Floats, a: float, b: float, alpha: float, rules: Rules) -> float:
    """J_k at a power split."""
    q_s, r_m = probabilities(a, b, alpha, rules.block)
    return cost_scalar(
        q_s,
        r_m,
        row[V2],
        row[VBAR2],
        row[V_VBAR],
        row[DELTA2],
        row[BIAS_WEIGHT],
        row[NOISE_WEIGHT],
        rules.weights,
        rules.c,
    )


@njit(cache=True, nogil=True)
def probability_slopes(row: Floats, q_s: float, r_m: float, rules: Rules) -> tuple[float, float]:
    """(dJ/dq_s, dJ/dr_m). Under `mmse` c is at its own minimum, so it may be held fixed (envelope theorem)."""
    v2, vbar2, v_vbar, big_w, noise = row[V2], row[VBAR2], row[V_VBAR], row[BIAS_WEIGHT], row[NOISE_WEIGHT]
    lost = 1.0 - r_m
    e = r_m * (v2 + row[DELTA2]) + lost * vbar2
    e_slope = v2 + row[DELTA2] - vbar2
    m2_slope = 2.0 * (r_m * v2 + (lost - r_m) * v_vbar - lost * vbar2)
    if rules.weights == UNBIASED:
        gap = max(v2 - 2.0 * v_vbar + vbar2, 0.0)
        return -noise * e / q_s / q_s, -2.0 * big_w * lost * gap + noise * (e_slope / q_s - m2_slope)
    c = rules.c
    if rules.weights == MMSE:
        c = mmse_weight_scalar(q_s, r_m, v2, vbar2, v_vbar, row[DELTA2], big_w, noise)
    m2, m_v = mean_square_scalar(r_m, v2, vbar2, v_vbar), r_m * v2 + lost * v_vbar
    slope_q = big_w * 2.0 * c * (c * q_s * m2 - m_v) + noise * c * c * (e - 2.0 * q_s * m2)
    slope_r = big_w * c * q_s * (c * q_s * m2_slope - 2.0 * (v2 - v_vbar))
    return slope_q, slope_r + noise * c * c * q_s * (e_slope - q_s * m2_slope)


@njit(cache=True, nogil=True)
def elasticity(load: float, band: float) -> float:
    """d ln x / d ln band of an outage exponent: 1 - y / (1 - exp(-y)) <= 0 with y = ln 2 load / band."""
    y = LN2 * load / band
    return -0.5 * y if y < 1e-6 else 1.0 + y / math.expm1(-y)


@njit(cache=True, nogil=True)
def chain(row: Floats, q_s: float, r_m: float, dx_s: float, dx_m: float, nested: bool, rules: Rules) -> float:
    """dJ along a direction in which the outage exponents move by dx_s and dx_m."""
    slope_q, slope_r = probability_slopes(row, q_s, r_m, rules)
    exponent_step = 0.0
    if r_m > 0.0:
        exponent_step = dx_m if not rules.block else (dx_m - dx_s if nested else 0.0)
    return -slope_q * q_s * dx_s - slope_r * r_m * exponent_step


@njit(cache=True, nogil=True)
def slopes(row: Floats, beta: float, alpha: float, rho: float, rules: Rules) -> tuple[float, float]:
    """(dJ/dbeta, dJ/dalpha), one-sided where x_m = x_s (the side on which the modulus packet is the weaker)."""
    a, b = exponents(row, beta, rho)
    x_s, x_m = over(a, alpha), over(b, 1.0 - alpha)
    q_s, r_m = probabilities(a, b, alpha, rules.block)
    if q_s <= 0.0:
        return 0.0, 0.0
    x_m = x_m if r_m > 0.0 else 0.0  # a lost modulus packet has no slope
    nested = x_m >= x_s * (1.0 - 1e-12)
    s_beta = x_s * elasticity(row[SIGN_LOAD], rho * beta) / beta if x_s > 0.0 else 0.0
    m_beta = x_m * elasticity(row[MODULUS_LOAD], (1.0 - rho) * beta) / beta if x_m > 0.0 else 0.0
    s_alpha = -x_s / alpha if x_s > 0.0 else 0.0
    m_alpha = x_m / (1.0 - alpha) if x_m > 0.0 else 0.0
    return (
        chain(row, q_s, r_m, s_beta, m_beta, nested, rules),
        chain(row, q_s, r_m, s_alpha, m_alpha, nested, rules),
    )


@njit(cache=True, nogil=True)
def least_share(row: Floats, alpha: float, rho: float) -> float:
    """Smallest share of the band at which the signs' outage exponent is at most X_MAX; inf if none up to BETA_MAX."""
    high = math.log(row[BETA_MAX])
    if outage_exponent_scalar(row[SIGN_LOAD], rho * row[BETA_MAX], alpha, row[NOISE]) > row[X_MAX]:
        return math.inf
    low = high - 30.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        if outage_exponent_scalar(row[SIGN_LOAD], rho * math.exp(middle), alpha, row[NOISE]) > row[X_MAX]:
            low = middle
        else:
            high = middle
    return math.exp(high)


@njit(cache=True, nogil=True)
def least_shares(rows: Floats, alpha: Floats, rho: Floats) -> Floats:
    """`least_share` of every device, shape (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        out[k] = least_share(rows[k], alpha[k], rho[k])
    return out


@njit(cache=True, nogil=True)
def costs(rows: Floats, beta: Floats, alpha: Floats, rho: Floats, rules: Rules) -> Floats:
    """J_k of every device, shape (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        a, b = exponents(rows[k], beta[k], rho[k])
        out[k] = cost(rows[k], a, b, alpha[k], rules)
    return out
