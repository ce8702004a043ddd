"""Two attempts whose code words add up: HARQ with incremental redundancy, in place of two repetitions.

The second attempt sends new parity bits of the same packet. The receiver decodes once the mutual information of both
fades reaches the packet's bits (Caire, Tuninetti 2001): log2(1 + s h_1) + log2(1 + s h_2) >= r, with r the bits of the
packet over the symbols of one attempt, and s the mean SNR. Fades are exponential (Rayleigh), one for each attempt.
Axis vocabulary: `device`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spfl.arrays import Bools, Floats
from spfl.radio.outage import Link, success

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


def mean_snr(link: Link, beta: Floats) -> tuple[Floats, Floats]:
    """Rate r in bit/symbol and mean SNR s of one attempt of a packet, (device,) each; 0 where none is sent."""
    sent = (beta > 0) & np.isfinite(link.noise_to_signal)
    rate = np.divide(link.sign_load, beta, out=np.zeros_like(beta), where=sent)
    return rate, np.divide(1.0, link.noise_to_signal * beta, out=np.zeros_like(beta), where=sent)


def harq_success(link: Link, beta: Floats) -> Floats:
    """Pr[a packet is decoded after at most two attempts], (device,).

    The first attempt alone, exp(-x), or both together, by quadrature over the quantiles u of the fade h_1 < x:
    the integral over u of exp(-(2^(r - log2(1 + s h_1(u))) - 1) / s).
    """
    rate, snr = mean_snr(link, beta)
    odds, missed = np.exp(-(x := success(link, beta, 1.0, 1.0).x_s)), -np.expm1(-x)
    for k in np.flatnonzero(snr > 0):
        u = 0.5 * missed[k] * (NODES + 1.0)
        left = np.maximum(rate[k] - np.log2(1.0 - snr[k] * np.log1p(-np.minimum(u, 1.0 - 1e-16))), 0.0)
        second = np.exp(-np.expm1(np.minimum(np.log(2.0) * left, 700.0)) / snr[k])
        odds[k] += 0.5 * missed[k] * float(WEIGHTS @ second)
    return np.minimum(odds, 1.0)


def decoded(link: Link, beta: Floats, fades: Sequence[Floats]) -> Bools:
    """Which packets are decoded after attempts that met these power fades, each (device,)."""
    rate, snr = mean_snr(link, beta)
    information = np.sum([np.log2(1.0 + snr * fade) for fade in fades], axis=0)
    return np.asarray((snr > 0) & (information >= rate))
