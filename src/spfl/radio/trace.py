"""Recorded links: a table of gains, of outcomes, or of loss rates, and what it makes of a round.

    gains       round, device, gain_db: both packets of a device meet the power gain of the round; the allocator knows
                the mean over the rounds, and success probabilities are shares of the rounds
    outcomes    round, device, sign_received, modulus_received: what was received then is received again
    loss rates  device, sign_loss, modulus_loss: packets are lost by chance, whatever bandwidth they have

Rounds count from 1, devices from 0. Axis vocabulary: `round`, `device`.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Bools, Floats
from spfl.errors import ConfigError
from spfl.radio.outage import Link, Outcome, PacketFades, PacketShares, Success, conditional, success, transmit
from spfl.units import db_to_linear

if TYPE_CHECKING:
    import pyarrow as pa

TraceKind = Literal["gains", "outcomes", "losses"]
COLUMNS: dict[TraceKind, tuple[str, ...]] = {
    "gains": ("round", "device", "gain_db"),
    "outcomes": ("round", "device", "sign_received", "modulus_received"),
    "losses": ("device", "sign_loss", "modulus_loss"),
}
RANGES = {"gain_db": (-400.0, 400.0), "sign_received": (0.0, 1.0), "modulus_received": (0.0, 1.0)}
RANGES |= {"sign_loss": (0.0, 1.0), "modulus_loss": (0.0, 1.0)}
MOST_ROUNDS = 10**7
RATE_MARGIN = 1e-6  # of a loss rate of 0 or 1, which no finite gain has


@dataclass(frozen=True, eq=False)
class Trace:
    """A recorded link, (round, device); loss rates have one round.

    `first` is the linear power gain, whether the sign packet was received, or its success probability; `second` the
    same of the modulus packet. `known` is false where the table has no row.
    """

    kind: TraceKind
    path: str
    first: Floats
    second: Floats
    known: Bools

    @property
    def rounds(self) -> int:
        return int(self.first.shape[0])

    def row(self, round_: int) -> int:
        """The row of a round; after the last one the trace begins again."""
        return (round_ - 1) % self.rounds if round_ > 0 else 0

    def mean(self, values: Floats) -> Floats:
        """The mean over the rounds that are known, (device,); 0 for a device without any."""
        return np.asarray((values * self.known).sum(0) / np.maximum(self.known.sum(0), 1))

    @cached_property
    def mean_gain(self) -> Floats:
        """(device,), linear; 1 for a device that is never there, which no round asks for."""
        return np.where(self.known.any(0), self.mean(self.first), 1.0)

    @cached_property
    def levels(self) -> Floats:
        """Power gains over their means, (round, device)."""
        return self.first / np.maximum(self.mean_gain, 1e-300)

    def fades(self, round_: int) -> Floats:
        """Power gains of a round over their means, (device,)."""
        return np.asarray(self.levels[self.row(round_)])

    @cached_property
    def sign_rate(self) -> Floats:
        """How often a sign packet is received, (device,)."""
        return self.mean(self.first)

    @cached_property
    def modulus_rate(self) -> Floats:
        """How often a modulus packet is received when its sign packet is, (device,)."""
        if self.kind == "losses":
            return self.mean(self.second)
        both, sign = self.mean(self.first * self.second), self.sign_rate
        return conditional(both, sign)

    def law(self, cohort: list[int], round_: int) -> GainLaw | RateLaw:
        """What carries the packets of a cohort in a round."""
        if self.kind == "gains":
            return GainLaw(self.levels[:, cohort], self.known[:, cohort])
        rates = self.sign_rate[cohort], self.modulus_rate[cohort]
        if self.kind == "losses":
            return RateLaw(*rates)
        row = self.row(round_)
        return RateLaw(*rates, (self.first[row, cohort] > 0, self.second[row, cohort] > 0))


@dataclass(frozen=True, eq=False)
class GainLaw:
    """`outage.Law` of recorded power fades, (round, device): success is the share of the rounds that suffice."""

    levels: Floats
    known: Bools

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """Success probabilities over the rounds of the trace."""
        x = success(replace(link, law=None), beta, alpha, rho)
        q_s, both = self._share(x.x_s), self._share(np.maximum(x.x_s, x.x_m))
        return Success(x.x_s, x.x_m, q_s, conditional(both, q_s))

    def _share(self, least: Floats) -> Floats:
        enough = (self.levels >= least) & self.known
        return np.asarray(enough.sum(0) / np.maximum(self.known.sum(0), 1))

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """Which packets arrive. `fades`: the one fade of both packets, (device,), twice."""
        return transmit(self.success(link, *shares), fades)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """The fades of a round that is drawn from the trace: a repetition."""
        return np.asarray(self.levels[rng.integers(len(self.levels))])


@dataclass(frozen=True, eq=False)
class RateLaw:
    """`outage.Law` of success rates, (device,), which no bandwidth changes, and what was received if it is known.

    A scheme with one packet meets the fate of the sign packet.
    """

    sign: Floats
    modulus: Floats
    received: tuple[Bools, Bools] | None = None

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """The rates; 1 for a packet without bits."""
        q_s, r_m = np.where(link.sign_bits > 0, self.sign, 1.0), np.where(link.modulus_bits > 0, self.modulus, 1.0)
        with np.errstate(divide="ignore"):
            return Success(-np.log(q_s), -np.log(r_m), q_s, r_m)

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """Which packets arrive: those that did then; or by chance, by the fades, of a device with bandwidth."""
        if self.received is None:
            got = transmit(self.success(link, *shares), fades)
            sent = np.asarray(shares[0]) > 0
            return Outcome(got.sign & sent, got.modulus & sent)
        sign = self.received[0] | (link.sign_bits == 0)
        return Outcome(sign, sign & (self.received[1] | (link.modulus_bits == 0)))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Fades by which chance is drawn: exponential, as those of `outage.draw_fades`."""
        return rng.exponential(size=shape)


