"""The experiment as one frozen, validated value: TOML in, defaults filled in, one-line errors out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spfl.errors import ConfigError, did_you_mean

WeightsName = Literal["unbiased", "normalized", "mmse", "plain"]
CompensationName = Literal["global", "last", "layer", "ema", "scaled_ema", "zero"]
AggregationName = Literal["mean", "trimmed_mean", "median", "sign_majority"]
SolverName = Literal["uniform", "alternating", "exact"]


class Section(BaseModel):
    """A table of the configuration file: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)


class DataConfig(Section):
    """What is learned, and how it is spread over the devices."""

    name: str = Field(
        "digits",
        description="The dataset: digits, cifar10, mnist, fashion_mnist, a Hugging Face id (owner/name), or the path "
        "of a folder.",
    )
    devices: int = Field(20, ge=1, description="Number of devices K in the cell.")
    cohort_size: int | None = Field(
        None, ge=1, description="Devices drawn at random to take part in a round; all of them when absent."
    )
    partition: Literal["iid", "dirichlet", "shards", "sampled"] = Field(
        "dirichlet",
        description="How samples are spread over devices: iid, dirichlet (by class), shards (sorted by label), or "
        "sampled, where each device draws images by a Dirichlet mixture of its own when it is needed, for"
        " populations larger than the data.",
    )
    dirichlet_alpha: float = Field(
        0.3,
        gt=0,
        description="Concentration of the Dirichlet draw, without unit: small values give each device few classes.",
    )
    shards_per_device: int = Field(2, ge=1, description="Label-sorted shards that a device gets (partition = shards).")
    samples_per_device: int = Field(100, ge=1, description="Images that a device has (partition = sampled).")
    min_samples: int = Field(
        8,
        ge=1,
        description="Fewest samples a device may hold; the Dirichlet draw is repeated until all have that many.",
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training set, in [0, 1), that is held out and evaluated on in place of the test "
        "set; tune on it.",
    )
    pool: int = Field(
        1,
        ge=1,
        le=8,
        description="Images are averaged over blocks of this many pixels squared, for quick studies; 1 leaves them as"
        " they are.",
    )


class ModelConfig(Section):
    """The network."""

    name: str = Field("mlp", description="The network: softmax, mlp, small_cnn or resnet18.")
    width: int | None = Field(
        None,
        ge=1,
        description="Hidden units of mlp, or channels of the first layer of small_cnn and resnet18; the network's own"
        " when absent.",
    )


class TrainingConfig(Section):
    """Local computation and the server's optimiser."""

    rounds: int = Field(100, ge=1, description="Communication rounds to train for.")
    batch_size: int = Field(
        32, ge=1, description="Samples of a device's minibatch; a device with fewer uses all it has."
    )
    local_steps: int = Field(
        1, ge=1, description="Local SGD steps E of a device in a round; 1 sends the gradient of one minibatch."
    )
    local_rate: float = Field(
        0.05, gt=0, description="Learning rate of the local steps; it is used when local_steps > 1."
    )
    rate: float = Field(0.1, gt=0, description="Learning rate eta of the server.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Heavy-ball momentum of the server, in [0, 1).")
    weight_decay: float = Field(0.0, ge=0, description="L2 weight decay of the server, as in torch.optim.SGD.")
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="Learning-rate schedule of the server: constant, or cosine down to zero after the last round.",
    )
    warmup_rounds: int = Field(
        0, ge=0, description="Rounds in which the server's learning rate rises linearly to its full value."
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Largest Euclidean norm of the aggregate, which is scaled down to it; unlimited when absent.",
    )
    flip: bool = Field(False, description="Whether training images are mirrored left to right at random.")
    eval_every: int = Field(10, ge=1, description="Rounds between evaluations; the last round is evaluated as well.")


