"""Bandwidth and bits that let as many different devices take part as usefully as possible (model.md, section 11).

With g_k = gbar + h_k, E||h_k||^2 = tau ||g_k||^2 and an estimate of relative error v(n) after n bits, the best linear
estimate of the mean leaves about sum_k w_k^2 tau_k [1 - q_k / (1 + v(n_k) / tau)], so

    maximise    sum_k a_k q_k(beta_k, n_k) / (1 + v(n_k) / tau),    a_k = w_k^2 ||g_k||^2
    over        beta >= 0, sum_k beta_k <= 1, n_k on the ladder.

The gain of a device is diminishing in precision, and the first bits of a far device are worth more than further bits of
a near one. The problem is separable but for the bandwidth: gains are tabled on a grid of shares, and a multiplier is
found by bisection on the concave envelopes. Gains grow with beta, so the table also bounds the optimum from above.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.arrays import Bools, Floats
from spfl.packets.ladder import LEAST_SHARE, MAX_PLANES, noise
from spfl.radio.outage import Link, outage_exponent

SHARES = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 192)])  # of the bandwidth: the grid of the table
RUNGS = np.concatenate([np.geomspace(LEAST_SHARE, 1.0, 25), np.arange(1.125, MAX_PLANES + 0.01, 0.125)])  # bits a value


@dataclass(frozen=True)
class Ladder:
    """What a device may send: `overhead` bits, and up to `MAX_PLANES` bits of each of `dim` values.

    `tau` is the part of a device's gradient that nobody else can tell, relative to its squared norm. `fixed`: the only
    number of bits, where devices do not choose.
    """

    dim: int
    overhead: float
    tau: float = 1.0
    fixed: float | None = None

    @property
    def rungs(self) -> Floats:
        """Bits from which a device chooses, (rung,)."""
        return np.ceil(RUNGS * self.dim) if self.fixed is None else np.array([self.fixed])

    def gain(self, bits: Floats) -> Floats:
        """1 / (1 + v(n) / tau): what a device that is received with these bits adds to the knowledge of the mean."""
        return np.asarray(1.0 / (1.0 + noise(bits, self.dim) / self.tau))


def allocate_bits(
    importance: Floats,
    link: Link,
    ladder: Ladder,
    fade: Floats | None = None,
    *,
    equal: bool = False,
    most: float = 1.0,
) -> AllocationResult:
    """Shares of the bandwidth and bits of every device that maximise the participation objective.

    Args:
        importance: a_k >= 0, shape (device,). A device of none gets no bandwidth.
        link: long-term statistics; its packets' bits are not looked at.
        ladder: what a device may send.
        fade: the instantaneous power fades, shape (device,), where the link adapts to them; None for mean gains only.
        equal: equal shares, so that the bits alone are chosen.
        most: largest share of the bandwidth that a device is given.

    Returns:
        An allocation with `bits` (device,); `objective` is what is lost, the sum of a_k less what is gained, so that
        `gap` is relative to it as for the other solvers.
    """
    began = time.perf_counter()
    active = (importance > 0) & (link.power_w * link.gain > 0)
    tables = _Tables(link, ladder, fade, active)
    if equal or not active.any():
        beta, bound, multiplier = np.where(active, 1.0 / max(int(active.sum()), 1), 0.0), None, None
    else:
        beta, bound, multiplier = _solve(importance, tables, most)
    bits, q = tables.best(beta)
    beta = np.where(bits > 0, beta, 0.0)
    cost = importance * (1.0 - np.where(bits > 0, q * ladder.gain(bits), 0.0))
    objective, one = float(cost.sum()), np.ones(link.size)
    lower = None if bound is None else float(importance.sum()) - bound
    gap = None if lower is None or objective <= 0 else (objective - lower) / objective
    status = AllocationStatus.FIXED if equal else _status(gap)
    return AllocationResult(
        beta, one, one.copy(), q, one.copy(), cost, objective, lower, gap, status, 0 if equal else 60,
        time.perf_counter() - began, ~active, multiplier, bits=bits, adapted=fade is not None,
    )  # fmt: skip


def _status(gap: float | None) -> AllocationStatus:
    if gap is None:
        return AllocationStatus.TRIVIAL
    return AllocationStatus.OPTIMAL if gap <= 1e-3 else AllocationStatus.FEASIBLE


@dataclass(frozen=True)
class _Tables:
    """Gains over shares of the bandwidth; `fade` None is the tier of mean gains."""

    link: Link
    ladder: Ladder
    fade: Floats | None
    active: Bools

    def best(self, beta: Floats) -> tuple[Floats, Floats]:
        """Bits and success probability of each device at its share, each (device,); 0 where nothing can be sent."""
        bits, q = self._choose(np.asarray(beta)[:, None])
        return bits[:, 0], q[:, 0]

    def gains(self, shares: Floats) -> Floats:
        """q gain(n) at the best n, (device, share)."""
        bits, q = self._choose(np.broadcast_to(shares, (self.link.size, shares.size)))
        return np.where(bits > 0, q * self.ladder.gain(np.maximum(bits, 1.0)), 0.0)

    def _choose(self, beta: Floats) -> tuple[Floats, Floats]:
        """Bits and success probability, each (device, share)."""
        beta = np.where(self.active[:, None], beta, 0.0)
        return self._by_mean(beta) if self.fade is None else self._by_fade(beta, self.fade)

    def _by_mean(self, beta: Floats) -> tuple[Floats, Floats]:
        link, rungs = self.link, self.ladder.rungs
        load = (self.ladder.overhead + rungs) / (link.bandwidth_hz * link.tau_s[:, None, None])
        noise_to_signal = link.noise_to_signal[:, None, None]
        q = np.exp(-outage_exponent(load, beta[:, :, None], 1.0, noise_to_signal, link.gap_slope))
        worth = q * self.ladder.gain(rungs)
        chosen = worth.argmax(2)
        q = np.take_along_axis(q, chosen[:, :, None], 2)[:, :, 0]
        sent = (beta > 0) & (q > 0)
        return np.where(sent, rungs[chosen], 0.0), np.where(sent, q, 0.0)

    def _by_fade(self, beta: Floats, fade: Floats) -> tuple[Floats, Floats]:
        """As many bits as the channel carries at this fade: the link adapts, and nothing sent is lost."""
        link = self.link
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = fade[:, None] / (link.noise_to_signal[:, None] * beta)
            carried = beta * (link.bandwidth_hz * link.tau_s[:, None]) * np.log2(1.0 + np.where(beta > 0, snr, 0.0))
        bits = np.floor(np.nan_to_num(carried) * (1.0 - 1e-9) - self.ladder.overhead)
        rungs = self.ladder.rungs
        if self.ladder.fixed is None:
            bits = np.minimum(bits, rungs[-1])
        else:
            bits = np.where(bits >= rungs[0], rungs[0], 0.0)
        sent = bits >= rungs[0]
        return np.where(sent, bits, 0.0), sent.astype(np.float64)


def _solve(importance: Floats, tables: _Tables, most: float) -> tuple[Floats, float, float]:
    """Shares of the bandwidth, an upper bound on the gain, and the worth of the bandwidth (the multiplier)."""
    shares = np.append(SHARES[most > SHARES], most)
    table = importance[:, None] * np.maximum.accumulate(tables.gains(shares), axis=1)
    low, high = 0.0, max(float((table[:, 1:] / shares[1:]).max()), 1e-300)
    for _ in range(60):
        middle = 0.5 * (low + high)
        demand = shares[(table - middle * shares).argmax(1)].sum()
        low, high = (middle, high) if demand > 1.0 else (low, middle)
    under = shares[(table - high * shares).argmax(1)]  # what fits
    over = shares[(table - low * shares).argmax(1)]  # what just does not
    beta = _fill(shares, table, under, over)
    ceiling = np.concatenate([table[:, 1:], table[:, -1:]], axis=1)  # the gain anywhere up to the next point
    bound = min(float((ceiling - worth * shares).max(1).sum()) + worth for worth in (low, high))
    beta = beta / max(beta.sum(), 1e-300) if beta.sum() > 0 else beta  # what is left of the bandwidth, to all alike
    return np.minimum(beta, most), bound, high


def _fill(shares: Floats, table: Floats, under: Floats, over: Floats) -> Floats:
    """The shares that fit, and of the larger ones those that still fit, the best value for its bandwidth first."""
    more = np.maximum(over - under, 0.0)
    rows = np.arange(len(table))
    at = np.searchsorted(shares, np.array([under, np.maximum(over, under)]))
    worth = table[rows, at[1]] - table[rows, at[0]]
    beta, left = under.copy(), 1.0 - under.sum()
    for k in np.argsort(-worth / np.maximum(more, 1e-12), kind="stable"):
        if 0 < more[k] <= left:
            beta[k], left = over[k], left - more[k]
    return beta
