"""Compiled kernels of the allocator: one device's cost, slopes and inner minimisations (model.md, sections 6 and 7).

Superposed packets look like packets in bands of their own. The signs are decoded first, with the moduli as noise: with
gamma the SNR that the signs need, x_s = a / (alpha - (1 - alpha) gamma), then x_m = b / (1 - alpha). In the *effective*
power alpha' = alpha - (1 - alpha) gamma these are a / alpha' and b (1 + gamma) / (1 - alpha'): the same two quotients.
So the kernels search over alpha', and only the exponents differ. Where alpha' = a / (a + b'), b' = b (1 + gamma), both
packets are equally strong, and at a gap of 1 they are together the single packet of all bits.

A device is a row of floats (columns below), so that a kernel runs over K devices without the interpreter lock.
With the whole power a packet has the outage exponent a (signs) or b (modulus); with the share alpha of the power
it is a / alpha and b / (1 - alpha). So the search over alpha needs no logarithm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spfl.allocation.bound import (
    MMSE,
    UNBIASED,
    cost_scalar,
    mean_product,
    mean_square_scalar,
    mmse_weight_scalar,
    second_moment,
)
from spfl.arrays import Floats
from spfl.compiled import CACHE, njit
from spfl.radio.outage import LN2, outage_exponent_scalar


class Device(NamedTuple):
    """One device as the kernels see it. The allocator's `rows` (device, field) have these columns.

    noise, sign_load, modulus_load, rho: of `outage.Link`; v2 .. noise_weight: as in `bound.cost_scalar`;
    beta_min: the least share that schedules the device; beta_max, alpha_min, alpha_max: limits of the search;
    x_max: largest outage exponent of the signs. gap_slope: of `radio.outage.Link`. interference: its SNR gap where both
    packets are superposed in the same bandwidth, 0 where each has bandwidth of its own.
    """

    noise: float
    sign_load: float
    modulus_load: float
    rho: float
    v2: float
    vbar2: float
    v_vbar: float
    delta2: float
    bias_weight: float
    noise_weight: float
    beta_min: float
    beta_max: float
    alpha_min: float
    alpha_max: float
    x_max: float
    gap_slope: float
    interference: float


COLUMN = {name: column for column, name in enumerate(Device._fields)}


class Rules(NamedTuple):
    """What all devices have in common: fading, aggregation weights (bound.WEIGHT_CODES and c), free rho.

    silence: what it costs on top of J_k that a device is not received, times the probability of that.
    """

    block: bool
    weights: int
    c: float
    optimise_rho: bool
    silence: float = 0.0


@njit(cache=CACHE, nogil=True, error_model="numpy")
def device_at(rows: Floats, k: int) -> Device:
    """Row k as a record of numbers: kernels read it faster than a view of the array."""
    r = rows[k]
    return Device(
        r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15], r[16]
    )


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _exponent(load: float, bandwidth: float, noise: float, gap_slope: float) -> float:
    """Outage exponent with the whole power; the quick form of `outage_exponent_scalar` wherever nothing overflows."""
    if load > 0.0 and bandwidth > 0.0:
        y = LN2 * load / bandwidth
        if y < 500.0 and noise < 1e50:
            x = noise * bandwidth * math.expm1(y)
            return x if gap_slope == 0.0 else x * math.exp(min(gap_slope * load / bandwidth, 500.0))
    return outage_exponent_scalar(load, bandwidth, 1.0, noise, gap_slope)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def tied(device: Device) -> bool:
    """Whether superposed packets are held equally strong: their power is not optimised."""
    return device.interference > 0.0 and device.alpha_min == device.alpha_max


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _superposed(device: Device, beta: float) -> tuple[float, float, float]:
    """(a, b (1 + gamma), gamma) of superposed packets; see the module's header."""
    a = _exponent(device.sign_load, beta, device.noise, device.gap_slope)
    b = _exponent(device.modulus_load, beta, device.noise, device.gap_slope)
    gamma = outage_exponent_scalar(device.sign_load, beta, beta, device.interference, device.gap_slope)
    return a, b * (1.0 + gamma) if b > 0.0 else 0.0, gamma


@njit(cache=CACHE, nogil=True, error_model="numpy")
def exponents(device: Device, beta: float, rho: float) -> tuple[float, float]:
    """(a, b): outage exponents of the sign and of the modulus packet with the whole (effective) power."""
    if device.interference > 0.0:
        a, b, _ = _superposed(device, beta)
        return (a + b, 0.0) if tied(device) else (a, b)
    a = _exponent(device.sign_load, rho * beta, device.noise, device.gap_slope)
    b = _exponent(device.modulus_load, (1.0 - rho) * beta, device.noise, device.gap_slope)
    return a, b


