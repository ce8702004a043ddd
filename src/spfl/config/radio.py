"""The tables [channel] and [device] of a configuration: the cell, its links, and what a device is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spfl.config.section import Section, require

SideInformation = Literal["in_packet", "reliable", "lossy"]


class ChannelConfig(Section):
    """The cell and the uplink (model.md, section 3)."""

    bandwidth_hz: float = Field(10e6, ge=1e-3, le=1e15, description="Uplink bandwidth B in Hz, shared by the cohort.")
    noise_dbm_per_hz: float = Field(
        -174.0,
        ge=-400,
        le=200,
        description="Thermal noise power density in dBm/Hz; with the noise figure it is N_0 at the receiver.",
    )
    noise_figure_db: float = Field(
        0.0, ge=0, le=100, description="Noise figure of the base station's receiver in dB, for the uplink."
    )
    power_dbm: float = Field(10.0, ge=-300, le=300, description="Transmit power P of a device in dBm.")
    snr_gap_db: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Gap Gamma in dB between the SNR that the code needs and that of capacity; 0 is an ideal code.",
    )
    min_distance_m: float = Field(
        35.0, ge=1e-3, le=1e9, description="Smallest distance of a device to the base station in m."
    )
    radius_m: float = Field(500.0, ge=1e-3, le=1e9, description="Radius of the cell in m.")
    shadowing_db: float = Field(
        8.0, ge=0, le=100, description="Standard deviation of the log-normal shadowing in dB; 0 for none."
    )
    drop: Literal["fixed", "per_round"] = Field(
        "fixed", description="Whether devices are placed once for the run (fixed) or anew each round (per_round)."
    )
    movement: Literal["none", "waypoint", "recorded"] = Field(
        "none",
        description="Whether devices stay where they were placed (none), walk from one random point of the cell to "
        "the next (waypoint), or are where positions says (recorded); gains follow the path loss, and the shadowing "
        "stays.",
    )
    positions: tuple[tuple[int, float, float, float], ...] | None = Field(
        None,
        description="Where devices were: [device, time_s, x_m, y_m] each, the base station at [0, 0], straight lines "
        "between (movement = recorded); round_s passes in a round.",
    )
    speed_m_per_s: float = Field(
        1.4, gt=0, le=1e5, description="Speed of the devices in m/s (movement = waypoint); round_s passes in a round."
    )
    interferers: tuple[tuple[float, float, float], ...] | None = Field(
        None,
        description="Transmitters of other cells: [x_m, y_m, power_dbm] each, the base station at [0, 0]. What it "
        "receives of them by the path loss is noise over the whole bandwidth; none when absent.",
    )
    gains_db: tuple[float, ...] | None = Field(
        None, description="Mean power gains in dB, one for each device, in place of path loss and shadowing."
    )
    median_snr_db: float | None = Field(
        None,
        ge=-400,
        le=400,
        description="All gains are scaled so that the median device has this SNR in dB on an equal bandwidth share;"
        " left as they are when absent.",
    )
    fading: Literal["block", "independent", "selective", "rician", "nakagami", "lognormal"] = Field(
        "block",
        description="Rayleigh fading of a device's two packets: block (one fade for both), independent (one each), or"
        " selective (one for each packet and subband). Or one fade for both packets that is rician, nakagami or "
        "lognormal.",
    )
    rician_k_db: float = Field(
        6.0,
        ge=-100,
        le=40,
        description="Power of the line of sight over that of all scattered paths in dB (fading = rician).",
    )
    nakagami_m: float = Field(
        2.0, ge=0.5, le=1e4, description="Shape m of Nakagami fading, without unit; 1 is Rayleigh (fading = nakagami)."
    )
    fade_spread_db: float = Field(
        4.0, gt=0, le=40, description="Standard deviation of the fades in dB (fading = lognormal)."
    )
    multiplex: Literal["orthogonal", "superposed"] = Field(
        "orthogonal",
        description="How a device's two packets share its bandwidth: a part each (orthogonal), or all of it at once, "
        "the signs decoded first and then cancelled (superposed, with fading = block).",
    )
    subbands: int = Field(
        4, ge=2, le=64, description="Independent fades over the bandwidth of a packet (fading = selective)."
    )
    doppler_hz: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Doppler spread in Hz, by which fades correlate from round to round; independent rounds when "
        "absent.",
    )
    round_s: float | None = Field(
        None,
        ge=1e-9,
        le=1e9,
        description="Seconds between rounds for doppler_hz and movement; the uplink time of a round when absent.",
    )
    csi_error_db: float = Field(
        0.0, ge=0, le=100, description="Standard deviation in dB of the error of the mean gains that the server knows."
    )
    phase_error_rad: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Standard deviation in rad of the phase error that is left of a device when it has inverted its "
        "channel, new in each round (analogue schemes).",
    )
    side_information: SideInformation = Field(
        "in_packet",
        description="How norms, scales and other floats of a device travel: within its first packet, paid for and lost "
        "with it (in_packet), in a packet of their own that may be lost (lossy), or in one that always arrives at no "
        "cost (reliable).",
    )
    side_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the uplink time that packets of side information take, in equal parts of the bandwidth; "
        "the other packets have the rest (side_information = lossy).",
    )
    side_power_dbm: float | None = Field(
        None,
        ge=-300,
        le=300,
        description="Transmit power in dBm of a packet of side information; power_dbm when absent "
        "(side_information = lossy).",
    )
    device_csi: Literal["mean", "instantaneous"] = Field(
        "mean",
        description="What the link of a device adapts its bits to: the mean gain, or the fade of the round as well.",
    )
    segment_bits: int | None = Field(
        None,
        ge=512,
        le=10**12,
        description="Packets are cut into segments of at most this many bits, each lost on its own; one segment when "
        "absent.",
    )
    recovery: Literal["all", "segment"] = Field(
        "all",
        description="What a lost segment costs: all of its packet (all), or its slice of the vector only (segment).",
    )
    sign_parity: int = Field(
        0,
        ge=0,
        le=254,
        description="Reed-Solomon parity segments that each sign (or single) packet carries: as many of all its "
        "segments as it has without them tell it.",
    )
    link: Literal["outage", "gap", "bler", "uncoded"] = Field(
        "outage",
        description="What a packet needs to arrive: capacity at snr_gap_db (outage), at the measured gap of LDPC codes "
        "as well (gap), or the luck of their measured block error rates (bler). Without a code it arrives with bits "
        "that have flipped (uncoded).",
    )
    bler_curves: Literal["measured", "sionna"] = Field(
        "measured",
        description="Error rates of link = bler: of our table of LDPC codes (measured), or of Sionna's tables of 5G NR "
        "transport blocks with an MCS a packet (sionna).",
    )
    model: Literal["macro", "umi", "uma", "rma", "trace"] = Field(
        "macro",
        description="Mean gains: 128.1 + 37.6 log10(km) and shadowing (macro), or TR 38.901 by Sionna (umi, uma, rma); "
        "or the recorded links of [trace] in place of gains and fades (trace).",
    )
    carrier_hz: float = Field(3.5e9, ge=0.5e9, le=100e9, description="Carrier frequency in Hz (model = umi, uma, rma).")
    bs_height_m: float | None = Field(
        None,
        gt=1.5,
        le=1e6,
        description="Height of the base station in m; that of TR 38.901 for the model when absent.",
    )
    device_height_m: float = Field(1.5, ge=1.5, le=22.5, description="Height of the devices in m (umi, uma, rma).")
    indoor_share: float = Field(0.0, ge=0, le=1, description="Share of the devices that are indoors (umi, uma, rma).")
    downlink: Literal["perfect", "stale", "sit_out"] = Field(
        "perfect",
        description="The broadcast of the model: always received (perfect), or missed in a deep fade, when a device "
        "trains on the last model it received (stale) or sits out.",
    )
    downlink_power_dbm: float = Field(43.0, ge=-300, le=300, description="Transmit power of the base station in dBm.")
    downlink_noise_figure_db: float = Field(
        0.0, ge=0, le=100, description="Noise figure of the devices' receivers in dB, for the broadcast."
    )
    downlink_bits_per_parameter: float = Field(
        32.0,
        gt=0,
        le=1e6,
        description="Bits of the broadcast a parameter; it takes as long as the uplink, over the whole bandwidth.",
    )
    symbols_per_parameter: float = Field(
        2.0,
        ge=1e-6,
        le=1e9,
        description="Resource ratio B tau / (K d): complex symbols per parameter and device; it sets the uplink time "
        "of a round.",
    )
    tau_s: float | None = Field(
        None, ge=1e-9, le=1e9, description="Uplink time tau of a round in s; it overrides symbols_per_parameter."
    )

    @model_validator(mode="after")
    def _distances_ordered(self) -> ChannelConfig:
        if self.min_distance_m >= self.radius_m:
            raise ValueError(f"min_distance_m must be < radius_m, got {self.min_distance_m} and {self.radius_m}")
        if self.link == "bler" and self.fading == "selective" and self.snr_gap_db > 0:
            raise ValueError(f"snr_gap_db must be 0 with link = bler, got {self.snr_gap_db}")
        self._fade_law_is_told()
        self._places_are_told()
        self._trace_is_alone()
        self._no_code_is_plain()
        self._side_is_told()
        if self.multiplex == "superposed" and (self.fading != "block" or self.link == "bler"):
            raise ValueError(
                "multiplex = superposed needs fading = block and link = outage or gap: both packets share bandwidth, "
                f"got {self.fading} and {self.link}"
            )
        if self.recovery == "segment" and self.segment_bits is None:
            raise ValueError("recovery = segment needs segment_bits")
        if self.sign_parity and self.segment_bits is None:
            raise ValueError(f"sign_parity needs segment_bits, got {self.sign_parity} without")
        return self

    def _places_are_told(self) -> None:
        moves, default = self.movement != "none", type(self).model_fields["speed_m_per_s"].default
        if moves and (self.drop != "fixed" or self.model != "macro" or self.gains_db is not None):
            raise ValueError(f"movement = {self.movement} needs drop = fixed, model = macro and no gains_db")
        if (self.movement == "recorded") != bool(self.positions):
            raise ValueError(f"movement = recorded and positions go together, got {self.movement} and "
                             f"{len(self.positions or ())} positions")  # fmt: skip
        for device, time_s, x_m, y_m in self.positions or ():
            if device < 0 or not 0 <= time_s <= 1e12 or x_m**2 + y_m**2 > 1e18:
                raise ValueError("positions must be [device, time_s, x_m, y_m], device and time from 0, "
                                 f"got {[device, time_s, x_m, y_m]}")  # fmt: skip
        if len({row[:2] for row in self.positions or ()}) < len(self.positions or ()):
            raise ValueError("positions must name a device once at a time")
        if self.movement != "waypoint" and self.speed_m_per_s != default:
            raise ValueError(f"speed_m_per_s has an effect with movement = waypoint only, got {self.speed_m_per_s}")
        for x_m, y_m, power_dbm in self.interferers or ():
            if not 1.0 <= x_m**2 + y_m**2 <= 1e18 or not -300 <= power_dbm <= 300:
                raise ValueError("interferers must be [x_m, y_m, power_dbm], 1 m away or more, power in [-300, 300], "
                                 f"got {[x_m, y_m, power_dbm]}")  # fmt: skip
        if self.interferers and self.median_snr_db is not None:
            raise ValueError("interferers needs median_snr_db to be absent: it scales the gains of devices only")

    def _side_is_told(self) -> None:
        """A packet of side information meets the one fade of the device's packets, in a code of known gap."""
        if self.side_information != "lossy":
            for key in ("side_share", "side_power_dbm"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} needs side_information = lossy, got {getattr(self, key)}")
            return
        if self.model == "trace":
            raise ValueError("model must have no recorded links with side_information = lossy, got trace")
        if self.fading in ("independent", "selective"):
            raise ValueError("fading must be block, rician, nakagami or lognormal with side_information = lossy, "
                             f"got {self.fading}")  # fmt: skip
        if self.link not in ("outage", "gap"):
            raise ValueError(f"link must be outage or gap with side_information = lossy, got {self.link}")

    def _no_code_is_plain(self) -> None:
        """Without a code, whole packets arrive over one Rayleigh fade each, and no gap to capacity means anything."""
        if self.link != "uncoded":
            return
        wanted = {"multiplex": "orthogonal", "segment_bits": None, "snr_gap_db": 0.0}
        require("link = uncoded", {key: (getattr(self, key), value) for key, value in wanted.items()})
        if self.fading not in ("block", "independent"):
            raise ValueError(f"fading must be block or independent with link = uncoded, got {self.fading}")

    def _trace_is_alone(self) -> None:
        """A trace has the gains and the fades, of whole packets; nothing else may tell them."""
        if self.model != "trace":
            return
        wanted = {"drop": "fixed", "gains_db": None, "fading": "block", "multiplex": "orthogonal", "doppler_hz": None}
        wanted["segment_bits"] = None
        require("model = trace", {key: (getattr(self, key), value) for key, value in wanted.items()})
        if self.link in ("bler", "uncoded"):
            raise ValueError(f"link must be outage or gap with model = trace, got {self.link}")

    def _fade_law_is_told(self) -> None:
        parameters = {"rician_k_db": "rician", "nakagami_m": "nakagami", "fade_spread_db": "lognormal"}
        for key, fading in parameters.items():
            if self.fading != fading and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has an effect with fading = {fading} only, got {getattr(self, key)}")
        if self.fading in parameters.values():
            if self.link == "bler":
                raise ValueError(f"link must be outage or gap with fading = {self.fading}, got {self.link}")
            if self.doppler_hz is not None:
                raise ValueError(f"doppler_hz must be absent with fading = {self.fading}, got {self.doppler_hz}")


class DeviceConfig(Section):
    """What a device spends on computing and sending; counted, and without effect on what is learned."""

    cycles_per_sample: float = Field(
        0.0, ge=0, le=1e18, description="Processor cycles that a sample of a local step takes; 0 makes computing free."
    )
    cpu_hz: float = Field(1e9, ge=1e-3, le=1e18, description="Processor clock of the fastest device in Hz.")
    cpu_spread: float = Field(
        1.0,
        ge=1,
        le=1e9,
        description="Clock of the fastest device over that of the slowest possible one, without unit; 1 makes all "
        "equal.",
    )
    cpu_jitter: float = Field(
        0.0,
        ge=0,
        le=5,
        description="Standard deviation of the natural logarithm of the time that a device computes, drawn anew each "
        "round; 0 for as long each time.",
    )
    switched_capacitance_f: float = Field(
        1e-28,
        ge=0,
        le=1,
        description="Effective switched capacitance of the processor in farad, which sets the energy of a cycle.",
    )
    amplifier_efficiency: float = Field(
        1.0, ge=1e-6, le=1, description="Radiated power over the power drawn to send, in (0, 1]."
    )
