"""Packets without a code: bits flip at the rate of the modulation, and what arrives is never wholly lost.

Gray-coded BPSK and square QAM, coherent, at the instantaneous SNR: each packet takes the smallest alphabet whose
symbols fit into its share of bandwidth and time, and sends for all of tau, so a bit has the energy P tau / L. Exact
rates: Cho and Yoon, "On the general BER expression of one- and two-dimensional amplitude modulations", IEEE Trans.
Commun. 2002. Axis vocabulary: `device`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from spfl.arrays import Bools, Floats
from spfl.radio.outage import Link, Outcome, PacketFades, PacketShares, Success

ALPHABETS = (1, 2, 4, 6, 8)  # bits of a symbol: BPSK, QPSK, 16-, 64- and 256-QAM


@cache
def _terms(bits: int) -> tuple[tuple[float, float], ...]:
    """(weight, c) of the bit error rate sum weight erfc(sqrt(c Eb/N0)), averaged over the bits of a symbol."""
    if bits <= 2:
        return ((0.5, 1.0),)
    return tuple(_qam_terms(bits))


def _qam_terms(bits: int) -> Iterator[tuple[float, float]]:
    side = 2 ** (bits // 2)  # amplitudes of either quadrature
    for k in range(1, bits // 2 + 1):
        for i in range(side - side // 2**k):
            step = i * 2 ** (k - 1) / side
            weight = (-1) ** math.floor(step) * (2 ** (k - 1) - math.floor(step + 0.5)) / side
            yield weight / (bits // 2), (2 * i + 1) ** 2 * 3 * bits / (2 * (4 ** (bits // 2) - 1))


def bit_error_rate(bits: int, snr_per_bit: ArrayLike) -> Floats:
    """Rate at which bits flip at an instantaneous Eb/N0, in [0, 1/2]; `bits` of a symbol are one of ALPHABETS."""
    from scipy.special import erfc  # loaded late, as all of SciPy

    snr = np.asarray(snr_per_bit, np.float64)
    return np.asarray(sum(weight * erfc(np.sqrt(c * snr)) for weight, c in _terms(bits)), np.float64)


def mean_bit_error_rate(bits: int, snr_per_bit: ArrayLike) -> Floats:
    """Its mean over a Rayleigh fade, from the mean Eb/N0: E[erfc(sqrt(c g))] = 1 - sqrt(c g / (1 + c g))."""
    snr = np.asarray(snr_per_bit, np.float64)
    # 1 - sqrt(1 - u) = u / (1 + sqrt(1 - u)) with u = 1 / (1 + c g): no cancellation where errors are rare
    rare = [(weight, 1.0 / (1.0 + c * snr)) for weight, c in _terms(bits)]
    return np.asarray(sum(weight * u / (1.0 + np.sqrt(1.0 - u)) for weight, u in rare), np.float64)


@dataclass(frozen=True)
class Sent:
    """One packet of each device: bits of a symbol (0 where none fits) and mean Eb/N0, (device,) each."""

    alphabet: Floats
    snr: Floats

    def rate(self, snr: Floats, *, mean: bool = False) -> Floats:
        """Bit error rates at Eb/N0 (device,), or their means over Rayleigh fades of that mean; 1/2 for nothing sent."""
        found = np.full(snr.shape, 0.5)
        for bits in ALPHABETS:
            rows = self.alphabet == bits
            if rows.any():
                found[rows] = (mean_bit_error_rate if mean else bit_error_rate)(bits, snr[rows])
        return found

    @property
    def there(self) -> Bools:
        return np.asarray(self.alphabet > 0)


def sent_packet(link: Link, bits: Floats, band: Floats, power: Floats) -> Sent:
    """A packet of `bits` in these shares of the bandwidth and of the device's power, (device,) each."""
    symbols = band * link.bandwidth_hz * link.tau_s
    room = [np.asarray(bits <= m * symbols * (1 + 1e-12)) for m in ALPHABETS]
    alphabet = np.select(room, ALPHABETS, 0).astype(np.float64)
    alphabet[(band <= 0) | (power <= 0) | (link.gain <= 0)] = 0.0
    energy = power * link.power_w * link.gain * link.tau_s / np.maximum(bits, 1.0)
    return Sent(alphabet, np.asarray(energy / link.noise_w_per_hz))


@dataclass(frozen=True)
class UncodedLaw:
    """`outage.Law` of a link without a code and with Rayleigh fading.

    A sign that flips with the rate p is on average 1 - 2 p of what it was. So 1 - 2 p, averaged over the fades, stands
    for q_s, by which weights make up for what is lost; and for r_m. What fits into its share always arrives.
    """

    def packets(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> tuple[Sent, Sent]:
        """The first and the second packet of each device."""
        first = sent_packet(link, link.sign_bits, rho * beta, alpha)
        return first, sent_packet(link, link.modulus_bits, (1 - rho) * beta, 1 - alpha)

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """1 - 2 p of both packets in place of probabilities; 1 for a packet of no bits, 0 for one that does not fit."""
        first, second = (1 - 2 * sent.rate(sent.snr, mean=True) for sent in self.packets(link, beta, alpha, rho))
        r_m = np.where(link.modulus_bits > 0, second, 1.0)
        with np.errstate(divide="ignore"):
            return Success(-np.log(first), -np.log(r_m), first, r_m)

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """All packets that fit, with the rates at which their bits flip in this fade."""
        first, second = self.packets(link, *shares)
        signs, moduli = (sent.rate(sent.snr * fade) for sent, fade in zip((first, second), fades, strict=True))
        rates = np.stack([signs, np.where(link.modulus_bits > 0, moduli, signs)])  # one packet may hold both
        modulus = first.there & (second.there | (link.modulus_bits == 0))
        return Outcome(first.there, np.asarray(modulus), bit_errors=rates)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Power fades of this shape."""
        return rng.exponential(size=shape)