@njit(cache=CACHE, nogil=True, error_model="numpy")
def over(exponent: float, power: float) -> float:
    """exponent / power, where an empty packet (0) needs no power."""
    if exponent == 0.0:
        return 0.0
    return exponent / power if power > 0.0 else math.inf


@njit(cache=CACHE, nogil=True, error_model="numpy")
def probabilities(a: float, b: float, alpha: float, block: bool) -> tuple[float, float]:
    """(q_s, r_m) of model.md, section 3."""
    x_s, x_m = over(a, alpha), over(b, 1.0 - alpha)
    if x_m == math.inf:
        return math.exp(-x_s), 0.0
    return math.exp(-x_s), math.exp(-max(x_m - x_s, 0.0) if block else -x_m)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def cost(device: Device, a: float, b: float, alpha: float, rules: Rules) -> float:
    """J_k at a power split, and the price of silence."""
    q_s, r_m = probabilities(a, b, alpha, rules.block)
    return rules.silence * (1.0 - q_s) + cost_scalar(
        q_s,
        r_m,
        device.v2,
        device.vbar2,
        device.v_vbar,
        device.delta2,
        device.bias_weight,
        device.noise_weight,
        rules.weights,
        rules.c,
    )


@njit(cache=CACHE, nogil=True, error_model="numpy")
def dropped_cost(device: Device, rules: Rules) -> float:
    """What a device costs that gets no bandwidth: its whole gradient, and the price of silence."""
    return device.bias_weight * device.v2 + rules.silence


@njit(cache=CACHE, nogil=True, error_model="numpy")
def probability_slopes(device: Device, q_s: float, r_m: float, rules: Rules) -> tuple[float, float]:
    """(dJ/dq_s, dJ/dr_m). Under `mmse` c is at its own minimum, so it may be held fixed (envelope theorem)."""
    v2, vbar2, v_vbar, big_w, noise = device.v2, device.vbar2, device.v_vbar, device.bias_weight, device.noise_weight
    lost = 1.0 - r_m
    e = second_moment(r_m, v2, vbar2, device.delta2)
    e_slope = v2 + device.delta2 - vbar2
    m2_slope = 2.0 * (r_m * v2 + (lost - r_m) * v_vbar - lost * vbar2)
    if rules.weights == UNBIASED:
        gap = max(v2 - 2.0 * v_vbar + vbar2, 0.0)
        return -noise * e / q_s / q_s - rules.silence, -2.0 * big_w * lost * gap + noise * (e_slope / q_s - m2_slope)
    c = rules.c
    if rules.weights == MMSE:
        c = mmse_weight_scalar(q_s, r_m, v2, vbar2, v_vbar, device.delta2, big_w, noise)
    m2, m_v = mean_square_scalar(r_m, v2, vbar2, v_vbar), mean_product(r_m, v2, v_vbar)
    slope_q = big_w * 2.0 * c * (c * q_s * m2 - m_v) + noise * c * c * (e - 2.0 * q_s * m2)
    slope_r = big_w * c * q_s * (c * q_s * m2_slope - 2.0 * (v2 - v_vbar))
    return slope_q - rules.silence, slope_r + noise * c * c * q_s * (e_slope - q_s * m2_slope)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def elasticity(load: float, bandwidth: float, gap_slope: float) -> float:
    """d ln x / d ln bandwidth of an outage exponent: 1 - y / (1 - exp(-y)) - gap_slope r <= 0 with y = ln 2 r."""
    y, gap = LN2 * load / bandwidth, gap_slope * load / bandwidth
    return -0.5 * y - gap if y < 1e-6 else 1.0 + y / math.expm1(-y) - gap


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _superposed_elasticities(device: Device, beta: float) -> tuple[float, float]:
    """As `elasticities`: gamma is a / beta but for a constant, so d ln gamma / d ln beta is one less than that of a."""
    a, b, gamma = _superposed(device, beta)
    signs = elasticity(device.sign_load, beta, device.gap_slope) if a > 0.0 else 0.0
    moduli = 0.0
    if b > 0.0:
        moduli = elasticity(device.modulus_load, beta, device.gap_slope)
        moduli += (signs - 1.0) / (1.0 + 1.0 / gamma) if gamma > 0.0 else 0.0
    if tied(device):
        part = a / (a + b) if a + b < math.inf else 0.0
        return part * signs + (1.0 - part) * moduli, 0.0
    return signs, moduli


