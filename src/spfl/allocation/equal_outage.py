"""Bandwidths at which every device has the same probability of outage (FedTOE, Wang et al., arXiv 2106.09397)."""

from __future__ import annotations

import numpy as np

from spfl.allocation.bound import Devices
from spfl.arrays import Floats
from spfl.radio.outage import Link, outage_exponent

STEPS = 60


def equal_outage(devices: Devices, link: Link) -> tuple[Floats, Floats]:
    """Shares of the bandwidth (device,) that give all devices one outage exponent; and the link's own power split.

    The exponent of a packet falls with its bandwidth, so the share that a device needs for an exponent, and the
    exponent at which all shares sum to one, are both found by bisection. A device of no weight or gain gets nothing.
    """
    active = (devices.weight > 0) & (devices.v2 > 0) & (link.power_w * link.gain > 0)
    low, high = -30.0, 30.0  # of the logarithm of the exponent
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        crowded = _needed(link, np.exp(middle))[active].sum() > 1.0
        low, high = (middle, high) if crowded else (low, middle)
    beta = np.where(active, _needed(link, np.exp(high)), 0.0)
    return beta / max(float(beta.sum()), 1.0), np.array(link.split)


def _needed(link: Link, exponent: float) -> Floats:
    """The smallest share of each device with at most this exponent; 1 where none has."""
    low, high = np.zeros(link.size), np.ones(link.size)
    load = link.sign_load + link.modulus_load
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        good = outage_exponent(load, middle, 1.0, link.noise_to_signal, link.gap_slope) <= exponent
        low, high = np.where(good, low, middle), np.where(good, middle, high)
    return high
