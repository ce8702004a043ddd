"""Joules and seconds that a round costs each device: transmission, and computation by cycles per sample.

Computation after Yang, Chen, Saad, Hong, Shikh-Bahaei, "Energy efficient federated learning over wireless communication
networks", IEEE Trans. Wireless Commun. 2021: C cycles a sample and D samples at f hertz take C D / f seconds and
kappa C D f^2 joules, kappa the effective switched capacitance. Axis vocabulary: `device`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, Floats
from spfl.config.radio import DeviceConfig
from spfl.radio import over_the_air
from spfl.radio.outage import Link
from spfl.rng import SETUP_ROUND, Purpose, server_stream, stream
from spfl.scheme import Scheme


@dataclass(frozen=True)
class Spent:
    """What a round costs each device of the cohort, (device,): `joules` in all, `compute_s`, and `uplink_s` on the air.

    A round lasts until the slowest gradient is there, plus the uplink; or `elapsed_s`, where rounds overlap.
    """

    joules: Floats
    compute_s: Floats
    uplink_s: Floats
    elapsed_s: float | None = None

    @property
    def latency_s(self) -> Floats:
        """Seconds in which a device is busy, (device,)."""
        return self.compute_s + self.uplink_s

    @property
    def round_s(self) -> float:
        """Seconds of the whole round."""
        if self.elapsed_s is not None:
            return self.elapsed_s
        return float(self.compute_s.max() + self.uplink_s.max())


def spend(device: DeviceConfig, power_w: Floats, airtime_s: Floats, samples: ArrayLike, clock_hz: Floats) -> Spent:
    """The cost of a round: who radiates `power_w` does so for `airtime_s`; `samples` are computed, each (device,)."""
    uplink_s = np.where(power_w > 0, airtime_s, 0.0)
    cycles = device.cycles_per_sample * np.asarray(samples, np.float64)
    compute_j = device.switched_capacitance_f * cycles * clock_hz**2
    return Spent(power_w * uplink_s / device.amplifier_efficiency + compute_j, cycles / clock_hz, uplink_s)


def transmit_power(scheme: Scheme, link: Link, allocation: AllocationResult, sent: Bools, fade: Floats) -> Floats:
    """Radiated watt, (device,): alpha P for the sign packet, the rest for a modulus packet that is sent.

    An analogue uplink inverts the channel and stays silent where it cannot; `sent` and `fade` matter to it only. An
    ideal uplink is charged like a packet.
    """
    if scheme.uplink == "analog":
        target_w = over_the_air.receive_power(link, allocation.beta > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(sent, target_w / (link.gain * fade), 0.0)
    scheduled, both = allocation.beta > 0, (allocation.rho < 1) & (allocation.alpha < 1)
    share = np.where(both | (scheme.uplink != "split"), 1.0, allocation.alpha)
    return np.where(scheduled, share * link.power_w, 0.0)


def slowdown(device: DeviceConfig, seed: int, round_: int, member: int) -> float:
    """How many times longer than at its clock a device computes in a round: log-normal of median 1."""
    return float(np.exp(device.cpu_jitter * stream(seed, round_, member, Purpose.JITTER).standard_normal()))


def clocks_hz(device: DeviceConfig, devices: int, seed: int) -> Floats:
    """Processor clocks, (device,): log-uniform between cpu_hz / cpu_spread and cpu_hz."""
    uniform = server_stream(seed, SETUP_ROUND, Purpose.CLOCK).random(devices)
    return np.asarray(device.cpu_hz / device.cpu_spread**uniform)
