"""The link budget of a configuration, before anything is run: what a packet costs, and how often it would arrive.

All devices of a cohort share the bandwidth equally, and each splits bandwidth and power by the bits of its two packets.
An allocation does better than that; the table says how hard the link is. Axis vocabulary: `device`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spfl.arrays import Floats
from spfl.radio.outage import Success, success
from spfl.schemes import SCHEMES
from spfl.units import linear_to_db
from spfl.world.world import World

FIRST_ROUND = 1


@dataclass(frozen=True)
class LinkBudget:
    """What a round's uplink is made of; arrays (device,) for all devices of the cell, on an equal share.

    `snr_db` is the mean signal-to-noise ratio. `single`, `sign`, `modulus` are the chances that a packet of both, of
    the signs, of the signs and the moduli arrives. `joules` are radiated and lost in the amplifier in a round.
    """

    parameters: int
    tau_s: float
    share_hz: float
    single_bits: int
    sign_bits: int
    modulus_bits: int
    distance_m: Floats
    gain_db: Floats
    snr_db: Floats
    single: Floats
    sign: Floats
    modulus: Floats
    joules: Floats

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a device, the best link first."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        order = np.argsort(-self.snr_db, kind="stable")
        return [{"device": int(k)} | {name: float(column[k]) for name, column in columns.items()} for k in order]

    def summary(self) -> dict[str, Any]:
        """What belongs to no device, and the medians and means over all."""
        own = ("parameters", "tau_s", "share_hz", "single_bits", "sign_bits", "modulus_bits")
        medians = {"median_snr_db": float(np.median(self.snr_db))}
        means = {f"mean_{name}": float(getattr(self, name).mean()) for name in ("single", "sign", "modulus")}
        return {name: getattr(self, name) for name in own} | medians | means


COLUMNS = ("distance_m", "gain_db", "snr_db", "single", "sign", "modulus", "joules")


def link_budget(world: World) -> LinkBudget:
    """The budget of the first round's cell, whatever scheme the configuration names. Raises ConfigError."""
    config, devices = world.config, range(world.config.data.devices)
    cell, share = world.radio.cell(FIRST_ROUND), 1.0 / config.cohort
    single = replace(world, scheme=SCHEMES["single_packet"])
    split = replace(world, scheme=SCHEMES["sp_fl_uniform"])
    alone, pair = _odds(single, share), _odds(split, share)
    link = split.radio.link(devices, FIRST_ROUND)
    noise_w = link.noise_w_per_hz * link.bandwidth_hz * share
    with np.errstate(divide="ignore"):
        gain_db, snr_db = linear_to_db(cell.gain), linear_to_db(link.power_w * cell.gain / noise_w)
    sign_bits, modulus_bits = split.format.packet_bits
    side = split.radio.side_channel
    side_j = 0.0 if side is None else side.joules(config.device.amplifier_efficiency)
    return LinkBudget(
        world.layout.size,
        world.radio.tau_s,
        link.bandwidth_hz * share,
        int(single.format.packet_bits[0]),
        int(sign_bits),
        int(modulus_bits),
        cell.distance_m,
        gain_db,
        snr_db,
        alone.q_s,
        pair.q_s,
        pair.q_s * pair.r_m,
        link.power_w * link.tau_s / config.device.amplifier_efficiency + side_j,
    )


def _odds(world: World, share: float) -> Success:
    """Success probabilities of all devices on an equal share of the bandwidth."""
    link = world.radio.link(range(world.config.data.devices), FIRST_ROUND)
    beta, alpha = np.full(link.size, share), link.split
    law = success if link.law is None else link.law.success
    return law(link, beta, alpha, link.split)
