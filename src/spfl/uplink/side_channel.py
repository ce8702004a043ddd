"""The lossy side channel: the floats of a device in a small packet of their own, before the others (model.md, 12).

It meets the fade of the device's other packets of the round. Axis vocabulary: `device`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spfl.arrays import Bools, Floats
from spfl.radio.fade_laws import FadeLaw
from spfl.radio.outage import Link, outage_exponent


@dataclass(frozen=True, eq=False)
class SideChannel:
    """A packet of `bits` a device, sent for `time_s` with `power_w` over an equal share of the bandwidth.

    `snr_gap`, `gap_slope` are those of its code; `fade` is None where fades are Rayleigh's.
    """

    bits: int
    time_s: float
    power_w: float
    snr_gap: float = 1.0
    gap_slope: float = 0.0
    fade: FadeLaw | None = None

    def exponent(self, link: Link) -> Floats:
        """The power fade that each device's packet must meet to arrive, (device,)."""
        load = self.bits / (link.bandwidth_hz * self.time_s)
        with np.errstate(divide="ignore", over="ignore"):
            noise = self.snr_gap * link.bandwidth_hz * link.noise_w_per_hz / (self.power_w * link.gain)
        return outage_exponent(load, 1.0 / link.size, 1.0, noise, self.gap_slope)

    def success(self, link: Link) -> Floats:
        """The chance that each device's packet arrives, (device,)."""
        x = self.exponent(link)
        return np.exp(-x) if self.fade is None else np.asarray(self.fade.sf(x), np.float64)

    def arrives(self, link: Link, fade: Floats) -> Bools:
        """Whose packet arrives at the power fades of a round, (device,)."""
        return np.asarray(fade >= self.exponent(link))

    def joules(self, efficiency: float) -> float:
        """What a device spends on its packet."""
        return self.power_w * self.time_s / efficiency
