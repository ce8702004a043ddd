"""Error rates of packets by Sionna's `PHYAbstraction`: the transport blocks of 5G NR's uplink (PUSCH, MCS table 1).

A packet (or segment) is one transport block, cut into code blocks as TS 38.212 has it, and lost with any of them:
TBLER = 1 - (1 - BLER)^n. It takes the least MCS that carries its rate; the tables begin with MCS 3. They are simulated
up to code blocks of 2,000 bits: longer ones take that curve, which flatters them a little. All is read from Sionna's
tables once, when a world is built. Axis vocabulary: `scheme` (an MCS), `point` (of a grid of SNRs).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from spfl.arrays import Floats
from spfl.radio.sionna import sionna
from spfl.units import db_to_linear, linear_to_db

TABLE = "bler_tables/PUSCH_table1.json"
PUSCH, TABLE_INDEX = 0, 1
SNR_DB = np.arange(-5.0, 30.0, 0.1)  # the grid on which Sionna interpolates; 1 is assumed below it
LEAST_BITS = 24  # the smallest transport block


@dataclass(frozen=True, eq=False)
class TransportCurves:
    """Error rates `tbler` (scheme, point) over `SNR_DB` for packets of one length; `rates` (scheme,) rise, bit/s/Hz."""

    rates: Floats
    tbler: Floats

    def __call__(self, rate: Floats, snr: Floats) -> Floats:
        """Error rate at a rate in bit/s/Hz and an SNR, which broadcast; 1 beyond the last scheme."""
        rate, snr = np.broadcast_arrays(rate, snr)
        out, level_db = np.ones(rate.shape), linear_to_db(snr)
        chosen = np.searchsorted(self.rates, rate)
        for scheme, row in enumerate(self.tbler):
            here = chosen == scheme
            out[here] = np.interp(level_db[here], SNR_DB, row, left=1.0)
        return out


@lru_cache(maxsize=16)
def transport_curves(bits: int) -> TransportCurves:
    """The curves of packets of `bits` bits. Raises ConfigError when Sionna is not installed."""
    import torch

    coding, abstraction = sionna("nr.utils"), _abstraction()
    schemes = sorted(abstraction.bler_table["category"][PUSCH]["index"][TABLE_INDEX]["MCS"])
    order, code_rate = coding.decode_mcs_index(torch.tensor(schemes), TABLE_INDEX, is_pusch=True)
    coded = torch.ceil(max(bits, LEAST_BITS) / code_rate / order).int() * order
    size, count = coding.TransportBlockNR()(order, code_rate, coded)
    bler = abstraction.get_bler(
        torch.tensor(schemes, dtype=torch.int32)[:, None].expand(-1, SNR_DB.size),
        TABLE_INDEX,
        PUSCH,
        size[:, None].expand(-1, SNR_DB.size).int(),
        torch.from_numpy(db_to_linear(SNR_DB)).float().expand(len(schemes), -1),
    )
    survives = (1.0 - bler.double()).clamp(0.0, 1.0) ** count[:, None]
    rates = (order * code_rate).double().numpy()
    ascending = np.argsort(rates, kind="stable")  # 16QAM begins below where QPSK ends
    return TransportCurves(rates[ascending], 1.0 - survives.numpy()[ascending])


@lru_cache(maxsize=1)
def _abstraction() -> Any:
    system = sionna("", package="sys")
    return system.PHYAbstraction(load_bler_tables_from=[str(files("sionna.sys").joinpath(TABLE))])
