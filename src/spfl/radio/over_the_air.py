"""One-bit over-the-air aggregation: all devices send their signs at once, and the air adds them up.

After Zhu, Du, Gunduz, Huang, "One-bit over-the-air aggregation for communication-efficient federated edge learning",
IEEE Trans. Wireless Commun. 2021 (OBDA): QPSK, two signs a symbol; truncated channel inversion. A device knows its
channel, inverts it so that its symbols arrive with a common power, and stays silent when that would take more than
its own power. The server learns the sum of the signs plus noise, and no packet.

Ours, because the link here is quasi-static and the mean gains differ: the power P is a limit in every round, as it is
for the other schemes, not a mean over fades; each sign is repeated as often as the bandwidth and time of all devices
together allow; and the common receive power is chosen by the mean gains (`receive_power`). A device may know its phase
badly: its symbols then arrive turned by an angle that stays for the round (`turned`). Linear gains, watt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Floats
from spfl.radio.outage import Link

SIGNS_A_SYMBOL = 2
GRID = 512


def repetitions(link: Link) -> int:
    """How often each of the d signs (the link's `sign_bits`) fits into the B tau symbols of a round."""
    symbols = link.bandwidth_hz * float(link.tau_s.min())
    return int(SIGNS_A_SYMBOL * symbols / max(float(link.sign_bits.max()), 1.0))


def noise_variance(link: Link, power_w: float) -> float:
    """Variance of the noise on a sum of signs, in squared votes, at a receive power; inf without room for the signs.

    A real dimension carries half of the symbol's power and half of its noise N_0 B; the mean of R repetitions 1/R.
    """
    slots = repetitions(link)
    return link.noise_w_per_hz * link.bandwidth_hz / (slots * power_w) if slots else math.inf


def participation(link: Link, power_w: float | Floats) -> Floats:
    """Pr[a device can afford the receive power] = Pr[P zeta |h|^2 >= power_w], shape (device,)."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(-power_w / (link.power_w * link.gain)))


def receive_power(link: Link, active: NDArray[np.bool_]) -> float:
    """The common receive power in watt that maximises (sum_k p_k)^2 / (sum_k p_k + noise variance).

    That is the squared mean of the sum of signs over its spread, for signs that agree with p_k of devices taking part.
    High powers drown the noise, low powers let more devices take part. 0 when nobody can be received.
    """
    reach = (link.power_w * link.gain)[active]
    reach = reach[reach > 0]
    if not reach.size or not repetitions(link):
        return 0.0
    powers = np.geomspace(1e-4 * reach.min(), 3.0 * reach.max(), GRID)
    received = np.exp(-powers[:, None] / reach).sum(axis=1)
    noise = noise_variance(link, 1.0) / powers
    return float(powers[np.argmax(received**2 / (received + noise))])


def turned(values: NDArray[np.float32], angle_rad: float) -> NDArray[np.float32]:
    """Real values (dim,), two a complex symbol, as they arrive when the carrier is off by an angle.

    The values at even places are the real part, those at odd places the imaginary part; a phase error mixes the two.
    """
    cos, sin = np.float32(math.cos(angle_rad)), np.float32(math.sin(angle_rad))
    out = values * cos
    pairs = len(values) - len(values) % 2
    real, imaginary = values[0:pairs:2], values[1:pairs:2]
    out[0:pairs:2] -= imaginary * sin
    out[1:pairs:2] += real * sin
    return out


def superpose(
    values: Iterable[NDArray[np.float32]], dim: int, variance: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Sum of the signs or values (dim,) of the devices taking part, with noise, in votes."""
    votes = np.zeros(dim, np.float32)
    for vector in values:
        votes += vector
    return votes + np.float32(math.sqrt(variance)) * rng.standard_normal(dim, np.float32)
