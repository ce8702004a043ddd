"""The best split of a device's power (and bandwidth) between its packets, at a given share (model.md, section 7)."""

from __future__ import annotations

import math
from typing import NamedTuple

from spfl.allocation.bound import PLAIN
from spfl.allocation.kernels import (
    Device,
    Rules,
    cost,
    elasticities,
    exponents,
    log_slopes,
    over,
    probability_slopes,
)
from spfl.allocation.solvers import minimise
from spfl.compiled import CACHE, njit

LOST = 41.0  # exp(-41) < 1e-17: a modulus packet that never arrives
SPLIT_POINTS = 12
RHO_POINTS = 9
ROUGH = 1.0  # of alpha's logit, while the best of these rho is looked for: little more than a scan
TABLED = 1e-4  # a larger tolerance is that of a table, which only picks valleys: few steps then
FEW, MANY = 5, 30  # steps in rho from the best of these
LOGIT_LIMIT = 36.0  # beyond, 1 - alpha rounds to 0
NEWTON_LIMIT = 12
STEP = 1e-5  # of the differences that give the curvature; the slopes are analytic
DECREMENT = 1e-11  # Newton's predicted decrease, relative
EVERYWHERE = -1.0  # in place of a guess of alpha: search globally


class Split(NamedTuple):
    """The best division of a device's power (and bandwidth) and what it costs."""

    cost: float
    alpha: float
    rho: float


@njit(cache=CACHE, nogil=True, error_model="numpy")
def logit(p: float) -> float:
    if p <= 0.0:
        return -LOGIT_LIMIT
    if p >= 1.0:
        return LOGIT_LIMIT
    return min(max(math.log(p / (1.0 - p)), -LOGIT_LIMIT), LOGIT_LIMIT)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def expit(t: float) -> float:
    return 1.0 / (1.0 + math.exp(-t))


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _cost_at_logit(t, args):  # type: ignore[no-untyped-def]
    device, a, b, low, high, rules = args
    return cost(device, a, b, min(max(expit(t), low), high), rules)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _scan(device: Device, a: float, b: float, left: float, right: float, low: float, high: float, rules: Rules):  # type: ignore[no-untyped-def]
    """(logit of the best of a few even points between left and right, distance of the points)."""
    step, least, centre = (right - left) / (SPLIT_POINTS - 1), math.inf, left
    odds, ratio = math.exp(left), math.exp(step)
    for i in range(SPLIT_POINTS):
        value = cost(device, a, b, min(max(odds / (1.0 + odds), low), high), rules)
        odds *= ratio
        if value < least:
            centre, least = left + i * step, value
    return centre, step


@njit(cache=CACHE, nogil=True, error_model="numpy")
def best_alpha(device: Device, a: float, b: float, guess: float, tolerance: float, rules: Rules) -> tuple[float, float]:
    """(least cost, alpha) for the full-power exponents a and b; cost inf when the signs cannot meet x_max.

    The function of alpha may have several minima: the point where both packets are equally strong (a kink under
    block fading), an interior point, and all power on the signs. So scan from where the modulus packet stops
    being the stronger one to where it never arrives, then refine the best. A `guess` in (0, 1) replaces the scan
    by a local search around it.
    """
    low, high = max(device.alpha_min, a / device.x_max), device.alpha_max
    if not low <= high:
        return math.inf, high
    best, alpha = cost(device, a, b, high, rules), high
    if low == high or b == 0.0:
        return best, alpha
    args = (device, a, b, low, high, rules)
    first = low
    if rules.block and rules.weights != PLAIN:  # below the kink a stronger modulus packet gains nothing
        first = min(max(a / (a + b) if b < math.inf else 0.0, low), high)
    left, right = logit(first), min(logit(high), -logit(min(b / (LOST + a + b), 1.0) if b < math.inf else 1.0))
    if not left < right:
        value = cost(device, a, b, first, rules)
        return (value, first) if value < best else (best, alpha)
    value = cost(device, a, b, first, rules)
    if value < best:
        best, alpha = value, first
    if 0.0 < guess < 1.0:
        centre, step = min(max(logit(guess), left), right), 0.7
    else:
        centre, step = _scan(device, a, b, left, right, low, high, rules)
    lower, upper = max(left, centre - step), min(right, centre + step)
    if centre == left and _cost_at_logit(left + 1e-4 * step, args) >= value:
        return best, alpha  # rises from the kink on
    found = minimise(_cost_at_logit, args, lower, upper, centre, tolerance, 30, False)
    here = min(max(expit(found.value), low), high)
    value = cost(device, a, b, here, rules)
    return (value, here) if value < best else (best, alpha)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _cost_at_rho(s, args):  # type: ignore[no-untyped-def]
    device, beta, guess, tolerance, rules = args
    a, b = exponents(device, beta, expit(s))
    return best_alpha(device, a, b, guess, tolerance, rules)[0]


