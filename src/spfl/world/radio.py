"""The uplink of a configured cell: mean gains, fades, and what carries packets (model.md, section 3; docs/radio.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, Floats
from spfl.config.schema import Config
from spfl.config.section import unmet
from spfl.custom import AS_CONFIGURED, Custom, checked_fades
from spfl.errors import ConfigError, first_true
from spfl.own_code import called
from spfl.radio.coded import block_error_rate, gap_table
from spfl.radio.fade_laws import FadedLaw, fade_law
from spfl.radio.fading import CorrelatedFades, draw_many, round_correlation
from spfl.radio.nr_blocks import transport_curves
from spfl.radio.outage import Fading, Law, Link, draw_fades
from spfl.radio.path_loss import Cell, path_loss_db
from spfl.radio.selective import Curves, RadioLaw, allocators_gap
from spfl.radio.trace import Trace, gain_of_rate
from spfl.radio.uncoded import UncodedLaw
from spfl.rng import Purpose, server_stream
from spfl.scheme import Scheme
from spfl.schemes import resolve
from spfl.units import db_to_linear, dbm_to_watt
from spfl.uplink.format import Format
from spfl.uplink.side_channel import SideChannel
from spfl.world.placement import Placement, noise_w_per_hz
from spfl.world.recorded import RAYLEIGH_ONLY, recorded_links

GRANTED = {"device_csi": "mean", "sign_parity": 0}  # what segments need whose packet is as long as its grant


@dataclass(frozen=True)
class Radio:
    """What is between the devices and the server; functions of the configuration and of the round alone."""

    config: Config
    form: Format
    custom: Custom = AS_CONFIGURED

    @property
    def scheme(self) -> Scheme:
        return self.form.scheme

    # --- where devices are --------------------------------------------------------------------------------------

    def cell(self, round_: int) -> Cell:
        """Where the devices of the cell are in a round, and their mean gains."""
        return self._placement.cell(round_)

    @cached_property
    def _placement(self) -> Placement:
        recorded = None if self.trace is None else self._recorded_gain(self.trace)
        return Placement(self.config, self.custom, recorded, self._round_s)

    @cached_property
    def interference_w_per_hz(self) -> float:
        """What the base station receives of the transmitters of other cells, over the bandwidth."""
        found = np.array(self.config.channel.interferers or [], np.float64).reshape(-1, 3)
        loss_db = path_loss_db(np.hypot(found[:, 0], found[:, 1]))
        received_w = dbm_to_watt(found[:, 2]) * db_to_linear(-loss_db)
        return float(np.sum(received_w)) / self.config.channel.bandwidth_hz

    @cached_property
    def trace(self) -> Trace | None:
        """Recorded links, where there are any. Raises ConfigError for a file that has no run of this configuration."""
        return recorded_links(self.config, self.scheme, self.custom)

    def _recorded_gain(self, trace: Trace) -> Floats:
        """Mean gains of all devices: as recorded, or those at which the closed form has the recorded loss rates."""
        if trace.kind == "gains":
            return trace.mean_gain
        return gain_of_rate(self._link(np.ones(self.config.cohort), None), trace.sign_rate)

    @property
    def tau_s(self) -> float:
        """Seconds of uplink a round: as configured, or so that B tau / (K d) is the resource ratio."""
        channel = self.config.channel
        symbols = channel.symbols_per_parameter * self.config.cohort * self.form.layout.size
        return channel.tau_s or symbols / channel.bandwidth_hz

    @property
    def _round_s(self) -> float:
        return self.config.channel.round_s or self.tau_s

    @cached_property
    def side_channel(self) -> SideChannel | None:
        """What carries side information, where it has a packet of its own."""
        channel = self.config.channel
        if not self.form.lossy:
            return None
        power_w = dbm_to_watt(channel.power_dbm if channel.side_power_dbm is None else channel.side_power_dbm)
        seconds, law = channel.side_share * self.tau_s, fade_law(channel)
        return SideChannel(self.form.side_bits, seconds, power_w, *self._coding_gap, law)

    # --- packets and what loses them ----------------------------------------------------------------------------

    @cached_property
    def law(self) -> RadioLaw | FadedLaw | UncodedLaw | None:
        """What the link does beyond the closed form; None where that tells all."""
        law = self._law()
        if self.scheme.combining == "incremental" and (law is not None or self._coding_gap[1] > 0):
            raise ConfigError(
                f"{self.scheme.name} needs channel.link = outage, Rayleigh fading and no segments: its law is for those"
            )
        return law

    def _law(self) -> RadioLaw | FadedLaw | UncodedLaw | None:
        channel, count, parity = self.config.channel, self._counts, self.form.parity
        if channel.link == "uncoded" and self.scheme.uplink != "ideal":
            check_uncoded(self.scheme)
            return UncodedLaw()
        fade = fade_law(channel)
        if fade is not None and self.scheme.uplink != "ideal":
            if self.scheme.uplink in RAYLEIGH_ONLY:
                raise ConfigError(f"channel.fading = {channel.fading} is not for {self.scheme.name}, whose "
                                  "link is worked out for Rayleigh fading")  # fmt: skip
            return FadedLaw(fade, *self._coding_gap)
        plain = self.form.cut.one_fade or (channel.fading == "independent" and max(*count, 1 + parity) == 1)
        if self.scheme.uplink in ("ideal", "analog") or (plain and channel.link != "bler"):
            return None
        subbands = channel.subbands if channel.fading == "selective" else 1
        recovery = "all" if self.scheme.uplink == "sparse" else channel.recovery  # its places need the whole packet
        return RadioLaw(subbands, *count, recovery, *self._coding_gap, self._error_curves(), parity)

    @property
    def _counts(self) -> tuple[int, int]:
        """Segments of the first packet, where it is longest, and of the second."""
        return self.form.most_segments, self.form.segments[1]

    def _error_curves(self) -> tuple[Curves, Curves] | None:
        """Error rates of a segment of the first and of the second packet, where the link has measured ones."""
        channel = self.config.channel
        if channel.link != "bler":
            return None
        if channel.bler_curves == "measured":
            return block_error_rate, block_error_rate
        counts = self.form.segments[0] + self.form.parity, self.form.segments[1]
        first, second = (-(-bits // count) for bits, count in zip(self.form.packet_bits, counts, strict=True))
        return transport_curves(first), transport_curves(second)

    @cached_property
    def _coding_gap(self) -> tuple[float, float]:
        margin = db_to_linear(self.config.channel.snr_gap_db)
        if self.config.channel.link != "gap":
            return margin, 0.0
        return margin * gap_table()["snr_gap"], gap_table()["gap_slope"]

    @cached_property
    def gap(self) -> tuple[float, float]:
        """SNR gap and its slope by which the allocator reckons."""
        if self.law is None:
            return self._coding_gap
        if isinstance(self.law, FadedLaw):
            return self.law.allocators_gap()
        if isinstance(self.law, UncodedLaw):
            return self._coding_gap
        return allocators_gap(self.law, self.form.cut.one_fade, 1 if self.scheme.grants_bits else self.form.segments[0])

    @property
    def _packet_fading(self) -> Fading:
        fading = self.config.channel.fading
        if self.trace is not None and self.trace.kind != "gains":
            return "independent"
        return fading if fading == "independent" or fading == "selective" else "block"

    def link(self, cohort: Sequence[int], round_: int) -> Link:
        """The uplink of a cohort in long-term statistics, before the fades."""
        law = self.law if self.trace is None else self.trace.law(list(cohort), round_)
        return self._link(self.cell(round_).gain[list(cohort)], law)

    def _link(self, gain: Floats, law: Law | None) -> Link:
        channel, rho = self.config.channel, self.config.scheme.rho
        side_s = 0.0 if self.side_channel is None else self.side_channel.time_s
        sign_bits, modulus_bits = self.form.packet_bits
        split = np.full(gain.shape, rho) if self.scheme.uplink == "split" and rho != "proportional" else None
        return Link(
            bandwidth_hz=channel.bandwidth_hz,
            noise_w_per_hz=noise_w_per_hz(channel, channel.noise_figure_db) + self.interference_w_per_hz,
            power_w=np.full(gain.shape, dbm_to_watt(channel.power_dbm)),
            gain=gain,
            tau_s=np.full(gain.shape, (self.tau_s - side_s) / self.scheme.attempts),
            sign_bits=np.full(gain.shape, sign_bits),
            modulus_bits=np.full(gain.shape, modulus_bits),
            snr_gap=self.gap[0],
            fading=self._packet_fading,
            rho=split,
            gap_slope=self.gap[1],
            law=law,
            multiplex=channel.multiplex,
            phase_error_rad=channel.phase_error_rad,
        )

    def granted(self, link: Link, allocation: AllocationResult) -> Link:
        """The link with the packets as they were granted, where the allocator decides how long they are."""
        if allocation.bits is None:
            return link
        law, bits, ladder = link.law, allocation.bits, self.form.ladder
        if isinstance(law, RadioLaw):
            law = replace(law, sign_segments=ladder.segments(bits).astype(np.int64))
        return replace(link, sign_bits=ladder.load(bits), rho=None, law=law)

    # --- fades --------------------------------------------------------------------------------------------------

    def fades(self, cohort: Sequence[int], round_: int) -> tuple[Floats, Floats]:
        """Power fades of the cohort's two packets: the same for every scheme."""
        first, second = self._fades(cohort, round_)
        return first[: len(cohort)], second[: len(cohort)]

    def _fades(self, cohort: Sequence[int], round_: int) -> tuple[Floats, Floats]:
        """Those of as many devices as take part at most, in asynchronous rounds more than send."""
        if self.custom.fades is not None:
            rng = server_stream(self.config.seed, round_, Purpose.FADING_SIGN)
            return checked_fades(
                called("fades", self.custom.fades, round_, self.config.cohort, rng), self.config.cohort
            )
        if self.trace is not None and self.trace.kind == "gains":
            fade = self.trace.fades(round_)[list(cohort)]
            return fade, fade
        if self._correlated is not None:
            sign, modulus = (fades.power(round_)[list(cohort)] for fades in self._correlated)
            return sign, modulus
        law = fade_law(self.config.channel)
        if law is not None:
            rng = server_stream(self.config.seed, round_, Purpose.FADING_SIGN)
            both = FadedLaw(law).draw(rng, (self.config.cohort,))
            return both, both
        if self.law is None or self.form.cut.one_fade:
            return draw_fades(self.config.seed, round_, self.config.cohort, self._packet_fading)
        return draw_many(self.config.seed, round_, *self._fade_shapes(self.config.cohort))

    def _fade_shapes(self, devices: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not isinstance(self.law, RadioLaw) or self.form.cut.one_fade:
            return (devices,), (devices,)
        first, second = self._counts
        return (devices, first + self.form.parity, self.law.subbands), (devices, second, self.law.subbands)

    @cached_property
    def _correlated(self) -> tuple[CorrelatedFades, CorrelatedFades] | None:
        """Fades of all devices of the cell that correlate from round to round; None when they do not."""
        channel = self.config.channel
        if channel.doppler_hz is None:
            return None
        correlation = round_correlation(channel.doppler_hz, self._round_s)
        purposes = Purpose.FADING_SIGN, Purpose.FADING_MODULUS
        sign, modulus = (
            CorrelatedFades(self.config.seed, shape, correlation, purpose)
            for shape, purpose in zip(self._fade_shapes(self.config.data.devices), purposes, strict=True)
        )
        return (sign, sign) if channel.fading == "block" else (sign, modulus)

    def estimate(self, link: Link, cohort: Sequence[int], round_: int) -> Link:
        """The link as the server believes it to be: gains with a log-normal error."""
        spread_db = self.config.channel.csi_error_db
        if spread_db == 0:
            return link
        rng = server_stream(self.config.seed, round_, Purpose.CSI)
        error_db = spread_db * rng.standard_normal(self.config.data.devices)[list(cohort)]
        return replace(link, gain=link.gain * db_to_linear(error_db))

    def told(self, link: Link, fades: tuple[Floats, Floats], samples: Sequence[int]) -> Bools | None:
        """Whose packet of side information arrives, (device,), who has samples sends one; None where there are none."""
        if self.side_channel is None:
            return None
        return self.side_channel.arrives(link, fades[0]) & (np.array(samples) > 0)

    def noise(self, round_: int) -> np.random.Generator:
        """What the air draws besides, for the schemes that need it: receiver noise, fades of repetitions."""
        return server_stream(self.config.seed, round_, Purpose.SCHEME)


def check_uncoded(scheme: Scheme) -> None:
    """Raises ConfigError, in one line, for what needs to know whether a packet is right."""
    wrong = {
        "has packets other than signs and moduli": scheme.uplink not in ("split", "single", "sign"),
        "sends again what did not arrive": scheme.attempts > 1,
        "keeps what the server did not use, which no device can know here": scheme.error_feedback,
    }
    if what := first_true(wrong):
        raise ConfigError(f"channel.link = uncoded is not for {scheme.name}, which {what}")


def carried(config: Config, own: Scheme | None) -> Scheme:
    """The configured scheme (or the caller's own) as the link carries it: segments would cut peaks, so none by default.

    Raises ConfigError, in one line, for segments of packets of peaks, and of those that their grant makes.
    """
    channel, scheme = config.channel, resolve(config.scheme, own)
    if channel.segment_bits is None:
        return scheme
    if own is None and config.scheme.peaks is None:
        scheme = replace(scheme, peaks=False)
    if scheme.uplink == "ladder" and scheme.peaks:
        raise ConfigError(
            f"scheme.peaks must be false with channel.segment_bits = {channel.segment_bits}, which would cut groups of "
            "values, got true"
        )
    if not scheme.grants_bits:
        return scheme
    wanted = {f"channel.{key}": (getattr(channel, key), value) for key, value in GRANTED.items()}
    if line := unmet(f"channel.segment_bits and {scheme.name}, whose packets differ in length", wanted):
        raise ConfigError(line)
    return scheme
