"""Block fading by other laws than Rayleigh's: Rician, Nakagami and log-normal power fades of mean one.

A packet survives a fade g of at least its outage exponent x (model.md, section 3), whatever the law of g. So
q_s = S(x_s) and r_m = S(max(x_s, x_m)) / S(x_s) with S(x) = Pr[g >= x]; Rayleigh fading has S = exp(-x).
To add a law: a name in `config.radio.ChannelConfig.fading` with its parameter, and a row in `fade_law`.
Axis vocabulary: `device`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from spfl.arrays import Floats
from spfl.config.radio import ChannelConfig
from spfl.radio.outage import Link, Outcome, PacketFades, PacketShares, Success, conditional, success, transmit
from spfl.units import db_to_linear

LAWS = "rician", "nakagami", "lognormal"
NEPER_PER_DB = math.log(10.0) / 10.0


class FadeLaw(Protocol):
    """A distribution of power fades as SciPy freezes it: of mean one, on (0, inf)."""

    def sf(self, x: Any) -> Any:
        """Pr[g > x]."""

    def ppf(self, q: Any) -> Any:
        """The inverse of Pr[g <= x]."""

    def rvs(self, size: Any, random_state: np.random.Generator) -> Any:
        """Draws of this shape."""


def fade_law(channel: ChannelConfig) -> FadeLaw | None:
    """The law of the power fades of a channel; None where it is Rayleigh's.

    rician: |h|^2 of a line of sight with K times the power of the scattered rest, 2 (K + 1) g ~ chi2(2, 2 K).
    nakagami: g ~ Gamma(m, 1/m); m = 1 is Rayleigh's. lognormal: ln g ~ N(-s^2/2, s^2), s in neper of fade_spread_db.
    """
    if channel.fading not in LAWS:
        return None
    from scipy import stats  # a second and 40 MiB, which other runs do without

    k, m, s = db_to_linear(channel.rician_k_db), channel.nakagami_m, NEPER_PER_DB * channel.fade_spread_db
    laws: dict[str, FadeLaw] = {
        "rician": stats.ncx2(2, 2 * k, scale=0.5 / (k + 1.0)),
        "nakagami": stats.gamma(m, scale=1.0 / m),
        "lognormal": stats.lognorm(s, scale=math.exp(-0.5 * s * s)),
    }
    return laws[channel.fading]


@dataclass(frozen=True, eq=False)
class FadedLaw:
    """`outage.Law` of block fading with power fades of any law.

    `snr_gap`, `gap_slope` are those of the code; the `Link` has those by which the allocator reckons.
    """

    fade: FadeLaw
    snr_gap: float = 1.0
    gap_slope: float = 0.0

    def exponents(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """x_s and x_m that a fade must reach, with the true gap; q_s and r_m are Rayleigh's."""
        true = replace(link, snr_gap=self.snr_gap, gap_slope=self.gap_slope, law=None)
        return success(true, beta, alpha, rho)

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """Success probabilities as drawn."""
        x = self.exponents(link, beta, alpha, rho)
        q_s, both = self.fade.sf(x.x_s), self.fade.sf(np.maximum(x.x_s, x.x_m))
        r_m = conditional(both, q_s)
        return Success(x.x_s, x.x_m, q_s, r_m)

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """Which packets arrive. `fades`: the one fade of both packets, (device,), twice."""
        return transmit(self.exponents(link, *shares), fades)

    def allocators_gap(self) -> tuple[float, float]:
        """(snr_gap, gap_slope) with which exp(-x) has success 1/2 at the SNR at which this law has."""
        return self.snr_gap * math.log(2.0) / float(self.fade.ppf(0.5)), self.gap_slope

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Power fades."""
        return np.asarray(self.fade.rvs(size=shape, random_state=rng), np.float64)