@njit(cache=CACHE, nogil=True, error_model="numpy")
def best_split(device: Device, beta: float, guess: Split, tolerance: float, rules: Rules) -> Split:
    """psi_k(beta) and its arguments. A guess with alpha in (0, 1) makes the search local, EVERYWHERE global.

    Where rho is free, a global search takes the best of a few rho, each with its best alpha, and goes on from there.
    """
    a, b = exponents(device, beta, device.rho)
    value, alpha = best_alpha(device, a, b, guess.alpha, tolerance, rules)
    best = Split(value, alpha, device.rho)
    if not rules.optimise_rho:
        return best
    a, b = exponents(device, beta, 1.0)
    value, alpha = best_alpha(device, a, b, EVERYWHERE, tolerance, rules)
    if value < best.cost:
        best = Split(value, alpha, 1.0)
    centre, near, width = logit(guess.rho), guess.alpha, 0.7
    if not 0.0 < guess.alpha < 1.0:
        width, least = 10.0 / (RHO_POINTS - 1), math.inf
        for i in range(RHO_POINTS):
            s = -5.0 + i * width
            a, b = exponents(device, beta, expit(s))
            value, alpha = best_alpha(device, a, b, EVERYWHERE, ROUGH, rules)
            if value < least:
                centre, near, least = s, alpha, value
    args = (device, beta, near, tolerance, rules)
    steps = MANY if tolerance < TABLED else FEW
    found = minimise(_cost_at_rho, args, centre - width, centre + width, centre, max(tolerance, 1e-6), steps, False)
    rho = expit(found.value)
    a, b = exponents(device, beta, rho)
    value, alpha = best_alpha(device, a, b, near, tolerance, rules)
    return Split(value, alpha, rho) if value < best.cost else best


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _kink_slope(device: Device, beta: float, rules: Rules):  # type: ignore[no-untyped-def]
    """(dJ / d ln beta, J, alpha) along the kink, where the power makes both packets equally strong: r_m = 1."""
    a, b = exponents(device, beta, device.rho)
    e_s, e_m = elasticities(device, beta, device.rho)
    slope_q, _ = probability_slopes(device, math.exp(-a - b), 1.0, rules)
    alpha = a / (a + b)
    return -slope_q * math.exp(-a - b) * (a * e_s + b * e_m), cost(device, a, b, alpha, rules), alpha


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _slope_on(device: Device, beta: float, alpha: float, kink: bool, rules: Rules):  # type: ignore[no-untyped-def]
    """(dJ / d ln beta, J, alpha) on the kink, or at a fixed alpha."""
    if kink:
        return _kink_slope(device, beta, rules)
    a, b = exponents(device, beta, device.rho)
    e_s, e_m = elasticities(device, beta, device.rho)
    return log_slopes(device, a, b, e_s, e_m, alpha, rules)[0], cost(device, a, b, alpha, rules), alpha


@njit(cache=CACHE, nogil=True, error_model="numpy")
def settles(device: Device, beta: float, alpha: float, kink: bool, rules: Rules) -> bool:
    """Whether a stationary point keeps every limit, and no power shift from the kink gains."""
    a, b = exponents(device, beta, device.rho)
    if not (device.beta_min <= beta <= device.beta_max and device.alpha_min <= alpha <= device.alpha_max):
        return False
    if not a / device.x_max <= alpha:
        return False
    e_s, e_m = elasticities(device, beta, device.rho)
    return not kink or log_slopes(device, a, b, e_s, e_m, alpha, rules)[1] >= 0.0


