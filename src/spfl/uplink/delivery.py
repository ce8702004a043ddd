"""What the fades let through: which packets of a round arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, Floats
from spfl.radio import harq, over_the_air
from spfl.radio.outage import Link, Outcome, PacketFades, level, transmit
from spfl.scheme import Scheme
from spfl.uplink.scheduling import probabilities
from spfl.uplink.upload import Upload, signs_of


def deliver(
    scheme: Scheme,
    uploads: Sequence[Upload],
    link: Link,
    allocation: AllocationResult,
    fades: PacketFades,
    rng: np.random.Generator,
) -> Outcome:
    """What arrives. `rng` draws the fades of repetitions (independent of the first) and an analogue uplink's noise."""
    if scheme.uplink == "analog":
        return _superpose(scheme, uploads, link, allocation, level(fades[0]), rng)
    if scheme.combining == "incremental":
        sent = allocation.beta > 0
        got = harq.decoded(link, allocation.beta, [fade for fade, _ in _attempts(fades, scheme.attempts, link, rng)])
        return Outcome(sent & got, sent & got)
    if allocation.adapted:
        sent = allocation.beta > 0
        return Outcome(sent, sent)
    every = _attempts(fades, scheme.attempts, link, rng)
    if link.law is None:
        odds = probabilities(link, allocation)
        attempts = [transmit(odds, fade) for fade in every]
    else:
        shares = allocation.beta, allocation.alpha, allocation.rho
        attempts = [link.law.transmit(link, shares, fade, rng) for fade in every]
    return Outcome(
        np.any([a.sign for a in attempts], axis=0),
        np.any([a.modulus for a in attempts], axis=0),
        sign_segments=_any([a.sign_segments for a in attempts]),
        modulus_segments=_any([a.modulus_segments for a in attempts]),
        bit_errors=attempts[0].bit_errors,
    )


def _any(parts: Sequence[Bools | None]) -> Bools | None:
    return None if parts[0] is None else np.any([part for part in parts if part is not None], axis=0)


def _attempts(fades: PacketFades, attempts: int, link: Link, rng: np.random.Generator) -> Iterator[PacketFades]:
    yield fades
    for _ in range(1, attempts):
        draw = (rng.exponential(size=f.shape) if link.law is None else link.law.draw(rng, f.shape) for f in fades)
        sign, modulus = draw
        yield sign, sign if link.fading == "block" else modulus


def _superpose(
    scheme: Scheme,
    uploads: Sequence[Upload],
    link: Link,
    allocation: AllocationResult,
    fade: Floats,
    rng: np.random.Generator,
) -> Outcome:
    active = allocation.beta > 0
    power_w = over_the_air.receive_power(link, active)
    sent = active & (link.power_w * link.gain * fade >= power_w) & (power_w > 0)
    gradients = [
        u.gradient for u, takes_part in zip(uploads, sent, strict=True) if takes_part and u.gradient is not None
    ]
    if power_w == 0:
        return Outcome(sent, sent)
    variance = over_the_air.noise_variance(link, power_w)
    if scheme.rule == "mean":
        unit = analog_unit(uploads)
        weights = [np.float32(u.samples / unit) for u, takes_part in zip(uploads, sent, strict=True) if takes_part]
        gradients = [weight * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    else:
        gradients = [signs_of(gradient) for gradient in gradients]
    if link.phase_error_rad:
        angles = rng.normal(0.0, link.phase_error_rad, len(uploads))[sent]
        gradients = [over_the_air.turned(*pair) for pair in zip(gradients, angles, strict=True)]
    return Outcome(sent, sent, over_the_air.superpose(gradients, int(link.sign_bits.max()), variance, rng))


def analog_unit(uploads: Sequence[Upload]) -> float:
    """What one unit of amplitude stands for in an analogue mean: the largest root mean square of n_k g_k.

    All devices scale by it, so that none needs more than the common receive power on average over its coordinates.
    """
    sizes = [u.samples * np.sqrt(u.v2 / max(u.gradient.size, 1)) for u in uploads if u.gradient is not None]
    return float(max(sizes, default=0.0)) or 1.0