class ChannelConfig(Section):
    """The cell and the uplink (THEORY 3)."""

    bandwidth_hz: float = Field(10e6, gt=0, description="Uplink bandwidth B in Hz, shared by the cohort.")
    noise_dbm_per_hz: float = Field(
        -174.0, description="Noise power density N_0 at the receiver in dBm/Hz, noise figure included."
    )
    power_dbm: float = Field(10.0, description="Transmit power P of a device in dBm.")
    snr_gap_db: float = Field(
        0.0,
        ge=0,
        description="Gap Gamma in dB between the SNR that the code needs and that of capacity; 0 is an ideal code.",
    )
    min_distance_m: float = Field(35.0, gt=0, description="Smallest distance of a device to the base station in m.")
    radius_m: float = Field(500.0, gt=0, description="Radius of the cell in m.")
    shadowing_db: float = Field(
        8.0, ge=0, description="Standard deviation of the log-normal shadowing in dB; 0 for none."
    )
    drop: Literal["fixed", "per_round"] = Field(
        "fixed", description="Whether devices are placed once for the run (fixed) or anew each round (per_round)."
    )
    gains_db: tuple[float, ...] | None = Field(
        None, description="Mean power gains in dB, one for each device, in place of path loss and shadowing."
    )
    median_snr_db: float | None = Field(
        None,
        description="All gains are scaled so that the median device has this SNR in dB on an equal share of the band;"
        " left as they are when absent.",
    )
    fading: Literal["block", "independent", "selective"] = Field(
        "block",
        description="Rayleigh fading of a device's two packets: block (one fade for both), independent (one each), or"
        " selective (one for each packet and subband).",
    )
    subbands: int = Field(
        4, ge=2, le=64, description="Independent fades over the band of a packet (fading = selective)."
    )
    doppler_hz: float | None = Field(
        None,
        ge=0,
        description="Doppler spread in Hz, by which fades correlate from round to round; independent rounds when "
        "absent.",
    )
    round_s: float | None = Field(
        None, gt=0, description="Seconds between rounds for doppler_hz; the uplink time of a round when absent."
    )
    csi_error_db: float = Field(
        0.0, ge=0, description="Standard deviation in dB of the error of the mean gains that the server knows."
    )
    segment_bits: int | None = Field(
        None,
        ge=512,
        description="Packets are cut into segments of at most this many bits, each lost on its own; one segment when "
        "absent.",
    )
    recovery: Literal["all", "segment"] = Field(
        "all",
        description="What a lost segment costs: all of its packet (all), or its slice of the vector only (segment).",
    )
    link: Literal["outage", "gap", "bler"] = Field(
        "outage",
        description="What a packet needs to arrive: capacity at snr_gap_db (outage), at the measured gap of LDPC codes "
        "as well (gap), or the luck of their measured block error rates (bler).",
    )
    model: Literal["macro", "umi", "uma", "rma"] = Field(
        "macro",
        description="Mean gains: 128.1 + 37.6 log10(km) and shadowing (macro), or TR 38.901 by Sionna (umi, uma, rma).",
    )
    carrier_hz: float = Field(3.5e9, ge=0.5e9, le=100e9, description="Carrier frequency in Hz (model = umi, uma, rma).")
    bs_height_m: float | None = Field(
        None, gt=1.5, description="Height of the base station in m; that of TR 38.901 for the model when absent."
    )
    device_height_m: float = Field(1.5, ge=1.5, le=22.5, description="Height of the devices in m (umi, uma, rma).")
    indoor_share: float = Field(0.0, ge=0, le=1, description="Share of the devices that are indoors (umi, uma, rma).")
    downlink: Literal["perfect", "stale", "sit_out"] = Field(
        "perfect",
        description="The broadcast of the model: always heard (perfect), or missed in a deep fade, when a device "
        "trains on the last model it heard (stale) or sits out.",
    )
    downlink_power_dbm: float = Field(43.0, description="Transmit power of the base station in dBm.")
    downlink_bits_per_parameter: float = Field(
        32.0,
        gt=0,
        description="Bits of the broadcast a parameter; it takes as long as the uplink, over the whole band.",
    )
    symbols_per_parameter: float = Field(
        2.0,
        gt=0,
        description="Resource ratio B tau / (K d): complex symbols per parameter and device; it sets the uplink time "
        "of a round.",
    )
    tau_s: float | None = Field(
        None, gt=0, description="Uplink time tau of a round in s; it overrides symbols_per_parameter."
    )

    @model_validator(mode="after")
    def _distances_ordered(self) -> ChannelConfig:
        if self.min_distance_m >= self.radius_m:
            raise ValueError(f"min_distance_m must be < radius_m, got {self.min_distance_m} and {self.radius_m}")
        if self.link == "bler" and self.fading == "selective" and self.snr_gap_db > 0:
            raise ValueError(f"snr_gap_db must be 0 with link = bler, got {self.snr_gap_db}")
        if self.recovery == "segment" and self.segment_bits is None:
            raise ValueError("recovery = segment needs segment_bits")
        return self


