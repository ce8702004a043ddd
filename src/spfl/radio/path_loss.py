"""Where the devices of a cell are, and their mean power gains by path loss and shadowing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spfl.arrays import Floats
from spfl.rng import Purpose, server_stream
from spfl.units import db_to_linear, metre_to_km


@dataclass(frozen=True)
class Cell:
    """A disc of devices around one base station: distances (device,) in metre, mean power gains (device,), linear."""

    distance_m: Floats
    gain: Floats


def drop_cell(
    devices: int,
    *,
    seed: int,
    round_: int,
    min_distance_m: float,
    radius_m: float,
    shadowing_db: float,
) -> Cell:
    """Place devices uniformly in area between the two radii; path loss and log-normal shadowing give the gains.

    `shadowing_db` is the standard deviation of the shadowing in dB (0 for none).
    """
    uniform = server_stream(seed, round_, Purpose.PLACEMENT).random(devices)
    distance_m = np.sqrt(min_distance_m**2 + uniform * (radius_m**2 - min_distance_m**2))
    shadow = shadowing_db * server_stream(seed, round_, Purpose.SHADOWING).standard_normal(devices)
    return Cell(distance_m, db_to_linear(shadow - path_loss_db(distance_m)))


def path_loss_db(distance_m: Floats) -> Floats:
    """128.1 + 37.6 log10(d_km): the 3GPP macro-cell model at 2 GHz (TR 36.814), in dB."""
    return np.asarray(128.1 + 37.6 * np.log10(metre_to_km(distance_m)))


def scale_to_median_snr(gain: Floats, median_snr: float, power_w: Floats, link_noise_w: float) -> Floats:
    """Gains rescaled so that the median device has this SNR (linear) over an equal share of the bandwidth.

    `link_noise_w` is N_0 B / K in watt. Keeps the spread between devices: the knob of the resource studies.
    """
    snr = power_w * gain / link_noise_w
    return np.asarray(gain * (median_snr / np.median(snr)))
