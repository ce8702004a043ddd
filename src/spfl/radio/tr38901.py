"""Mean gains of a cell by TR 38.901 (UMi street canyon, UMa, RMa), from Sionna's system-level models.

Places, heights and who is indoors are drawn here, so that a drop has the distances that the default model has for the
same seed; line of sight, path loss, indoor loss and shadowing (correlated between near devices) are Sionna's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from spfl.arrays import Floats
from spfl.radio.sionna import sionna
from spfl.rng import Purpose, server_stream
from spfl.units import db_to_linear

Model = Literal["umi", "uma", "rma"]
BS_HEIGHT_M = {"umi": 10.0, "uma": 25.0, "rma": 35.0}  # TR 38.901, table 7.2-1 and 7.2-3


@dataclass(frozen=True)
class CellSite:
    """A cell of TR 38.901: its scenario, carrier, heights (of the base station: that of the table when None)."""

    model: Model
    carrier_hz: float
    bs_height_m: float | None
    device_height_m: float
    indoor_share: float

    @property
    def height_m(self) -> float:
        """Height of the base station."""
        return BS_HEIGHT_M[self.model] if self.bs_height_m is None else self.bs_height_m


def drop_gains(site: CellSite, distance_m: Floats, seed: int, round_: int) -> Floats:
    """Mean power gains, linear, of devices at these horizontal distances, (device,). Omnidirectional antennas.

    Raises ConfigError when Sionna is not installed. A drop is computed once and remembered.
    """
    return np.array(_drop(site, tuple(distance_m.tolist()), seed, round_))


@lru_cache(maxsize=64)
def _drop(site: CellSite, distance_m: tuple[float, ...], seed: int, round_: int) -> tuple[float, ...]:
    import torch

    rng, size = server_stream(seed, round_, Purpose.DROP), len(distance_m)
    angle, indoors = 2 * np.pi * rng.random(size), rng.random(size) < site.indoor_share
    phy = sionna("")
    phy.config.seed = int(rng.integers(2**63))
    channel = _channel(site.model, site.carrier_hz)
    across = np.array(distance_m)
    place = np.stack([across * np.cos(angle), across * np.sin(angle), np.full(size, site.device_height_m)], axis=1)
    still = torch.zeros(1, size, 3)
    channel.set_topology(
        torch.tensor(place, dtype=torch.float32)[None],
        torch.tensor([[[0.0, 0.0, site.height_m]]]),
        still,
        torch.zeros(1, 1, 3),
        still,
        torch.tensor(indoors)[None],
    )
    lsp = channel.sample_lsp()
    loss_db = lsp.pathloss.reshape(-1).double().numpy()
    gains: list[float] = (lsp.sf.reshape(-1).double().numpy() * db_to_linear(-loss_db)).tolist()
    return tuple(gains)


def _channel(model: Model, carrier_hz: float):  # type: ignore[no-untyped-def]
    models = sionna("channel.tr38901")
    antenna = models.Antenna("single", "V", "omni", carrier_hz)
    scenario = {"umi": models.UMi, "uma": models.UMa, "rma": models.RMa}[model]
    indoor = {} if model == "rma" else {"o2i_model": "low"}
    return scenario(carrier_frequency=carrier_hz, ut_array=antenna, bs_array=antenna, direction="uplink", **indoor)