@njit(cache=CACHE, nogil=True, error_model="numpy")
def descend_line(device: Device, beta: float, alpha: float, kink: bool, price: float, rules: Rules):  # type: ignore[no-untyped-def]
    """Newton in ln beta on the kink or at a fixed alpha: (value, beta, alpha, settled)."""
    for _ in range(NEWTON_LIMIT):
        slope, value, alpha = _slope_on(device, beta, alpha, kink, rules)
        ahead = beta * (1.0 + STEP)
        slope_ahead = _slope_on(device, ahead, alpha, kink, rules)[0] + price * ahead
        slope, value = slope + price * beta, value + price * beta
        curvature = (slope_ahead - slope) / STEP
        if not (curvature > 0.0 and value < math.inf):
            return value, beta, alpha, False
        move = -slope / curvature
        beta *= math.exp(min(max(move, -0.7), 0.7))
        if abs(slope * move) <= DECREMENT * abs(value):  # the step just taken squares this error
            value, alpha = _slope_on(device, beta, alpha, kink, rules)[1:]
            return value + price * beta, beta, alpha, settles(device, beta, alpha, kink, rules)
    return math.inf, beta, alpha, False


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _descend_plane(device: Device, beta: float, alpha: float, price: float, rules: Rules):  # type: ignore[no-untyped-def]
    """Newton in (ln beta, logit alpha): (value, beta, alpha, settled)."""
    t = logit(alpha)
    for _ in range(NEWTON_LIMIT):
        a, b = exponents(device, beta, device.rho)
        e_s, e_m = elasticities(device, beta, device.rho)
        g_u, g_t = log_slopes(device, a, b, e_s, e_m, alpha, rules)
        u_t, t_t = log_slopes(device, a, b, e_s, e_m, expit(t + STEP), rules)
        value = cost(device, a, b, alpha, rules) + price * beta
        ahead = beta * (1.0 + STEP)
        a, b = exponents(device, ahead, device.rho)
        e_s, e_m = elasticities(device, ahead, device.rho)
        u_u, t_u = log_slopes(device, a, b, e_s, e_m, alpha, rules)
        h_uu, h_tt = (u_u - g_u) / STEP + price * beta, (t_t - g_t) / STEP
        h_ut = 0.5 * ((u_t - g_u) + (t_u - g_t)) / STEP
        g_u += price * beta
        determinant = h_uu * h_tt - h_ut * h_ut
        if not (h_uu > 0.0 and h_tt > 0.0 and determinant > 0.0 and value < math.inf):
            return value, beta, alpha, False
        move_u, move_t = (h_ut * g_t - h_tt * g_u) / determinant, (h_ut * g_u - h_uu * g_t) / determinant
        scale = min(1.0, 0.7 / max(abs(move_u), abs(move_t), 1e-300))
        beta, t = beta * math.exp(scale * move_u), t + scale * move_t
        alpha = expit(t)
        if abs(g_u * move_u + g_t * move_t) <= DECREMENT * abs(value):
            a, b = exponents(device, beta, device.rho)
            nested = not rules.block or over(b, 1.0 - alpha) > over(a, alpha)
            value = cost(device, a, b, alpha, rules) + price * beta
            return value, beta, alpha, nested and settles(device, beta, alpha, False, rules)
    return math.inf, beta, alpha, False


@njit(cache=CACHE, nogil=True, error_model="numpy")
def descend(device: Device, beta: float, alpha: float, price: float, rules: Rules):  # type: ignore[no-untyped-def]
    """Local minimum of J + price * beta by Newton: (value, beta, alpha, settled).

    Stays on the kink, on the limit of alpha, or between them, wherever it starts. Not settled: it left that
    piece, the curvature was not positive, or it met a limit of beta; the caller must search otherwise.
    """
    a, b = exponents(device, beta, device.rho)
    if alpha >= device.alpha_max or device.alpha_min == device.alpha_max or b == 0.0:
        return descend_line(device, beta, alpha, False, price, rules)
    kink = a / (a + b) if a + b < math.inf else 0.0
    if rules.block and abs(alpha - kink) <= 1e-7 * kink:
        return descend_line(device, beta, alpha, True, price, rules)
    return _descend_plane(device, beta, alpha, price, rules)
