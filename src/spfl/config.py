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
SolverName = Literal["uniform", "alternating", "exact"]


class Section(BaseModel):
    """A table of the configuration file: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)


class DataConfig(Section):
    """What is learned, and how it is spread over the devices."""

    name: str = Field("digits", description="digits, cifar10, mnist, fashion_mnist, a Hugging Face id or a folder")
    devices: int = Field(20, ge=1, description="number of devices K in the cell")
    cohort_size: int | None = Field(None, ge=1, description="devices sampled each round; all when absent")
    partition: Literal["iid", "dirichlet", "shards", "sampled"] = Field(
        "dirichlet",
        description="how labels are spread; sampled: each device draws images by a Dirichlet mixture of its own, when "
        "it is needed, for populations larger than the data",
    )
    dirichlet_alpha: float = Field(0.3, gt=0, description="concentration: small means few classes a device")
    shards_per_device: int = Field(2, ge=1, description="label-sorted shards a device gets (partition = shards)")
    samples_per_device: int = Field(100, ge=1, description="images of a device (partition = sampled)")
    min_samples: int = Field(8, ge=1, description="fewest samples a device may hold")
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="if > 0, evaluate on this held-out part of the training set, never on test",
    )
    pool: int = Field(1, ge=1, le=8, description="average-pool images by this factor, for quick studies")


class ModelConfig(Section):
    """The network."""

    name: str = Field("mlp", description="softmax, mlp, small_cnn or resnet18")
    width: int | None = Field(None, ge=1, description="hidden units (mlp) or first channels (small_cnn, resnet18)")


class TrainingConfig(Section):
    """Local computation and the server's optimiser."""

    rounds: int = Field(100, ge=1, description="communication rounds")
    batch_size: int = Field(32, ge=1, description="samples of a local minibatch")
    local_steps: int = Field(1, ge=1, description="local SGD steps E; 1 sends a minibatch gradient")
    local_rate: float = Field(0.05, gt=0, description="learning rate of the local steps when E > 1")
    rate: float = Field(0.1, gt=0, description="server learning rate eta")
    momentum: float = Field(0.0, ge=0, lt=1, description="server heavy-ball momentum")
    weight_decay: float = Field(0.0, ge=0, description="server L2 weight decay")
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning-rate schedule")
    warmup_rounds: int = Field(0, ge=0, description="rounds of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the aggregate; unlimited when absent")
    flip: bool = Field(False, description="random horizontal flips of training images")
    eval_every: int = Field(10, ge=1, description="evaluate each n rounds, and after the last")


class ChannelConfig(Section):
    """The cell and the uplink (THEORY 3)."""

    bandwidth_hz: float = Field(10e6, gt=0, description="uplink bandwidth B shared by the cohort, Hz")
    noise_dbm_per_hz: float = Field(-174.0, description="noise density N_0, dBm/Hz")
    power_dbm: float = Field(10.0, description="transmit power P of a device, dBm")
    snr_gap_db: float = Field(0.0, ge=0, description="SNR gap Gamma to capacity, dB")
    min_distance_m: float = Field(35.0, gt=0, description="smallest distance to the base station, m")
    radius_m: float = Field(500.0, gt=0, description="cell radius, m")
    shadowing_db: float = Field(8.0, ge=0, description="standard deviation of log-normal shadowing, dB")
    drop: Literal["fixed", "per_round"] = Field("fixed", description="place devices once, or anew each round")
    gains_db: tuple[float, ...] | None = Field(None, description="explicit mean gains in dB, one a device")
    median_snr_db: float | None = Field(
        None, description="scale all gains so that the median device has this SNR on an equal share, dB"
    )
    fading: Literal["block", "independent", "selective"] = Field(
        "block", description="one fade for both packets, one each, or one each and subband"
    )
    subbands: int = Field(4, ge=2, le=64, description="independent fades over a packet (fading = selective)")
    doppler_hz: float | None = Field(
        None, ge=0, description="Doppler spread: fades correlate from round to round; independent when absent, Hz"
    )
    round_s: float | None = Field(None, gt=0, description="seconds between rounds for doppler_hz; tau when absent")
    csi_error_db: float = Field(0.0, ge=0, description="standard deviation of the gains the server knows, dB")
    segment_bits: int | None = Field(None, ge=512, description="cut packets into segments of at most so many bits")
    recovery: Literal["all", "segment"] = Field(
        "all", description="a lost segment loses its packet, or only its slice of the vector"
    )
    symbols_per_parameter: float = Field(
        2.0, gt=0, description="resource ratio B tau / (K d): complex symbols per parameter and device"
    )
    tau_s: float | None = Field(None, gt=0, description="uplink seconds a round; overrides symbols_per_parameter")

    @model_validator(mode="after")
    def _distances_ordered(self) -> ChannelConfig:
        if self.min_distance_m >= self.radius_m:
            raise ValueError(f"min_distance_m must be < radius_m, got {self.min_distance_m} and {self.radius_m}")
        if self.recovery == "segment" and self.segment_bits is None:
            raise ValueError("recovery = segment needs segment_bits")
        return self


