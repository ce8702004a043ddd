"""What a share of the bandwidth is worth to each device by the participation objective: compiled, device by device.

G_k(beta) = max over n of q_k(beta, n) g(n) with g(n) = 1 / (1 + v(n) / tau) (model.md, section 11). q falls and g grows
with n, which spares most rungs: one with g(n) below what a smaller share already reaches, and all from the first with
q(n) below it. Where the link adapts to the fade, n is what the channel carries, and nothing sent is lost.
Axis vocabulary: `device`, `rung`, `share`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spfl.arrays import Floats
from spfl.compiled import CACHE, njit
from spfl.radio.outage import outage_exponent_scalar

DEPTH = 6  # times that the bound halves an interval of shares


class Worth(NamedTuple):
    """All that G_k depends on.

    `bits`, `gains` (rung,): n and g(n). `noise_at` (plane,): v after whole planes, for bits between rungs. `dim`,
    `overhead`, `tau`: of the ladder. `symbols`, `noise_to_signal`, `fade` (device,): B tau, Gamma B N_0 / (P zeta), and
    the power fade that the link adapts to, negative where only mean gains are known; a device that cannot send has
    infinite noise.
    """

    bits: Floats
    gains: Floats
    noise_at: Floats
    dim: float
    overhead: float
    tau: float
    symbols: Floats
    noise_to_signal: Floats
    gap_slope: float
    fade: Floats


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _gain(bits: float, of: Worth) -> float:
    """g(n) for any number of bits, at least one."""
    share = bits / of.dim
    if share < 1.0:
        noise = (1.0 + of.noise_at[0]) / share - 1.0
    else:
        plane = min(int(share), of.noise_at.size)
        noise = of.noise_at[plane - 1]
        if plane < of.noise_at.size:
            noise += (share - plane) * (of.noise_at[plane] - noise)
    return float(1.0 / (1.0 + noise / of.tau))


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _by_fade(of: Worth, k: int, beta: float) -> float:
    snr = of.fade[k] / (of.noise_to_signal[k] * beta)
    carried = beta * of.symbols[k] * math.log2(1.0 + snr)
    bits = min(math.floor(carried * (1.0 - 1e-9) - of.overhead), of.bits[-1])
    return _gain(bits, of) if bits >= of.bits[0] else 0.0


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _worth(of: Worth, k: int, beta: float, least: float) -> float:
    """G_k(beta), given that it is at least `least`."""
    if beta <= 0.0 or not of.noise_to_signal[k] < math.inf:
        return 0.0
    if of.fade[k] >= 0.0:
        return max(least, _by_fade(of, k, beta))
    best, most = least, of.gains[-1]
    for rung in range(of.bits.size):
        if of.gains[rung] <= best:
            continue
        load = (of.overhead + of.bits[rung]) / of.symbols[k]
        q = math.exp(-outage_exponent_scalar(load, beta, 1.0, of.noise_to_signal[k], of.gap_slope))
        if q * most <= best:
            break
        best = max(best, q * of.gains[rung])
    return best


@njit(cache=CACHE, nogil=True, error_model="numpy")
def fill_table(of: Worth, shares: Floats, out: Floats, first: int) -> None:
    """G_k at every share, into `out` (device, share), for devices from `first` on; never falling with the share."""
    for row in range(out.shape[0]):
        best = 0.0
        for s in range(shares.size):
            best = _worth(of, first + row, shares[s], best)
            out[row, s] = best


@njit(cache=CACHE, nogil=True, error_model="numpy")
def chosen(table: Floats, importance: Floats, shares: Floats, price: float) -> Floats:
    """The share of the table that is worth most to each device at a price of the bandwidth, (device,)."""
    out = np.empty(table.shape[0])
    for k in range(table.shape[0]):
        best, at = 0.0, 0
        for s in range(1, shares.size):
            value = importance[k] * table[k, s] - price * shares[s]
            if value > best:
                best, at = value, s
        out[k] = shares[at]
    return out


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _ceiling(of: Worth, k: int, row: Floats, shares: Floats, priced: tuple[float, float]) -> float:
    """An upper bound of max over beta of a_k G_k(beta) - price beta, by halving what may hold the maximum.

    G_k grows with the share, so that no point of an interval is worth more than its right end at the price of its left.
    `priced` is a_k and the price.
    """
    importance, price = priced
    best = 0.0
    for s in range(1, shares.size):
        best = max(best, importance * row[s] - price * shares[s])
    bound = best
    left, right, worth, depth = np.empty(DEPTH + 2), np.empty(DEPTH + 2), np.empty(DEPTH + 2), np.empty(DEPTH + 2)
    for s in range(1, shares.size):
        if importance * row[s] - price * shares[s - 1] <= bound:
            continue
        left[0], right[0], worth[0], depth[0], held = shares[s - 1], shares[s], row[s], 0.0, 1
        while held:
            held -= 1
            a, b, g, d = left[held], right[held], worth[held], depth[held]
            if importance * g - price * a <= bound:
                continue
            if d >= DEPTH:
                bound = importance * g - price * a
                continue
            middle = math.sqrt(a * b) if a > 0.0 else 0.25 * b
            inner = min(_worth(of, k, middle, row[s - 1]), g)
            bound = max(bound, importance * inner - price * middle)
            left[held], right[held], worth[held], depth[held] = a, middle, inner, d + 1
            left[held + 1], right[held + 1], worth[held + 1], depth[held + 1] = middle, b, g, d + 1
            held += 2
    return bound


@njit(cache=CACHE, nogil=True, error_model="numpy")
def ceilings(of: Worth, table: Floats, importance: Floats, shares: Floats, price: float, first: int) -> float:
    """The sum of `_ceiling` over the devices of these rows; `first` is the number of the first."""
    total = 0.0
    for row in range(table.shape[0]):
        total += _ceiling(of, first + row, table[row], shares, (importance[first + row], price))
    return total
