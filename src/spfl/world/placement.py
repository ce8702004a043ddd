"""Where the devices of a cell are, and their mean gains: dropped, walked, recorded or given (docs/radio.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spfl.arrays import Floats
from spfl.config.radio import ChannelConfig
from spfl.config.schema import Config
from spfl.custom import Custom, checked_gains
from spfl.errors import ConfigError
from spfl.own_code import called
from spfl.radio.movement import Recorded, Waypoints
from spfl.radio.path_loss import Cell, drop_cell, path_loss_db, scale_to_median_snr
from spfl.radio.tr38901 import CellSite, drop_gains
from spfl.rng import SETUP_ROUND, Purpose, server_stream
from spfl.units import db_to_linear, dbm_to_watt


@dataclass(frozen=True)
class Placement:
    """The devices of a configured cell; functions of the configuration and of the round alone.

    `recorded` (device,): mean gains of recorded links, where there are any. `round_s`: seconds from a round to the
    next, in which devices move.
    """

    config: Config
    custom: Custom
    recorded: Floats | None
    round_s: float

    def cell(self, round_: int) -> Cell:
        """Where the devices of the cell are in a round: one drop for the whole run, or one a round."""
        if self.config.channel.movement != "none":
            return self._walked(round_)
        return self._fixed if self.config.channel.drop == "fixed" else self._drop(round_)

    def _walked(self, round_: int) -> Cell:
        """The cell after the seconds of so many rounds: gains by the path loss, with the shadowing of the start."""
        start = self._fixed
        distance_m = np.maximum(self._moving.distance_m(round_ * self.round_s), self.config.channel.min_distance_m)
        return Cell(distance_m, start.gain * db_to_linear(path_loss_db(start.distance_m) - path_loss_db(distance_m)))

    @cached_property
    def _moving(self) -> Waypoints | Recorded:
        channel = self.config.channel
        if self.custom.gains is not None:
            raise ConfigError(f"channel.movement must be none with gains of your own, got {channel.movement}")
        if channel.positions:
            return Recorded(self._fixed.distance_m, channel.positions)
        return Waypoints(self.config.seed, self._fixed.distance_m, channel.radius_m, channel.speed_m_per_s)

    @cached_property
    def _fixed(self) -> Cell:
        return self._drop(SETUP_ROUND)

    def _drop(self, round_: int) -> Cell:
        channel = self.config.channel
        cell = drop_cell(
            self.config.data.devices,
            seed=self.config.seed,
            round_=round_,
            min_distance_m=channel.min_distance_m,
            radius_m=channel.radius_m,
            shadowing_db=channel.shadowing_db,
        )
        gain = self._gains(cell, round_)
        if channel.median_snr_db is not None:
            if not (gain > 0).all():
                raise ConfigError("gains must all be > 0 with channel.median_snr_db, which scales them, got a zero")
            noise_w = noise_w_per_hz(channel, channel.noise_figure_db) * channel.bandwidth_hz / self.config.cohort
            power_w = np.full(gain.shape, dbm_to_watt(channel.power_dbm))
            gain = scale_to_median_snr(gain, db_to_linear(channel.median_snr_db), power_w, noise_w)
        return Cell(cell.distance_m, gain)

    def _gains(self, cell: Cell, round_: int) -> Floats:
        """Mean gains (device,): of the caller, of the file, recorded, of a standard's cell, or of our own."""
        channel = self.config.channel
        if self.custom.gains is not None:
            rng = server_stream(self.config.seed, round_, Purpose.PLACEMENT)
            return checked_gains(called("gains", self.custom.gains, round_, rng), self.config.data.devices, "gains")
        if channel.gains_db is not None:
            return db_to_linear(np.array(channel.gains_db))
        if self.recorded is not None:
            return self.recorded
        if channel.model == "macro":
            return cell.gain
        assert channel.model != "trace"  # whose gains are recorded
        heights = channel.bs_height_m, channel.device_height_m
        site = CellSite(channel.model, channel.carrier_hz, *heights, channel.indoor_share)
        return drop_gains(site, cell.distance_m, self.config.seed, round_)


def noise_w_per_hz(channel: ChannelConfig, noise_figure_db: float) -> float:
    """N_0 behind a receiver with this noise figure."""
    return dbm_to_watt(channel.noise_dbm_per_hz) * db_to_linear(noise_figure_db)
