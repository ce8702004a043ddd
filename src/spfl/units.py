"""The only place where units are converted. Numerics elsewhere are linear and SI: watt, hertz, second, bit."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

FloatOrArray = TypeVar("FloatOrArray", float, NDArray[np.float64])


def db_to_linear(value_db: FloatOrArray) -> FloatOrArray:
    """Power ratio of a level in decibel: 10^(dB/10)."""
    return cast(FloatOrArray, 10.0 ** (value_db / 10.0))


def linear_to_db(ratio: FloatOrArray) -> FloatOrArray:
    """Level in decibel of a power ratio; minus infinity for zero."""
    with np.errstate(divide="ignore"):
        return cast(FloatOrArray, 10.0 * np.log10(ratio))


def dbm_to_watt(value_dbm: FloatOrArray) -> FloatOrArray:
    """Power in watt of a level in dBm (0 dBm = 1 mW)."""
    return cast(FloatOrArray, 1e-3 * 10.0 ** (value_dbm / 10.0))


def watt_to_dbm(power_w: FloatOrArray) -> FloatOrArray:
    """Level in dBm of a power in watt."""
    return linear_to_db(cast(FloatOrArray, power_w * 1e3))


def metre_to_km(distance_m: FloatOrArray) -> FloatOrArray:
    """Kilometres; the path-loss formulas of the standards use them."""
    return cast(FloatOrArray, distance_m / 1e3)