@njit(cache=CACHE, nogil=True, error_model="numpy")
def elasticities(device: Device, beta: float, rho: float) -> tuple[float, float]:
    """(d ln a / d ln beta, d ln b / d ln beta), 0 for an empty packet."""
    signs = moduli = 0.0
    if device.interference > 0.0:
        return _superposed_elasticities(device, beta)
    if device.sign_load > 0.0:
        signs = elasticity(device.sign_load, rho * beta, device.gap_slope)
    if device.modulus_load > 0.0 and rho < 1.0:
        moduli = elasticity(device.modulus_load, (1.0 - rho) * beta, device.gap_slope)
    return signs, moduli


@njit(cache=CACHE, nogil=True, error_model="numpy")
def chain(device: Device, q_s: float, r_m: float, dx_s: float, dx_m: float, nested: bool, rules: Rules) -> float:
    """dJ along a direction in which the outage exponents move by dx_s and dx_m."""
    slope_q, slope_r = probability_slopes(device, q_s, r_m, rules)
    exponent_step = 0.0
    if r_m > 0.0:
        exponent_step = dx_m if not rules.block else (dx_m - dx_s if nested else 0.0)
    return -slope_q * q_s * dx_s - slope_r * r_m * exponent_step


@njit(cache=CACHE, nogil=True, error_model="numpy")
def log_slopes(device: Device, a: float, b: float, e_s: float, e_m: float, alpha: float, rules: Rules):  # type: ignore[no-untyped-def]
    """(dJ / d ln beta, dJ / d logit alpha) from the full-power exponents and their elasticities.

    One-sided where x_m = x_s: on the side where the modulus packet is the weaker one.
    """
    x_s, x_m = over(a, alpha), over(b, 1.0 - alpha)
    q_s, r_m = probabilities(a, b, alpha, rules.block)
    if q_s <= 0.0:
        return 0.0, 0.0
    x_m = x_m if r_m > 0.0 else 0.0  # a lost modulus packet has no slope
    nested = x_m >= x_s * (1.0 - 1e-12)
    by_beta = chain(device, q_s, r_m, x_s * e_s, x_m * e_m, nested, rules)
    by_alpha = chain(device, q_s, r_m, -x_s * (1.0 - alpha), x_m * alpha, nested, rules)
    return by_beta, by_alpha


@njit(cache=CACHE, nogil=True, error_model="numpy")
def slopes(device: Device, beta: float, alpha: float, rho: float, rules: Rules):  # type: ignore[no-untyped-def]
    """(dJ / d ln beta, dJ / d logit alpha); see `log_slopes`."""
    a, b = exponents(device, beta, rho)
    e_s, e_m = elasticities(device, beta, rho)
    return log_slopes(device, a, b, e_s, e_m, alpha, rules)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def least_share(device: Device, alpha: float, rho: float) -> float:
    """Smallest share at which the outage exponent of the signs is at most x_max; inf if none up to beta_max."""
    limit = device.x_max * alpha
    if not exponents(device, device.beta_max, rho)[0] <= limit:
        return math.inf
    high = math.log(device.beta_max)
    low = high - 30.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if exponents(device, math.exp(middle), rho)[0] > limit:
            low = middle
        else:
            high = middle
    return math.exp(high)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def least_shares(rows: Floats, alpha: Floats, rho: Floats) -> Floats:
    """`least_share` of every device, shape (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        out[k] = least_share(device_at(rows, k), alpha[k], rho[k])
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def sign_exponents(rows: Floats, beta: Floats) -> Floats:
    """The sign packet's outage exponent of every device with the whole power, shape (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        out[k] = exponents(device, beta[k], device.rho)[0]
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def conventional_power(rows: Floats, beta: Floats) -> Floats:
    """The (effective) power of the signs that makes the two packets the conventional one, shape (device,).

    rho where packets have bands of their own; where they are superposed, the power that makes both equally strong.
    """
    out = rows[:, 3].copy()
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        if device.interference > 0.0 and beta[k] > 0.0:
            a, b, _ = _superposed(device, beta[k])
            out[k] = a / (a + b) if a + b < math.inf else (1.0 if b == 0.0 else 0.5)
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def costs(rows: Floats, beta: Floats, alpha: Floats, rho: Floats, rules: Rules) -> Floats:
    """J_k of every device, shape (device,)."""
    out = np.empty(rows.shape[0])
    for k in range(rows.shape[0]):
        device = device_at(rows, k)
        a, b = exponents(device, beta[k], rho[k])
        out[k] = cost(device, a, b, alpha[k], rules)
    return out
