"""The link of each device as it was measured: how many of its datagrams arrived, and what that makes of a `Link`.

Axis vocabulary: `kind` (sign, modulus), `device`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Floats
from spfl.radio.outage import Link
from spfl.radio.selective import Recovery, at_least
from spfl.radio.trace import RateLaw, gain_of_rate

PRIOR_RATE, PRIOR_COUNT = 0.9, 2.0  # what is believed of a device that was never received, and for how many datagrams
FORGET = 0.95  # what a datagram of a round before counts: a link changes within some twenty rounds


@dataclass(frozen=True)
class Pieces:
    """In how many datagrams packets travel, with how many of parity, and what a lost one costs."""

    sign: int
    modulus: int
    parity: int
    recovery: Recovery


def new_counts(devices: int) -> NDArray[np.float32]:
    """Datagrams that arrived and that were sent, by kind: (2, kind, device), as a checkpoint holds them."""
    return np.zeros((2, 2, devices), np.float32)


def counted(counts: NDArray[np.float32], devices: Sequence[int], arrived: Floats, sent: Floats) -> NDArray[np.float32]:
    """The counts after a round; `arrived` and `sent` are (kind, device of the round)."""
    after = counts.copy()
    after[:, :, list(devices)] = np.float32(FORGET) * after[:, :, list(devices)] + np.stack([arrived, sent])
    return after


def arrival_rates(counts: NDArray[np.float32]) -> Floats:
    """The probability that a datagram arrives, (kind, device)."""
    arrived, sent = counts.astype(np.float64)
    return np.asarray((arrived + PRIOR_RATE * PRIOR_COUNT) / (sent + PRIOR_COUNT))


def packet_rates(rates: Floats, pieces: Pieces) -> tuple[Floats, Floats]:
    """The success probabilities of sign and of modulus packets, (device,); of a piece where those count."""
    sign, modulus, n, m = rates[0], rates[1], pieces.sign, pieces.parity
    if pieces.recovery == "all":
        return at_least(n, n + m, sign), modulus**pieces.modulus
    return sign + (1.0 - sign) * at_least(n, n + m - 1, sign) if m else sign, modulus


def measured_link(link: Link, cohort: Sequence[int], counts: NDArray[np.float32], pieces: Pieces) -> Link:
    """The link of a cohort with measured success rates in place of the channel model's.

    Gains are those at which an equal share has the measured rate, so the allocator gives a bad link more.
    """
    sign, modulus = packet_rates(arrival_rates(counts)[:, list(cohort)], pieces)
    plain = replace(link, gain=np.ones(link.size), law=RateLaw(sign, modulus), fading="independent")
    return replace(plain, gain=gain_of_rate(plain, sign))