class DeviceConfig(Section):
    """What a device spends on computing and sending; counted, and without effect on what is learned."""

    cycles_per_sample: float = Field(0.0, ge=0, description="processor cycles a sample of a local step; 0: free")
    cpu_hz: float = Field(1e9, gt=0, description="processor clock of the fastest device, Hz")
    cpu_spread: float = Field(1.0, ge=1, description="clock of the fastest over that of the slowest possible device")
    switched_capacitance_f: float = Field(1e-28, ge=0, description="effective switched capacitance, farad")
    amplifier_efficiency: float = Field(1.0, gt=0, le=1, description="radiated power over power drawn to send")


class CodecConfig(Section):
    """Packets (THEORY 2)."""

    bits: int = Field(3, ge=1, le=8, description="bits b of a quantised modulus")
    per_tensor: bool = Field(False, description="one quantiser range per parameter tensor instead of one in all")


class SchemeConfig(Section):
    """The transmission scheme; a key left out takes the scheme's own default (`spfl info` lists the schemes)."""

    name: str = Field("sp_fl", description="name of the scheme")
    weights: WeightsName | None = Field(None, description="aggregation weight c (THEORY 4)")
    compensation: CompensationName | None = Field(None, description="compensatory modulus (THEORY 5)")
    shrink: float | None = Field(None, ge=0, le=1, description="factor on the compensatory modulus")
    error_feedback: bool | None = Field(None, description="keep what the server did not use (THEORY 8)")
    error_decay: float = Field(1.0, ge=0, le=1, description="decay gamma of the error-feedback memory")
    remembered_devices: int | None = Field(
        None, ge=1, description="devices whose own memory (error feedback, last modulus) is kept; all when absent"
    )
    solver: SolverName | None = Field(None, description="resource allocation (THEORY 7)")
    rho: float | Literal["proportional"] = Field(
        "proportional", description="share of a device's band for its sign packet; a number in (0, 1)"
    )
    theta: float = Field(1.0, ge=0, le=1, description="1: Jensen's bias weight; 0: uncorrelated biases")
    kappa: float = Field(1.0, gt=0, le=1, description="L eta, weight of the variance in the bound")
    scheduled: int | None = Field(
        None, ge=1, description="devices a scheduling baseline admits each round; a quarter of the cohort when absent"
    )
    density: float = Field(0.02, gt=0, le=1, description="share of the values that top_k sends")

    @model_validator(mode="after")
    def _rho_in_range(self) -> SchemeConfig:
        if isinstance(self.rho, float) and not 0 < self.rho < 1:
            raise ValueError(f"rho must lie in (0, 1) or be 'proportional', got {self.rho}")
        return self


class Config(Section):
    """A whole experiment. Two runs with equal configs give equal bits."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random stream")
    workers: int = Field(0, ge=0, description="threads that compute gradients; 0 = all cores; never changes results")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    channel: ChannelConfig = Field(default_factory=lambda: ChannelConfig())
    device: DeviceConfig = Field(default_factory=lambda: DeviceConfig())
    codec: CodecConfig = Field(default_factory=lambda: CodecConfig())
    scheme: SchemeConfig = Field(default_factory=lambda: SchemeConfig())

    @model_validator(mode="after")
    def _counts_agree(self) -> Config:
        gains, cohort = self.channel.gains_db, self.data.cohort_size
        if gains is not None and len(gains) != self.data.devices:
            raise ValueError(f"channel.gains_db needs one value a device ({self.data.devices}), got {len(gains)}")
        if cohort is not None and cohort > self.data.devices:
            raise ValueError(f"data.cohort_size must be <= data.devices ({self.data.devices}), got {cohort}")
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
