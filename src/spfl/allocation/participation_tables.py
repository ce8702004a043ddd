"""What a share of the bandwidth is worth to each device by the participation objective: compiled, device by device.

G_k(beta) = max over n of q_k(beta, n) g(n) with g(n) = 1 / (1 + v(n) / tau) (model.md, section 11). q falls and g grows
with n, which spares most rungs: a block of them whose first q and last g together stay below what a smaller share
already reaches, and all from the first with q(n) below it. Where the link adapts to the fade, n is what the channel
carries, and nothing sent is lost.

More bandwidth never makes fewer bits the best choice: d x / d n falls with beta for the exponent x of the outage
(model.md, section 3), since 2^r exp(c r) is convex. So the best rung of a smaller share is where the search at a larger
one begins.

G_k never falls. So a coarse table of shares tells which intervals between them can hold the best share at a price, and
only there are finer shares looked at: the candidates.
Axis vocabulary: `device`, `rung`, `share`, `candidate`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from spfl.arrays import Bools, Floats, Indices
from spfl.compiled import CACHE, njit
from spfl.radio.outage import LN2

DEPTH = 9  # times that the bound halves an interval of shares
BLOCK = 4  # rungs that are passed over together
LARGEST_RATE = 1000.0  # bit/s/Hz: with more nothing arrives
RungRange = tuple[int, int]  # the first and the last rung that may be best


class Worth(NamedTuple):
    """All that G_k depends on.

    `bits`, `gains`, `loads`, `fades` (rung,): n, g(n), bits on the link, and how many fades must all be survived.
    `noise_at` (plane,): v after whole planes, for bits between rungs. `steps` (2, grade): bits a value and the energy
    that they keep, where peaks are told. `dim`, `overhead`, `tau`: of the ladder.
    `symbols`, `noise_to_signal`, `fade` (device,): B tau, Gamma B N_0 / (P zeta), and the power fade that the link
    adapts to, negative where only mean gains are known; a device that cannot send has infinite noise.
    """

    bits: Floats
    gains: Floats
    loads: Floats
    fades: Floats
    noise_at: Floats
    steps: Floats
    dim: float
    overhead: float
    tau: float
    symbols: Floats
    noise_to_signal: Floats
    gap_slope: float
    fade: Floats


class Table(NamedTuple):
    """G_k at each share, `gains` (device, share), and the rungs that reach it, `rungs` (device, share)."""

    gains: Floats
    rungs: Indices

    def rows(self, part: slice) -> Table:
        """That of some devices."""
        return Table(self.gains[part], self.rungs[part])


class Grid(NamedTuple):
    """Shares (share,), rising from 0, and the places `at` (coarse,) of those of the coarse table among them."""

    shares: Floats
    at: Indices


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _kept(share: float, steps: Floats) -> float:
    """The energy that so many bits a value tell, linear between grades (`packets.peaks.noise`)."""
    for i in range(1, steps.shape[1]):
        if share < steps[0, i]:
            part = (share - steps[0, i - 1]) / (steps[0, i] - steps[0, i - 1])
            return float(steps[1, i - 1] + part * (steps[1, i] - steps[1, i - 1]))
    return float(steps[1, -1])


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _gain(bits: float, of: Worth) -> float:
    """g(n) for any number of bits, at least one."""
    share = bits / of.dim
    if of.steps.size:
        noise = 1.0 / _kept(share, of.steps) - 1.0
    elif share < 1.0:
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
def _worth(of: Worth, k: int, beta: float, least: float, ends: RungRange) -> tuple[float, int]:
    """G_k(beta) and its rung, given that it is at least `least` at the first rung of `ends`, and best within them."""
    first, stop = ends
    if beta <= 0.0 or not of.noise_to_signal[k] < math.inf:
        return 0.0, first
    if of.fade[k] >= 0.0:
        return max(least, _by_fade(of, k, beta)), first
    best, at, most = max(least, _success(of, k, beta, first) * of.gains[first]), first, of.gains[stop]
    for start in range(first + 1, stop + 1, BLOCK):
        last = min(start + BLOCK - 1, stop)
        q = _success(of, k, beta, start)
        if q * most <= best:
            break
        if q * of.gains[last] <= best:
            continue
        if q * of.gains[start] > best:
            best, at = q * of.gains[start], start
        for rung in range(start + 1, last + 1):
            q = _success(of, k, beta, rung)
            if q * of.gains[rung] > best:
                best, at = q * of.gains[rung], rung
            if q * of.gains[last] <= best:
                break
    return best, at


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _success(of: Worth, k: int, beta: float, rung: int) -> float:
    """`radio.outage.success` of one packet with all the power, without the logarithms that keep it from overflow."""
    r = of.loads[rung] / (of.symbols[k] * beta)
    if r > LARGEST_RATE:
        return 0.0
    growth = math.expm1(r * LN2)
    if of.gap_slope != 0.0:
        growth *= math.exp(of.gap_slope * r)
    return math.exp(-of.noise_to_signal[k] * beta * growth * of.fades[rung])


@njit(cache=CACHE, nogil=True, error_model="numpy")
def fill_table(of: Worth, shares: Floats, table: Table, first: int) -> None:
    """G_k at every share, and its rung, for devices from `first` on; neither falls with the share."""
    top = of.bits.size - 1
    for row in range(table.gains.shape[0]):
        best, rung = 0.0, 0
        for s in range(shares.size):
            best, rung = _worth(of, first + row, shares[s], best, (rung, top))
            table.gains[row, s], table.rungs[row, s] = best, rung


# a_k, the price of the bandwidth, and by how much a bound may be too high
Priced = tuple[Any, float, float]
Interval = tuple[float, float, float, float]  # of an interval of shares: left, right, and what a device gains at both


class Candidates(NamedTuple):
    """Shares that may be the best of a device at some price of a range.

    Those of device k are `shares[start[k] : start[k + 1]]`, rising, and `gains` what they are worth: G_k.
    """

    start: Indices
    shares: Floats
    gains: Floats


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _may_hold(row: Floats, coarse: Floats, importance: float, price: float, out: Bools) -> None:
    """Marks the intervals, by their right end, whose end, at the price of their start, no coarse share beats."""
    best = 0.0
    for s in range(1, coarse.size):
        best = max(best, importance * row[s] - price * coarse[s])
    for s in range(1, coarse.size):
        most = importance * row[s] - price * coarse[s - 1]
        if most >= best and most > 0.0:
            out[s] = True


@njit(cache=CACHE, nogil=True, error_model="numpy")
def mark(table: Floats, coarse: Floats, importance: Floats, prices: Floats, out: Bools) -> None:
    """Which intervals of each device are looked at, (device, coarse share), for any of the prices."""
    for k in range(table.shape[0]):
        for price in prices:
            _may_hold(table[k], coarse, importance[k], price, out[k])


@njit(cache=CACHE, nogil=True, error_model="numpy")
def fill_candidates(of: Worth, table: Table, marked: Bools, grid: Grid, of_all: Candidates, first: int) -> None:
    """The candidates of the devices from `first` on, whose rows these are: into their places of `of_all`."""
    for row in range(marked.shape[0]):
        k = first + row
        at = of_all.start[k]
        for s in range(1, grid.at.size):
            if not marked[row, s]:
                continue
            best, rung, last = table.gains[row, s - 1], table.rungs[row, s - 1], table.rungs[row, s]
            for i in range(grid.at[s - 1] + 1, grid.at[s] + 1):
                best, rung = _worth(of, k, grid.shares[i], best, (rung, last))
                of_all.shares[at], of_all.gains[at] = grid.shares[i], best
                at += 1


@njit(cache=CACHE, nogil=True, error_model="numpy")
def chosen(of: Candidates, importance: Floats, price: float, shares: Floats, gains: Floats) -> float:
    """The candidate that is worth most to each device at a price of the bandwidth, into (device,); their sum.

    Nothing, where none is worth its price.
    """
    total = 0.0
    for k in range(importance.size):
        best, shares[k], gains[k] = 0.0, 0.0, 0.0
        for i in range(of.start[k], of.start[k + 1]):
            value = importance[k] * of.gains[i] - price * of.shares[i]
            if value > best:
                best, shares[k], gains[k] = value, of.shares[i], of.gains[i]
        total += shares[k]
    return total


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _halved(of: Worth, k: int, between: Interval, rungs: RungRange, priced: Priced, bound: float) -> float:
    """`bound`, raised to what no share between two is worth more than, by halving what may be worth more.

    G_k grows with the share, so that no point of an interval is worth more than its right end at the price of its left.
    """
    importance, price, slack = priced
    above = importance * between[3] - price * between[0] - bound
    if above <= slack:  # most of them: no lists are made
        return float(bound + max(above, 0.0))
    held, depth = [between], [0]
    while held:
        left, right, least, most = held.pop()
        d = depth.pop()
        above = importance * most - price * left - bound
        if above <= 0.0:
            continue
        if above <= slack or d >= DEPTH:
            bound += above
            continue
        middle = math.sqrt(left * right) if left > 0.0 else 0.25 * right
        inner = min(_worth(of, k, middle, least, rungs)[0], most)
        bound = max(bound, importance * inner - price * middle)
        held.append((left, middle, least, inner))
        held.append((middle, right, inner, most))
        depth.append(d + 1)
        depth.append(d + 1)
    return bound


@njit(cache=CACHE, nogil=True, error_model="numpy")
def ceilings(of: Worth, table: Table, coarse: Floats, of_all: Candidates, priced: Priced, first: int):  # type: ignore[no-untyped-def]
    """Sum over devices of an upper bound of max over beta of a_k G_k(beta) - price beta; a in `priced` is (device,).

    The rows are those of the devices from `first` on. Candidates are points of the intervals that they lie in.
    """
    total = 0.0
    for row in range(table.gains.shape[0]):
        k = first + row
        one = (priced[0][k], priced[1], priced[2])
        importance, price, _ = one
        bound, at, end = 0.0, of_all.start[k], of_all.start[k + 1]
        for i in range(at, end):
            bound = max(bound, importance * of_all.gains[i] - price * of_all.shares[i])
        for s in range(1, coarse.size):
            left, least, rungs = coarse[s - 1], table.gains[row, s - 1], (table.rungs[row, s - 1], table.rungs[row, s])
            inside = importance * table.gains[row, s] - price * left > bound
            while at < end and of_all.shares[at] <= coarse[s]:
                right, most = of_all.shares[at], of_all.gains[at]
                if inside:
                    bound = _halved(of, k, (left, right, least, most), rungs, one, bound)
                left, least, at = right, most, at + 1
            if inside and left < coarse[s]:
                bound = _halved(of, k, (left, coarse[s], least, table.gains[row, s]), rungs, one, bound)
        total += bound
    return total