class DeviceConfig(Section):
    """What a device spends on computing and sending; counted, and without effect on what is learned."""

    cycles_per_sample: float = Field(
        0.0, ge=0, description="Processor cycles that a sample of a local step takes; 0 makes computing free."
    )
    cpu_hz: float = Field(1e9, gt=0, description="Processor clock of the fastest device in Hz.")
    cpu_spread: float = Field(
        1.0,
        ge=1,
        description="Clock of the fastest device over that of the slowest possible one, without unit; 1 makes all "
        "equal.",
    )
    switched_capacitance_f: float = Field(
        1e-28,
        ge=0,
        description="Effective switched capacitance of the processor in farad, which sets the energy of a cycle.",
    )
    amplifier_efficiency: float = Field(
        1.0, gt=0, le=1, description="Radiated power over the power drawn to send, in (0, 1]."
    )


class CodecConfig(Section):
    """Packets (THEORY 2)."""

    bits: int = Field(3, ge=1, le=8, description="Bits b of a quantised modulus; its sign takes one more.")
    per_tensor: bool = Field(
        False, description="Whether each parameter tensor has a quantiser range of its own, or all share one."
    )


class SchemeConfig(Section):
    """The transmission scheme; a key left out takes the scheme's own default (`spfl info` lists the schemes)."""

    name: str = Field(
        "sp_fl",
        description="The transmission scheme; spfl info lists them. Keys left out below take the scheme's own value.",
    )
    weights: WeightsName | None = Field(
        None,
        description="Aggregation weight c (THEORY 4): unbiased (1/q_s), normalized (over the heard), mmse, or plain "
        "(1).",
    )
    compensation: CompensationName | None = Field(
        None, description="What stands for a lost modulus (THEORY 5): global, last, layer, ema, scaled_ema or zero."
    )
    shrink: float | None = Field(None, ge=0, le=1, description="Factor in [0, 1] on the compensatory modulus.")
    error_feedback: bool | None = Field(
        None,
        description="Whether a device keeps what the server did not use, and sends it with the next gradient (THEORY "
        "8).",
    )
    error_decay: float = Field(
        1.0, ge=0, le=1, description="Decay gamma in [0, 1] of the error-feedback memory from round to round."
    )
    remembered_devices: int | None = Field(
        None,
        ge=1,
        description="Devices whose own memory (error feedback, last modulus) is kept, the latest ones; all when "
        "absent.",
    )
    solver: SolverName | None = Field(
        None,
        description="Resource allocation (THEORY 7): exact (with a certificate), alternating (the paper's) or uniform.",
    )
    rho: float | Literal["proportional"] = Field(
        "proportional",
        description="Share of a device's band for its sign packet: a number in (0, 1), or proportional to the "
        "packets' bits.",
    )
    theta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Weight of the bias in the bound, in [0, 1]: 1 is Jensen's inequality, 0 takes biases as "
        "uncorrelated.",
    )
    kappa: float = Field(1.0, gt=0, le=1, description="L eta in (0, 1], the weight of the variance in the bound.")
    scheduled: int | None = Field(
        None,
        ge=1,
        description="Devices that a scheduling baseline admits to a round; a quarter of the cohort when absent.",
    )
    density: float = Field(0.02, gt=0, le=1, description="Share in (0, 1] of the values that top_k sends.")

    aggregation: AggregationName = Field(
        "mean",
        description="How vectors of devices become one: mean (weighted), or by coordinate and with equal weights "
        "trimmed_mean, median or sign_majority, which a minority of hostile devices cannot steer.",
    )
    trim: float = Field(
        0.2, ge=0, lt=0.5, description="Share in [0, 0.5) that trimmed_mean leaves out at either end of a coordinate."
    )
    device_clip: float | None = Field(
        None,
        ge=1,
        description="Largest norm of one device's vector, as a multiple of the cohort's median; unlimited when absent.",
    )
    max_samples: float | None = Field(
        None,
        ge=1,
        description="Most samples a device may claim, as a multiple of the cohort's median; unlimited when absent.",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share in (0, 1] of the band that one device may be given; unlimited when absent.",
    )

    @model_validator(mode="after")
    def _rho_in_range(self) -> SchemeConfig:
        if isinstance(self.rho, float) and not 0 < self.rho < 1:
            raise ValueError(f"rho must lie in (0, 1) or be 'proportional', got {self.rho}")
        return self


