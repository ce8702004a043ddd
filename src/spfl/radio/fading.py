"""Power fades beyond one Exp(1) draw a packet: several a packet, and correlated from round to round.

Axis vocabulary: `device`, `segment`, `subband`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import j0

from spfl.arrays import Complexes, Floats
from spfl.rng import Purpose, server_stream

Shape = tuple[int, ...]


def draw_many(seed: int, round_: int, sign: Shape, modulus: Shape) -> tuple[Floats, Floats]:
    """Independent power fades |h|^2 ~ Exp(1) of these shapes, (device, segment, subband).

    They are drawn segment after segment, so that schemes whose packets have fewer segments meet the same first fades.
    """
    purposes = Purpose.FADING_SIGN, Purpose.FADING_MODULUS
    first, second = (
        _drawn(server_stream(seed, round_, purpose), shape)
        for purpose, shape in zip(purposes, (sign, modulus), strict=True)
    )
    return first, second


def _drawn(rng: np.random.Generator, shape: Shape) -> Floats:
    devices, segments, subbands = shape
    return np.moveaxis(rng.exponential(size=(segments, devices, subbands)), 0, 1)


def round_correlation(doppler_hz: float, round_s: float) -> float:
    """Clarke's correlation J_0(2 pi f_D T) of the complex gain between rounds T apart (Jakes' spectrum)."""
    return float(j0(2.0 * np.pi * doppler_hz * round_s))


class CorrelatedFades:
    """Rayleigh fades by h_t = a h_{t-1} + sqrt(1 - a^2) w_t with w_t ~ CN(0, 1) from the stream of round t.

    A function of (seed, round) alone: what is remembered saves time only. After a resume, and for an earlier round, the
    rounds before are drawn again, at some 20 us each.
    """

    def __init__(self, seed: int, shape: Shape, correlation: float, purpose: Purpose) -> None:
        self._seed, self._shape, self._correlation, self._purpose = seed, shape, correlation, purpose
        self._last: tuple[int, Complexes] = (0, np.zeros(shape, np.complex128))

    def power(self, round_: int) -> Floats:
        """|h_t|^2 of round t = 1, 2, ...; Exp(1) in every round."""
        at, gain = self._last if self._last[0] <= round_ else (0, np.zeros(self._shape, np.complex128))
        for t in range(at + 1, round_ + 1):
            fresh = self._fresh(t)
            gain = fresh if t == 1 else self._correlation * gain + np.sqrt(1.0 - self._correlation**2) * fresh
        self._last = (round_, gain)
        return np.asarray(gain.real**2 + gain.imag**2)

    def _fresh(self, round_: int) -> Complexes:
        """Of one segment after the other, as in `draw_many`."""
        rng = server_stream(self._seed, round_, self._purpose)
        devices, *more = self._shape
        drawn = (more[0], 2, devices, *more[1:]) if more else (2, devices)
        parts = rng.standard_normal(drawn) * np.sqrt(0.5)
        if not more:
            return np.asarray(parts[0] + 1j * parts[1])
        return np.moveaxis(parts[:, 0] + 1j * parts[:, 1], 0, 1)
