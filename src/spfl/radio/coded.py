"""Block error rates of real codes, simulated once: LDPC of 5G NR with QAM, by Sionna; and the SNR gap they amount to.

The table lies beside this module (`gap_table.json`), made by `spfl radio calibrate`.
Under block Rayleigh fading with mean SNR S a packet fails with probability int BLER(u) exp(-u / S) du / S. For large S
that is A / S with A = int BLER(u) du, and the closed form has Gamma (2^R - 1) / S: so Gamma(R) = A / (2^R - 1), exactly
the gap that outage with ideal codes must be given. Axis vocabulary: `point` (of a curve).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from spfl.arrays import Floats
from spfl.radio.selective import fit_gap
from spfl.radio.sionna import sionna
from spfl.units import db_to_linear, linear_to_db

TABLE = "gap_table.json"
# bits a symbol and code rate, one a modulation and coding scheme
SCHEMES = ((2, 0.2), (2, 0.35), (2, 0.5), (2, 0.7), (4, 0.45), (4, 0.6), (4, 0.75), (6, 0.6), (6, 0.7), (6, 0.85))
NAMES = {2: "QPSK", 4: "16QAM", 6: "64QAM"}
STEP_DB, REACH_DB = 0.5, (-1.0, 8.0)


@dataclass(frozen=True)
class ErrorCurve:
    """Measured block error rates of one modulation and coding scheme; SNR linear, `bler` of `blocks` each, (point,)."""

    bits_per_symbol: int
    code_rate: float
    info_bits: int
    blocks: int
    snr: Floats
    bler: Floats

    @property
    def rate(self) -> float:
        """Spectral efficiency R in bit/s/Hz."""
        return self.bits_per_symbol * self.code_rate

    @property
    def area(self) -> tuple[float, float]:
        """(int BLER du, its standard error): all blocks fail below the first point, none above the last."""
        width = np.diff(self.snr, prepend=self.snr[0] - (self.snr[1] - self.snr[0]))
        area = self.snr[0] - width[0] / 2 + np.sum((self.bler[1:] + self.bler[:-1]) / 2 * np.diff(self.snr))
        spread = np.sqrt(np.sum(width**2 * self.bler * (1 - self.bler) / self.blocks))
        return float(area + width[0] / 2), float(spread)

    @property
    def gap(self) -> float:
        """Gamma(R), linear."""
        return float(self.area[0] / (2.0**self.rate - 1.0))

    def to_json(self) -> dict[str, Any]:
        area, error = self.area
        about = {"modulation": NAMES[self.bits_per_symbol], "rate": self.rate, "gap_db": linear_to_db(self.gap)}
        about |= {"gap_db_standard_error": 10 / np.log(10) * error / area}
        about |= {k: getattr(self, k) for k in ("bits_per_symbol", "code_rate", "info_bits", "blocks")}
        lists = {"snr_db": linear_to_db(self.snr).round(4).tolist(), "bler": self.bler.tolist()}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in about.items()} | lists


def simulate(
    bits_per_symbol: int, code_rate: float, *, info_bits: int, blocks: int, iterations: int, seed: int
) -> ErrorCurve:
    """The block error rate of LDPC5G with QAM on AWGN, from where all blocks fail to where none of `blocks` does."""
    import torch

    phy, coding, mapping = sionna(""), sionna("fec.ldpc"), sionna("mapping")
    phy.config.seed = seed
    coded = bits_per_symbol * round(info_bits / code_rate / bits_per_symbol)
    code_rate = info_bits / coded
    encoder = coding.LDPC5GEncoder(info_bits, coded, num_bits_per_symbol=bits_per_symbol)
    decoder = coding.LDPC5GDecoder(encoder, num_iter=iterations, hard_out=True, return_infobits=True)
    mapper = mapping.Mapper("qam", bits_per_symbol)
    demapper = mapping.Demapper("app", "qam", bits_per_symbol)
    generator = torch.Generator().manual_seed(seed)

    def errors(snr: float) -> float:
        bits = torch.randint(0, 2, (blocks, info_bits), generator=generator).to(torch.float32)
        sent = mapper(encoder(bits))
        noise = torch.view_as_complex(torch.randn((*sent.shape, 2), generator=generator))
        llr = demapper(sent + noise * (0.5 / snr) ** 0.5, torch.tensor(1.0 / snr))
        return float((decoder(llr) != bits).any(dim=1).float().mean())

    ideal_db = linear_to_db(2.0 ** (bits_per_symbol * code_rate) - 1.0)
    snr_db, bler = list[float](), list[float]()
    for offset in np.arange(*REACH_DB, STEP_DB):
        rate = errors(db_to_linear(float(ideal_db + offset)))
        if rate == 1.0:
            snr_db, bler = [], []  # all of what is before fails too
        snr_db.append(ideal_db + offset)
        bler.append(rate)
        if rate == 0.0:
            break
    return ErrorCurve(bits_per_symbol, code_rate, info_bits, blocks, db_to_linear(np.array(snr_db)), np.array(bler))


def calibrate(
    info_bits: int, blocks: int, iterations: int, seed: int, progress: Callable[[ErrorCurve], None] = lambda _: None
) -> dict[str, Any]:
    """The whole table: a curve a modulation and coding scheme, and the fit Gamma(R) = snr_gap exp(gap_slope R)."""
    curves = []
    for bits, rate in SCHEMES:
        curves.append(simulate(bits, rate, info_bits=info_bits, blocks=blocks, iterations=iterations, seed=seed))
        progress(curves[-1])
    gap, slope = fit(curves)
    return {
        "command": "spfl radio calibrate "
        f"--info-bits {info_bits} --blocks {blocks} --iterations {iterations} --seed {seed}",
        "code": "LDPC of 5G NR, QAM, AWGN within a block (sionna-no-rt)",
        "iterations": iterations,
        "snr_gap": gap,
        "gap_slope": slope,
        "curves": [curve.to_json() for curve in curves],
    }


def fit(curves: list[ErrorCurve]) -> tuple[float, float]:
    """(snr_gap, gap_slope) of measured curves: see `selective.fit_gap`."""
    return fit_gap(np.array([c.rate for c in curves]), np.array([c.gap for c in curves]))


@cache
def gap_table() -> dict[str, Any]:
    """The committed table."""
    table: dict[str, Any] = json.loads(files("spfl.radio").joinpath(TABLE).read_text(encoding="utf-8"))
    return table


@cache
def measured_curves() -> tuple[ErrorCurve, ...]:
    """The curves of the committed table, by rising rate."""
    rows = sorted(gap_table()["curves"], key=lambda row: row["rate"])
    return tuple(
        ErrorCurve(r["bits_per_symbol"], r["code_rate"], r["info_bits"], r["blocks"],
              db_to_linear(np.array(r["snr_db"])), np.array(r["bler"]))
        for r in rows
    )  # fmt: skip


def block_error_rate(rate: Floats, snr: Floats) -> Floats:
    """BLER of the least measured scheme that carries `rate` (bit/s/Hz), at an SNR; both broadcast. 1 beyond the last.

    Linear in the SNR in dB between the measured points.
    """
    rate, snr = np.broadcast_arrays(rate, snr)
    out = np.ones(rate.shape)
    level_db = linear_to_db(snr)
    below = -np.inf
    for curve in measured_curves():
        here = (rate > below) & (rate <= curve.rate)
        out[here] = np.interp(level_db[here], linear_to_db(curve.snr), curve.bler, left=1.0, right=0.0)
        below = curve.rate
    return out
