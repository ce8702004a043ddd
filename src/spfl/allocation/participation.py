"""Bandwidth and bits that let as many different devices take part as usefully as possible (model.md, section 11).

With g_k = gbar + h_k, E||h_k||^2 = tau ||g_k||^2 and an estimate of relative error v(n) after n bits, the best linear
estimate of the mean leaves about sum_k w_k^2 tau_k [1 - q_k / (1 + v(n_k) / tau)], so

    maximise    sum_k a_k q_k(beta_k, n_k) / (1 + v(n_k) / tau),    a_k = w_k^2 ||g_k||^2
    over        beta >= 0, sum_k beta_k <= 1, n_k on the ladder.

The gain of a device is diminishing in precision, and the first bits of a far device are worth more than further bits of
a near one. The problem is separable but for the bandwidth: gains are tabled on a grid of shares, and a multiplier is
found by bisection, first on a coarse grid, then on the shares that may be best at prices near that
(participation_tables.py). Gains grow with beta, which bounds the optimum from above.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from spfl.allocation.participation_tables import (
    Candidates,
    Grid,
    Table,
    Worth,
    ceilings,
    chosen,
    fill_candidates,
    fill_table,
    mark,
)
from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.arrays import Bools, Floats
from spfl.machine import in_chunks
from spfl.packets import peaks
from spfl.packets.ladder import LEAST_SHARE, MAX_PLANES, noise, plane_noise
from spfl.packets.segments import WHOLE, Cut, segment_overhead
from spfl.radio.outage import Link, outage_exponent

POINTS, STRIDE = 192, 8  # of the grid of shares; from one share of the coarse table to the next
NEAR = np.array([0.5, 0.7, 1.0, 1.4, 2.0])  # times the price of the coarse grid: where candidates are looked for
CLOSE = 2e-4  # of the objective: what the bound may be wrong by in all
PART = 250  # devices a thread takes at once
HALVINGS, COARSE = 60, 24  # of the interval of a price; of that of the coarse grid, near which one is looked for
MOVES = 4  # times that the prices near which one is looked for may move
RUNGS = np.concatenate([np.geomspace(LEAST_SHARE, 1.0, 25), np.arange(1.125, MAX_PLANES + 0.01, 0.125)])  # bits a value


@dataclass(frozen=True)
class Ladder:
    """What a device may send: `overhead` bits, and up to `MAX_PLANES` bits of each of `dim` values.

    `tau` is the part of a device's gradient that nobody else can tell, relative to its squared norm. `fixed`: the only
    number of bits, where devices do not choose. `cut`: into which segments; each after the first has `repeated` bits of
    the overhead again. `group`: coordinates among which peaks are told; 1 for none.
    """

    dim: int
    overhead: float
    tau: float = 1.0
    fixed: float | None = None
    cut: Cut = WHOLE
    repeated: float = 0.0
    group: int = 1

    @property
    def rungs(self) -> Floats:
        """Bits from which a device chooses, (rung,)."""
        return np.ceil(RUNGS * self.dim) if self.fixed is None else np.array([self.fixed])

    def segments(self, bits: ArrayLike) -> Floats:
        """Segments of packets with these bits of a vector, any shape."""
        return self.cut.count(self.overhead + np.asarray(bits))

    def load(self, bits: ArrayLike) -> Floats:
        """Bits on the link of such packets, with all that their segments add."""
        more = segment_overhead(self.segments(bits), self.repeated)
        return np.asarray(self.overhead + np.asarray(bits) + more)

    def fades(self, bits: ArrayLike) -> Floats:
        """How many independent fades such a packet must survive: one, unless it needs all of its segments."""
        segments = self.segments(bits)
        return np.ones_like(segments) if self.cut.alone or self.cut.one_fade else segments

    def noise(self, bits: ArrayLike) -> Floats:
        """v(n): squared error of these bits of a vector, relative to its squared norm, any shape; inf for none."""
        return noise(bits, self.dim) if self.group == 1 else peaks.noise(bits, self.dim, self.group)

    def gain(self, bits: Floats) -> Floats:
        """1 / (1 + v(n) / tau): what a device that is received with these bits adds to the knowledge of the mean."""
        return np.asarray(1.0 / (1.0 + self.noise(bits) / self.tau))

    @property
    def steps(self) -> Floats:
        """Bits a value of the grades of `packets.peaks`, and the energy that they keep, (2, grade); (2, 0) for none."""
        return np.empty((2, 0)) if self.group == 1 else peaks.steps_of(self.group)


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
    tables = BitTables(link, ladder, fade, active, most)
    if equal or not active.any():
        beta, bound, multiplier = np.where(active, min(1.0 / max(int(active.sum()), 1), most), 0.0), None, None
    else:
        beta, bound, multiplier = _solve(np.where(active, importance, 0.0), tables)
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
class BitTables:
    """Gains over shares of the bandwidth; `fade` None is the tier of mean gains."""

    link: Link
    ladder: Ladder
    fade: Floats | None
    active: Bools
    most: float = 1.0

    def best(self, beta: Floats) -> tuple[Floats, Floats]:
        """Bits and success probability of each device at its share, each (device,); 0 where nothing can be sent."""
        share = np.where(self.active, beta, 0.0)
        return self._by_mean(share) if self.fade is None else self._by_fade(share, self.fade)

    @cached_property
    def grid(self) -> Grid:
        """0, and from a fiftieth of an equal share (at most a thousandth) to the largest share."""
        least = min(1e-3, 0.02 / max(int(self.active.sum()), 1))
        grid = np.geomspace(least, 1.0, POINTS)
        shares = np.concatenate([[0.0], grid[grid < self.most], [self.most]])
        return Grid(shares, np.unique(np.append(np.arange(0, shares.size, STRIDE), shares.size - 1)))

    @property
    def coarse(self) -> Floats:
        """The shares of the coarse table, (coarse,)."""
        return self.grid.shares[self.grid.at]

    @cached_property
    def worth(self) -> Worth:
        """What the compiled tables need."""
        link, ladder = self.link, self.ladder
        fade = np.full(link.size, -1.0) if self.fade is None else np.maximum(self.fade, 0.0)
        return Worth(
            ladder.rungs, ladder.gain(ladder.rungs), ladder.load(ladder.rungs), ladder.fades(ladder.rungs),
            plane_noise(), ladder.steps, float(ladder.dim), ladder.overhead, ladder.tau,
            np.asarray(link.bandwidth_hz * link.tau_s), np.where(self.active, link.noise_to_signal, np.inf),
            float(link.gap_slope), fade,
        )  # fmt: skip

    def table(self, shares: Floats) -> Table:
        """G_k of model.md, section 11, at these shares."""
        shape = self.link.size, shares.size
        table = Table(np.empty(shape), np.empty(shape, np.int64))
        in_chunks(lambda s: fill_table(self.worth, shares, table.rows(s), s.start), self.link.size, PART)
        return table

    def ceiling(self, table: Table, near: Candidates, importance: Floats, price: float, slack: float) -> float:
        """What no allocation can gain more than, by the Lagrange dual at a price of the bandwidth.

        `slack`: by how much the bound of a device may lie above what it can gain, to spare time.
        """
        coarse, priced = self.coarse, (importance, price, slack)

        def part(s: slice) -> float:
            return float(ceilings(self.worth, table.rows(s), coarse, near, priced, s.start))

        return math.fsum(in_chunks(part, self.link.size, PART)) + price

    def candidates(self, table: Table, importance: Floats, prices: Floats) -> Candidates:
        """The shares that may be best at some of these prices, by the coarse table (device, coarse share)."""
        grid = self.grid
        marked = np.zeros(table.gains.shape, np.bool_)
        mark(table.gains, self.coarse, importance, prices, marked)
        counts = np.append(0, np.diff(grid.at))
        start = np.concatenate([[0], np.cumsum(marked @ counts)])
        found = Candidates(start, np.empty(start[-1]), np.empty(start[-1]))
        worth = self.worth
        in_chunks(lambda s: fill_candidates(worth, table.rows(s), marked[s], grid, found, s.start), len(marked), PART)
        return found

    def _by_mean(self, beta: Floats) -> tuple[Floats, Floats]:
        link, rungs = self.link, self.ladder.rungs
        load = self.ladder.load(rungs) / (link.bandwidth_hz * link.tau_s[:, None])
        x = outage_exponent(load, beta[:, None], 1.0, link.noise_to_signal[:, None], link.gap_slope)
        q = np.exp(-self.ladder.fades(rungs) * x)
        chosen_rung = (q * self.ladder.gain(rungs)).argmax(1)
        q = q[np.arange(link.size), chosen_rung]
        sent = (beta > 0) & (q > 0)
        return np.where(sent, rungs[chosen_rung], 0.0), np.where(sent, q, 0.0)

    def _by_fade(self, beta: Floats, fade: Floats) -> tuple[Floats, Floats]:
        """As many bits as the channel carries at this fade: the link adapts, and nothing sent is lost."""
        link = self.link
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = fade / (link.noise_to_signal * beta)
            carried = beta * (link.bandwidth_hz * link.tau_s) * np.log2(1.0 + np.where(beta > 0, snr, 0.0))
        bits = np.floor(np.nan_to_num(carried) * (1.0 - 1e-9) - self.ladder.overhead)
        rungs = self.ladder.rungs
        bits = np.minimum(bits, rungs[-1])
        sent = bits >= rungs[0]
        return np.where(sent, bits, 0.0), sent.astype(np.float64)


def _solve(importance: Floats, tables: BitTables) -> tuple[Floats, float, float]:
    """Shares of the bandwidth, an upper bound on the gain, and the worth of the bandwidth (the multiplier)."""
    coarse = tables.coarse
    table = tables.table(coarse)
    size, gains = importance.size, table.gains[:, 1:]
    every = Candidates(np.arange(size + 1) * (coarse.size - 1), np.tile(coarse[1:], size), gains.ravel())
    slope = float(((gains * importance[:, None]) / coarse[1:]).max())
    price = _price(every, importance, (0.0, max(slope, 1e-300)), COARSE)[1]
    for _ in range(MOVES):
        near = tables.candidates(table, importance, price * NEAR)
        low, high = _price(near, importance, (price * NEAR[0], price * NEAR[-1]))
        if low > price * NEAR[0] and high < price * NEAR[-1]:
            break
        price = high
    beta, gain = _fill(near, importance, (high, low))
    slack = CLOSE * max(float(importance.sum() - importance @ gain), 0.0) / size
    bound = tables.ceiling(table, near, importance, high, slack)
    beta = beta / max(beta.sum(), 1e-300) if beta.sum() > 0 else beta  # what is left of the bandwidth, to all alike
    return np.minimum(beta, tables.most), bound, high


def _price(
    candidates: Candidates, importance: Floats, ends: tuple[float, float], halvings: int = HALVINGS
) -> tuple[float, float]:
    """Prices next to each other: at the lower one the devices ask for too much, at the higher one it fits."""
    shares, gains = np.empty(importance.size), np.empty(importance.size)
    low, high = ends
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        fits = chosen(candidates, importance, middle, shares, gains) <= 1.0
        low, high = (low, middle) if fits else (middle, high)
    return low, high


def _fill(candidates: Candidates, importance: Floats, prices: tuple[float, float]) -> tuple[Floats, Floats]:
    """Shares that fit, and of larger ones those that still fit, the best value for its bandwidth first; and G_k."""
    size = importance.size
    (beta, gain), (over, more_gain) = ((np.empty(size), np.empty(size)) for _ in range(2))
    chosen(candidates, importance, prices[0], beta, gain)
    chosen(candidates, importance, prices[1], over, more_gain)
    more, left = np.maximum(over - beta, 0.0), 1.0 - beta.sum()
    worth = importance * (more_gain - gain)
    for k in np.argsort(-worth / np.maximum(more, 1e-12), kind="stable"):
        if 0 < more[k] <= left:
            beta[k], gain[k], left = over[k], more_gain[k], left - more[k]
    return beta, gain
