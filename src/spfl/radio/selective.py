"""Links beyond the closed form of model.md, section 3: frequency-selective fades, segments, measured block error rates.

A packet of rate r (bit/s/Hz) at SNR S is cut into n segments, each spread over F subbands with fades g_f of its own.
A segment arrives if its mutual information I = mean_f log2(1 + S g_f / Gamma(r)) reaches r; or, with measured curves,
with probability 1 - BLER(2^I - 1). With F = n = 1 and no curves this is the closed form.
Axis vocabulary: `device`, `segment`, `subband`, `point` (of a grid).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from spfl.arrays import Bools, Floats, Indices
from spfl.radio.outage import Link, Outcome, PacketFades, PacketShares, Success, by_segment, conditional

Recovery = Literal["all", "segment"]
Curves = Callable[[Floats, Floats], Floats]  # (rate, SNR) that broadcast -> block error rate

POINTS = 1024  # of the grid on which mutual information is added up over subbands
QUANTILES = 2048  # of a fade, to average over
FADES = -np.log1p(-(np.arange(QUANTILES) + 0.5) / QUANTILES)


class Packet(NamedTuple):
    """Rate in bit/s/Hz and mean SNR of a packet, each (device,); 0 bits have rate 0, no bandwidth or power has SNR 0.

    `curves`: its error rates, where they are measured.
    """

    rate: Floats
    snr: Floats
    curves: Curves | None = None


@dataclass(frozen=True)
class RadioLaw:
    """`outage.Law` with F `subbands`, segments, and recovery of all or nothing or segment by segment.

    `snr_gap`, `gap_slope`: Gamma(r) = snr_gap exp(gap_slope r), not that of the `Link`, by which the allocator reckons.
    `curves`: measured error rates of a segment of the sign and of the modulus packet, in place of the gap.
    `parity` Reed-Solomon segments go with the `sign_segments` of a sign packet: as many of all as those tell it. Where
    packets differ in length, `sign_segments` is (device,), without parity.
    """

    subbands: int = 1
    sign_segments: int | Indices = 1
    modulus_segments: int = 1
    recovery: Recovery = "all"
    snr_gap: float = 1.0
    gap_slope: float = 0.0
    curves: tuple[Curves, Curves] | None = None
    parity: int = 0

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """Success probabilities as drawn; by segment, where segments are recovered one by one. x = -ln q."""
        sign, modulus = self._packets(link, beta, alpha, rho)
        if link.fading == "block":
            p_s = self._arrives(sign, FADES[None, :], self.sign_segments, self.parity)
            p_m = self._arrives(modulus, FADES[None, :], self.modulus_segments)
            q_s, both = p_s.mean(1), (p_s * p_m).mean(1)
            r_m = conditional(both, q_s)
        else:
            q_s = self._recovered(self.segment_success(sign), self.sign_segments, self.parity)
            r_m = self._recovered(self.segment_success(modulus), self.modulus_segments)
        with np.errstate(divide="ignore"):
            return Success(-np.log(q_s), -np.log(r_m), q_s, r_m)

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """Which packets arrive. `fades`: (device,) for block fading, else (device, segment, subband)."""
        packets_ = self._packets(link, *shares)
        counts = int(np.max(self.sign_segments)) + self.parity, self.modulus_segments
        sign, modulus = (self._draw(*each, rng) for each in zip(packets_, fades, counts, strict=True))
        sign = decoded(sign, self.sign_segments, self.parity)
        if self.recovery == "all":
            whole = np.asarray(sign.sum(1) == self.sign_segments)
            return Outcome(whole, whole & np.asarray(modulus.all(1)))
        return by_segment(sign, modulus)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Rayleigh fades."""
        return rng.exponential(size=shape)

    def segment_success(self, packet: Packet) -> Floats:
        """Pr[a segment arrives], (device,), averaged over its own fades."""
        rate, snr = packet.rate, self._backed_off(packet)
        if self.subbands == 1 and packet.curves is None:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return np.where(rate > 0, np.exp(-np.expm1(rate * np.log(2)) / snr), 1.0)
        if packet.curves is None:
            return np.where(rate > 0, 1.0 - information_below(rate, snr, self.subbands), 1.0)
        edges, mass = information(snr, self.subbands)
        return np.where(rate > 0, (mass * (1.0 - packet.curves(rate[:, None], np.exp2(edges) - 1.0))).sum(1), 1.0)

    def _backed_off(self, packet: Packet) -> Floats:
        if packet.curves is not None:
            return packet.snr
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(packet.snr / (self.snr_gap * np.exp(self.gap_slope * np.minimum(packet.rate, 1e3))))

    def _packets(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> tuple[Packet, Packet]:
        sign, modulus = packets(link, beta, alpha, rho)
        if self.curves is None:
            return sign, modulus
        return sign._replace(curves=self.curves[0]), modulus._replace(curves=self.curves[1])

    def sent_success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> tuple[Floats, Floats]:
        """Pr[a segment arrives by itself], without the help of parity, of either packet, (device,)."""
        sign, modulus = self._packets(link, beta, alpha, rho)
        return self.segment_success(sign), self.segment_success(modulus)

    def _recovered(self, probability: Floats, segments: int | Indices, parity: int = 0) -> Floats:
        """Pr[a segment is recovered], or Pr[all are] with recovery of all; from Pr[one arrives], any shape."""
        if not (parity and isinstance(segments, int)):
            return probability**segments if self.recovery == "all" else probability
        if self.recovery == "all":
            return at_least(segments, segments + parity, probability)
        others = at_least(segments, segments + parity - 1, probability)
        return probability + (1.0 - probability) * others

    def _arrives(self, packet: Packet, fade: Floats, segments: int | Indices, parity: int = 0) -> Floats:
        """Pr[arrives | fade] under block fading, (device, point)."""
        rate, snr = packet.rate[:, None], self._backed_off(packet)[:, None] * fade
        if packet.curves is None:
            return np.where(rate > 0, np.log2(1.0 + snr) >= rate, True).astype(np.float64)
        count = segments if isinstance(segments, int) else segments[:, None]
        return np.where(rate > 0, self._recovered(1.0 - packet.curves(rate, snr), count, parity), 1.0)

    def _draw(self, packet: Packet, fade: Floats, segments: int, rng: np.random.Generator) -> Bools:
        """Which segments arrive, (device, segment)."""
        fade = fade.reshape(*fade.shape, *([1] * (3 - fade.ndim)))[:, :segments]
        rate, snr = packet.rate[:, None], self._backed_off(packet)[:, None, None]
        bits = np.log2(1.0 + snr * fade).mean(2)
        if packet.curves is None:
            arrived = bits >= rate
        else:
            chance = 1.0 - packet.curves(rate, np.exp2(bits) - 1.0)
            arrived = rng.random((rate.shape[0], segments)) < chance
        return np.broadcast_to(arrived | (rate == 0), (rate.shape[0], segments))


def at_least(least: int, count: int, probability: Floats) -> Floats:
    """Pr[at least `least` of `count` independent events], of one probability each, any shape."""
    terms = (math.comb(count, j) * probability**j * (1.0 - probability) ** (count - j) for j in range(least, count + 1))
    return np.minimum(sum(terms, np.zeros(np.shape(probability))), 1.0)


def decoded(arrived: Bools, segments: int | Indices, parity: int = 0) -> Bools:
    """The data segments that are had, (device, segment), of `arrived` (device, data and parity)."""
    count, place = np.reshape(segments, (-1, 1)), np.arange(arrived.shape[1])
    enough = (arrived & (place < count + parity)).sum(1, keepdims=True) >= count
    return np.asarray((arrived | enough) & (place < count))[:, : int(count.max())]


def packets(link: Link, beta: Floats, alpha: Floats, rho: Floats) -> tuple[Packet, Packet]:
    """The sign and the modulus packet of every device, without any SNR gap."""
    noise = link.noise_to_signal / link.snr_gap
    return (
        _packet(link.sign_load, rho * beta, alpha, noise),
        _packet(link.modulus_load, (1.0 - rho) * beta, 1.0 - alpha, noise),
    )


def _packet(load: Floats, bandwidth: Floats, power: Floats, noise: Floats) -> Packet:
    sent = (bandwidth > 0) & (power > 0) & np.isfinite(noise)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rate = np.where(load > 0, np.where(sent, load / bandwidth, np.inf), 0.0)
        return Packet(rate, np.where(sent, power / (noise * bandwidth), 0.0))


def information_below(rate: Floats, snr: Floats, subbands: int) -> Floats:
    """Pr[mean_f log2(1 + snr g_f) < rate] for F independent g_f ~ Exp(1), (device,).

    F - 1 terms are added up on an even grid from 0 to F rate (what lies above cannot fail), the last by its exact law.
    """
    out = np.ones(rate.shape)
    sent = (snr > 0) & (rate < 1e3)
    if not sent.any():
        return out
    rate, snr = rate[sent, None], snr[sent, None]
    step = subbands * rate / POINTS
    terms = subbands - 1
    mass = np.diff(_term_below(np.arange(POINTS + 1) * step, snr), axis=1)
    sums = _fold(mass, terms)[:, :POINTS]
    left = np.maximum(POINTS - np.arange(POINTS) - terms / 2.0, 0.0) * step  # each term lies in the middle of its cell
    out[sent] = np.clip((sums * _term_below(left, snr)).sum(1), 0.0, 1.0)
    return out


def _term_below(bits: Floats, snr: Floats) -> Floats:
    """Pr[log2(1 + snr g) < bits]."""
    with np.errstate(over="ignore"):
        return np.asarray(-np.expm1(-np.expm1(bits * np.log(2)) / snr))


def information(snr: Floats, subbands: int) -> tuple[Floats, Floats]:
    """(values, masses) of mean_f log2(1 + snr g_f), each (device, point)."""
    top = np.log2(1.0 + 45.0 * np.maximum(snr, 1e-12))[:, None]  # Pr[g > 45] < 1e-19
    step = top / POINTS
    below = _term_below(np.arange(POINTS + 1) * step, np.maximum(snr, 1e-300)[:, None])
    sums = _fold(np.diff(below, axis=1), subbands)
    return (np.arange(sums.shape[1]) + subbands / 2.0) * step / subbands, sums


def _fold(mass: Floats, times: int) -> Floats:
    """The law of a sum of `times` independent terms, (device, times * point)."""
    if times == 1:
        return mass
    size = times * mass.shape[1]
    return np.maximum(np.fft.irfft(np.fft.rfft(mass, size, axis=1) ** times, size, axis=1), 0.0)


RATES = np.linspace(0.25, 6.0, 24)  # bit/s/Hz, over which the allocator's gap is fitted


def allocators_gap(law: RadioLaw, block: bool, segments: int = 1) -> tuple[float, float]:
    """(snr_gap, gap_slope) of the closed form exp(-x) that has the law's own SNR at success 1/2, over `RATES`."""
    low, high = np.full(RATES.size, 1e-6), np.full(RATES.size, 1e9)
    for _ in range(60):
        middle = np.sqrt(low * high)
        packet = Packet(RATES, middle, law.curves and law.curves[0])
        if block:
            q = law._arrives(packet, FADES[None, :], segments, law.parity).mean(1)
        else:
            q = law._recovered(law.segment_success(packet), segments, law.parity)
        low, high = np.where(q < 0.5, middle, low), np.where(q < 0.5, high, middle)
    gap = np.log(2.0) * high / np.expm1(RATES * np.log(2))
    return fit_gap(RATES, gap)


def fit_gap(rate: Floats, gap: Floats) -> tuple[float, float]:
    """(snr_gap, gap_slope): least squares of ln Gamma(R) = ln snr_gap + gap_slope R, with gap_slope >= 0."""
    log_gap = np.log(gap)
    slope = max(float(np.polyfit(rate, log_gap, 1)[0]), 0.0) if rate.size > 1 else 0.0
    return float(np.exp(np.mean(log_gap - slope * rate))), slope