def gain_of_rate(link: Link, rate: Floats) -> Floats:
    """Gains, any shape, at which the closed form has these success rates of the sign packet on an equal share.

    `link` has gains of 1, and devices that are all alike. So the allocator, which reckons with gains, knows the rates.
    """
    exponent = float(success(link, 1.0 / link.size, link.split).x_s[0])
    gain = exponent / -np.log(np.clip(rate, RATE_MARGIN, 1.0 - RATE_MARGIN))
    return np.where(np.isfinite(gain) & (gain > 0), gain, 1.0)


# --- the file --------------------------------------------------------------------------------------------------------


def read_trace(path: str, digest: str, devices: int) -> Trace:
    """The trace of a CSV or parquet file with this SHA-256.

    Raises ConfigError, in one line, for a file that cannot be read or was changed, for other columns than those of one
    kind, values that are missing or out of range, unknown devices, a row that is there twice, and a round that is not.
    """
    table = _table(path, digest)
    kind = _kind(path, table.column_names)
    columns = {name: _numbers(path, table, name) for name in COLUMNS[kind]}
    device = _whole(path, columns, "device", 0, devices - 1, f" (data.devices = {devices})")
    round_ = _whole(path, columns, "round", 1, MOST_ROUNDS, "") if "round" in columns else np.ones(len(device), int)
    for name, (least, most) in RANGES.items():
        if name in columns:
            _check_range(path, columns, name, least, most)
    rows, twice = np.unique(np.stack([round_, device]), axis=1, return_counts=True)
    if twice.max(initial=0) > 1:
        again = rows[:, int(np.argmax(twice > 1))]
        raise ConfigError(f"trace {path}: {_place(kind, *again)} is there twice")
    present = np.unique(round_)
    if present.size != present[-1]:
        gap = int(np.setdiff1d(np.arange(1, present[-1] + 1), present)[0])
        raise ConfigError(f"trace {path}: round {gap} is missing; rounds must be 1..{present[-1]} without a gap")
    return _filled(kind, path, (round_ - 1, device), columns, devices)


def _table(path: str, digest: str) -> pa.Table:
    import pyarrow as pa  # only a run with a trace needs it
    from pyarrow import csv, parquet

    try:
        content = Path(path).expanduser().read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise ConfigError(
                f"trace {path} was changed: its SHA-256 is {found[:12]}..., the configuration says {digest[:12]}..."
            )
        if path.lower().endswith(".parquet"):
            table = parquet.read_table(io.BytesIO(content))
        else:
            table = csv.read_csv(io.BytesIO(content))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise ConfigError(f"trace {path} cannot be read: {reason}") from None
    if not table.num_rows:
        raise ConfigError(f"trace {path} has no rows")
    return table


def _kind(path: str, names: list[str]) -> TraceKind:
    found = [kind for kind, columns in COLUMNS.items() if set(columns) == set(names)]
    if not found or len(set(names)) != len(names):
        known = "; or ".join(", ".join(columns) for columns in COLUMNS.values())
        raise ConfigError(f"trace {path} must have the columns {known}; got {', '.join(names)[:200]}")
    return found[0]


def _numbers(path: str, table: pa.Table, name: str) -> Floats:
    """A column as numbers. Raises ConfigError for another type, and names the row of a value that is missing."""
    import pyarrow as pa

    column = table.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise ConfigError(f"trace {path}: {name} must be numbers, got {column.type}")
    numbers = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    values = numbers.cast(pa.float64()).fill_null(np.nan).combine_chunks()
    array: Floats = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise ConfigError(f"trace {path}: {name} is missing or not finite in row {int(np.argmax(bad)) + 1}")
    return array


def _whole(path: str, columns: dict[str, Floats], name: str, least: int, most: int, why: str) -> NDArray[np.int64]:
    values = columns[name]
    bad = (values != np.floor(values)) | (values < least) | (values > most)
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(f"trace {path}: {name} must be a whole number in {least}..{most}{why}, got {values[row]:g} "
                          f"in row {row + 1}")  # fmt: skip
    return values.astype(np.int64)


def _check_range(path: str, columns: dict[str, Floats], name: str, least: float, most: float) -> None:
    values = columns[name]
    bad = (values < least) | (values > most)
    if name.endswith("received"):
        bad |= (values != 0) & (values != 1)
    if bad.any():
        row, rule = int(np.argmax(bad)), "0 or 1" if name.endswith("received") else f"in [{least:g}, {most:g}]"
        raise ConfigError(f"trace {path}: {name} must be {rule}, got {values[row]:g} in row {row + 1}")


def _place(kind: TraceKind, round_: int, device: int) -> str:
    return f"device {device}" if kind == "losses" else f"round {round_}, device {device}"


def _filled(
    kind: TraceKind,
    path: str,
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
    columns: dict[str, Floats],
    devices: int,
) -> Trace:
    names = COLUMNS[kind][-2:] if kind != "gains" else ("gain_db", "gain_db")
    shape = int(at[0].max()) + 1, devices
    first, second, known = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    for array, name in ((first, names[0]), (second, names[1])):
        values = columns[name]
        array[at] = db_to_linear(values) if kind == "gains" else 1.0 - values if kind == "losses" else values
    known[at] = True
    return Trace(kind, path, first, second, known)
