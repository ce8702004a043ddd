"""The only place where units are converted. Numerics elsewhere are linear and SI: watt, hertz, second, bit."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FloatOrArray = TypeVar("FloatOrArray", float, NDArray[np.float64])


def db_to_linear(value_db: FloatOrArray) -> FloatOrArray:
    """Power ratio of a level in decibel: 10^(dB/10)."""
    ratio: FloatOrArray = 10.0 ** (value_db / 10.0)
    return ratio


def linear_to_db(ratio: FloatOrArray) -> FloatOrArray:
    """Level in decibel of a power ratio; minus infinity for zero."""
    with np.errstate(divide="ignore"):
        level_db: FloatOrArray = 10.0 * np.log10(ratio)
    return level_db


def dbm_to_watt(value_dbm: FloatOrArray) -> FloatOrArray:
    """Power in watt of a level in dBm (0 dBm = 1 mW)."""
    power_w: FloatOrArray = 1e-3 * 10.0 ** (value_dbm / 10.0)
    return power_w


def watt_to_dbm(power_w: FloatOrArray) -> FloatOrArray:
    """Level in dBm of a power in watt."""
    milliwatt: FloatOrArray = power_w * 1e3
    return linear_to_db(milliwatt)


def metre_to_km(distance_m: FloatOrArray) -> FloatOrArray:
    """Kilometres; the path-loss formulas of the standards use them."""
    return distance_m / 1e3