class AttackConfig(Section):
    """Hostile devices, for experiments on the defences of [scheme]."""

    kind: Literal["none", "sign_flip", "scale", "noise", "nan", "inflate", "samples", "replay", "stale"] = Field(
        "none",
        description="What hostile devices do: sign_flip, scale or noise the gradient, nan in all they claim, inflate "
        "their norm or samples, replay old packets, or send a stale gradient; none of it with none.",
    )
    devices: int = Field(0, ge=0, description="Number of hostile devices, drawn at random from all.")
    factor: float = Field(
        10.0, gt=0, le=1e15, description="Strength, without unit: factor on the gradient or on the claim."
    )


class Config(Section):
    """A whole experiment. Two runs with equal configs give equal bits."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of every random stream; equal seeds and configurations give equal bits."
    )
    workers: int = Field(
        0, ge=0, description="Threads that compute gradients; 0 is one for each core. It never changes results."
    )
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    channel: ChannelConfig = Field(default_factory=lambda: ChannelConfig())
    device: DeviceConfig = Field(default_factory=lambda: DeviceConfig())
    codec: CodecConfig = Field(default_factory=lambda: CodecConfig())
    scheme: SchemeConfig = Field(default_factory=lambda: SchemeConfig())
    attack: AttackConfig = Field(default_factory=lambda: AttackConfig())

    @model_validator(mode="after")
    def _counts_agree(self) -> Config:
        gains, cohort = self.channel.gains_db, self.data.cohort_size
        if gains is not None and len(gains) != self.data.devices:
            raise ValueError(f"channel.gains_db needs one value a device ({self.data.devices}), got {len(gains)}")
        if cohort is not None and cohort > self.data.devices:
            raise ValueError(f"data.cohort_size must be <= data.devices ({self.data.devices}), got {cohort}")
        if self.attack.devices > self.data.devices:
            raise ValueError(f"attack.devices must be <= data.devices ({self.data.devices}), got {self.attack.devices}")
        if self.scheme.max_share is not None and self.scheme.max_share * self.cohort < 1.0:
            raise ValueError(
                f"scheme.max_share must be >= 1 / {self.cohort}, an equal share, got {self.scheme.max_share}"
            )
        if self.scheme.aggregation != "mean" and self.channel.recovery == "segment":
            raise ValueError(
                f"scheme.aggregation must be mean with channel.recovery = segment, got {self.scheme.aggregation}"
            )
        return self

    @property
    def cohort(self) -> int:
        """Devices that take part in a round."""
        return self.data.cohort_size or self.data.devices


def build_config(values: Mapping[str, Any]) -> Config:
    """Validate a nested mapping. Raises ConfigError with one line for the first broken rule."""
    return validated(Config, values)


def validated(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A section, or a configuration with further sections. Raises ConfigError as `build_config` does."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, kind)) from None


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file (defaults when None) and apply `section.key=value` overrides, later ones winning.

    Raises ConfigError for an unreadable file, bad TOML, an unknown key (with the nearest name) or a bad value.
    """
    return build_config(read_values(path, overrides))


def read_values(path: Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file (none when None) with overrides applied; ConfigError as in `load_config`."""
    values = read_toml(path) if path else {}
    for override in overrides:
        assign(values, *parse_override(override))
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`. Raises ConfigError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set needs key=value, got '{text}'")
    return key.strip(), parse_value(value.strip())


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in nested tables. Raises ConfigError where a section of the key is a value."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: '{section}' is a value, not a section")
    values[last] = value


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself when it is none (so that `--set scheme.name=sp_fl` needs no quotes)."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _one_line(error: ValidationError, root: type[Section]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("function", "literal", "float"))]
    name = ".".join(path) or "config"
    if first["type"] == "extra_forbidden":
        return f"unknown config key '{name}'" + did_you_mean(path[-1], _known_keys(root, path[:-1]))
    if first["type"] == "value_error":
        rule = str(first["msg"]).removeprefix("Value error, ")
        return rule if not path else f"{name}: {rule}"
    message = str(first["msg"])
    return f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _known_keys(root: type[BaseModel], path: list[str]) -> Iterable[str]:
    section = root
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return section.model_fields.keys()


def to_toml(config: Config) -> str:
    """The config as TOML that `load_config` reads back to an equal value (absent keys stand for None)."""
    lines: list[str] = []
    tables = config.model_dump(mode="json", exclude_none=True)
    for key, value in tables.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {_toml_value(value)}")
    for key, value in tables.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{k} = {_toml_value(v)}" for k, v in value.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's; DEL is not
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
