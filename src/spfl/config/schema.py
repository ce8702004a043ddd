"""The experiment as one frozen, validated value: defaults filled in, one-line errors out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from spfl.config.asynchronous import AsynchronousConfig
from spfl.config.data import DataConfig
from spfl.config.names import AggregationName, CompensationName, SolverName, WeightsName
from spfl.config.plugin import PluginConfig
from spfl.config.radio import ChannelConfig, DeviceConfig
from spfl.config.section import Section, require, validated
from spfl.config.trace import TraceConfig
from spfl.config.training import ClientsConfig, TrainingConfig


class ModelConfig(Section):
    """The network."""

    name: str = Field(
        "mlp",
        description="The network: softmax, mlp, small_cnn or resnet18; for sequences of tokens lstm or transformer.",
    )
    width: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Hidden units of mlp, lstm and transformer, or channels of the first layer of small_cnn and "
        "resnet18; the network's own when absent.",
    )
    factory: str | None = Field(
        None,
        max_length=400,
        description="Function that makes the network in place of name: package.module:function or file.py:function, "
        "such as torchvision.models:shufflenet_v2_x0_5.",
    )
    batch_norm: Literal["average", "group", "frozen"] = Field(
        "average",
        description="What becomes of BatchNorm in a network of your own: devices tell their running statistics and the "
        "server averages them (average), GroupNorm takes its place (group), or its statistics stay as they came and "
        "are used in training as well (frozen).",
    )


class CodecConfig(Section):
    """Packets (model.md, section 2)."""

    bits: int = Field(3, ge=1, le=8, description="Bits b of a quantised modulus; its sign takes one more.")
    per_tensor: bool = Field(
        True,
        description="Whether each parameter tensor has a quantiser range of its own, or all share one.",
    )


class SchemeConfig(Section):
    """The transmission scheme; a key left out takes the scheme's own default (`spfl info` lists the schemes)."""

    name: str = Field(
        "sp_fl",
        description="The transmission scheme; spfl info lists them. Keys left out below take the scheme's own value.",
    )
    weights: WeightsName | None = Field(
        None,
        description="Aggregation weight c (model.md, section 4): unbiased (1/q_s), normalized (over the received), "
        "mmse, or plain (1).",
    )
    compensation: CompensationName | None = Field(
        None,
        description="What stands for a lost modulus (model.md, section 5): global, last, layer, constant, ema, "
        "scaled_ema or zero.",
    )
    shrink: float | None = Field(None, ge=0, le=1, description="Factor in [0, 1] on the compensatory modulus.")
    error_feedback: bool | None = Field(
        None,
        description="Whether a device keeps what the server did not use, and sends it with the next gradient "
        "(model.md, section 8).",
    )
    error_decay: float = Field(
        1.0, ge=0, le=1, description="Decay gamma in [0, 1] of the error-feedback memory from round to round."
    )
    remembered_devices: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Devices whose own memory (error feedback, last modulus) is kept, the latest ones; all when "
        "absent.",
    )
    solver: SolverName | None = Field(
        None,
        description="Resource allocation (model.md, section 7): exact (with a certificate), alternating (the paper's) "
        "or uniform.",
    )
    bits_per_value: float | None = Field(
        None,
        ge=1 / 64,
        le=4,
        description="Bits of a value in a ladder of rotated bits, the same for every device; below 1 a sketch.",
    )
    peaks: bool | None = Field(
        None,
        description="Whether a ladder tells where the largest values of small groups are before all signs, and before "
        "magnitudes (packets/peaks.py); sp_fl_plus does when absent, unless segments cut its packets.",
    )
    tau: float | None = Field(
        None,
        gt=0,
        le=1e3,
        description="Part of a device's gradient that no other device can tell, relative to its squared norm.",
    )
    ridge: float | None = Field(
        None,
        gt=0,
        le=1e3,
        description="Share of the spread of the auxiliary vectors that calibrated weights take for noise.",
    )
    auxiliary: Literal["bias", "labels"] | None = Field(
        None,
        description="What calibrated weights correct by: the gradient of the output bias, or the label shares that "
        "devices tell when they join.",
    )
    rho: float | Literal["proportional"] = Field(
        "proportional",
        description="Share of a device's bandwidth for its sign packet: a number in (0, 1), or proportional to the "
        "packets' bits.",
    )
    objective: Literal["bound", "error"] | None = Field(
        None,
        description="What bandwidth and power minimise (model.md, sections 6 and 9): the one-step bound, or the "
        "expected squared error of the mean.",
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
        le=10**6,
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
        le=1e6,
        description="Largest norm of one device's vector, as a multiple of the cohort's median; unlimited when absent.",
    )
    max_samples: float | None = Field(
        None,
        ge=1,
        le=1e6,
        description="Most samples a device may claim, as a multiple of the cohort's median; unlimited when absent.",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share in (0, 1] of the bandwidth that one device may be given; unlimited when absent.",
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
    devices: int = Field(0, ge=0, le=10**9, description="Number of hostile devices, drawn at random from all.")
    factor: float = Field(
        10.0, gt=0, le=1e15, description="Strength, without unit: factor on the gradient or on the claim."
    )


MOST_AT_A_TIME = 10**6  # devices of a round
NO_EFFECT = ("workers", "processes")  # keys of a configuration that change no result


class Config(Section):
    """A whole experiment. Two runs with equal configs give equal bits."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of every random stream; equal seeds and configurations give equal bits."
    )
    workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Threads that compute gradients; 0 is one for each core. It never changes results.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=4096,
        description="Processes that share these threads, for machines of many cores. It never changes results.",
    )
    torch_device: str | None = Field(
        None,
        max_length=40,
        description="PyTorch device on which whole rounds run, such as cuda; worker threads and the NumPy codec when "
        "absent. Results differ in the last bits of sums.",
    )
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    clients: ClientsConfig = Field(default_factory=lambda: ClientsConfig())
    asynchronous: AsynchronousConfig = Field(default_factory=lambda: AsynchronousConfig())
    channel: ChannelConfig = Field(default_factory=lambda: ChannelConfig())
    trace: TraceConfig = Field(default_factory=lambda: TraceConfig())
    device: DeviceConfig = Field(default_factory=lambda: DeviceConfig())
    codec: CodecConfig = Field(default_factory=lambda: CodecConfig())
    scheme: SchemeConfig = Field(default_factory=lambda: SchemeConfig())
    attack: AttackConfig = Field(default_factory=lambda: AttackConfig())
    plugin: PluginConfig = Field(default_factory=lambda: PluginConfig())

    @model_validator(mode="after")
    def _counts_agree(self) -> Config:
        gains, cohort = self.channel.gains_db, self.data.cohort_size
        if gains is not None and len(gains) != self.data.devices:
            raise ValueError(f"channel.gains_db needs one value a device ({self.data.devices}), got {len(gains)}")
        if gains is not None and not all(-400 <= gain <= 400 for gain in gains):
            raise ValueError(f"channel.gains_db must lie in [-400, 400] dB, got {min(gains)} to {max(gains)}")
        if self.cohort > MOST_AT_A_TIME:
            raise ValueError(
                f"data.cohort_size must be given with more than {MOST_AT_A_TIME} devices, got {self.data.devices}"
            )
        if cohort is not None and cohort > self.data.devices:
            raise ValueError(f"data.cohort_size must be <= data.devices ({self.data.devices}), got {cohort}")
        if self.attack.devices > self.data.devices:
            raise ValueError(f"attack.devices must be <= data.devices ({self.data.devices}), got {self.attack.devices}")
        self._check_clients()
        if self.channel.positions and max(row[0] for row in self.channel.positions) >= self.data.devices:
            raise ValueError(f"channel.positions must name devices 0..{self.data.devices - 1}")
        if self.asynchronous.on:
            self._check_asynchronous()
        if (self.channel.model == "trace") != (self.trace.path is not None):
            raise ValueError("channel.model = trace and trace.path go together, got "
                             f"{self.channel.model} and {self.trace.path}")  # fmt: skip
        if self.channel.multiplex == "superposed" and self.scheme.rho != "proportional":
            raise ValueError(
                f"scheme.rho must be proportional with channel.multiplex = superposed, got {self.scheme.rho}"
            )
        if self.scheme.max_share is not None and self.scheme.max_share * self.cohort < 1.0:
            raise ValueError(
                f"scheme.max_share must be >= 1 / {self.cohort}, an equal share, got {self.scheme.max_share}"
            )
        if self.training.eval_samples is not None and self.data.source == "node":
            raise ValueError("training.eval_samples must be absent with data.source = node, whose nodes evaluate, got "
                             f"{self.training.eval_samples}")  # fmt: skip
        if self.scheme.aggregation != "mean" and self.channel.recovery == "segment":
            raise ValueError(
                f"scheme.aggregation must be mean with channel.recovery = segment, got {self.scheme.aggregation}"
            )
        return self

    def _check_clients(self) -> None:
        clients, devices = self.clients, self.data.devices
        for key in ("availability", "dropout"):
            value = getattr(clients, key)
            if isinstance(value, tuple) and len(value) != devices:
                raise ValueError(f"clients.{key} needs one value, or one a device ({devices}), got {len(value)}")
        if clients.selection != "random" and self.cohort == devices:
            raise ValueError(f"clients.selection = {clients.selection} needs data.cohort_size < data.devices")
        if clients.candidates is not None and not self.cohort <= clients.candidates <= devices:
            raise ValueError(f"clients.candidates must lie in {self.cohort}..{devices}, got {clients.candidates}")
        if clients.deadline_s is not None and self.device.cycles_per_sample == 0:
            raise ValueError("clients.deadline_s needs device.cycles_per_sample > 0, or no device is ever late")
        if clients.online and max(row[0] for row in clients.online) >= devices:
            raise ValueError(f"clients.online must name devices 0..{devices - 1}")
        if self.training.correction != "none" and self.scheme.remembered_devices is not None:
            raise ValueError(f"training.correction = {self.training.correction} keeps a vector of every device, so "
                             "scheme.remembered_devices must be absent")  # fmt: skip

    def _check_asynchronous(self) -> None:
        """What takes a round to be one exchange with all, or rounds to follow each other at equal times, is refused."""
        rule, training, channel, clients = self.asynchronous.rule, self.training, self.channel, self.clients
        if self.device.cycles_per_sample == 0:
            raise ValueError(f"asynchronous.rule = {rule} needs device.cycles_per_sample > 0, or all have computed at "
                             "once")  # fmt: skip
        wanted: dict[str, tuple[Any, Any]] = {
            "training.correction": (training.correction, "none"),
            "clients.selection": (clients.selection, "random"),
            "clients.deadline_s": (clients.deadline_s, None),
            "channel.downlink": (channel.downlink, "perfect"),
            "channel.doppler_hz": (channel.doppler_hz, None),
            "channel.movement": (channel.movement, "none"),
            "trace.path": (self.trace.path, None),
            "data.source": (self.data.source, "partition"),
            "scheme.aggregation": (self.scheme.aggregation, "mean"),
            "torch_device": (self.torch_device, None),
        }
        if rule == "fedasync":
            wanted |= {"training.server_optimiser": (training.server_optimiser, "sgd")}
            wanted |= {"training.momentum": (training.momentum, 0.0)}
            if training.one_gradient:
                raise ValueError("asynchronous.rule = fedasync mixes models, so it needs training.local_steps > 1 or "
                                 "local_epochs; fedbuff with buffer = 1 takes gradients")  # fmt: skip
        require(f"asynchronous.rule = {rule}", wanted)

    @property
    def cohort(self) -> int:
        """Devices that take part in a round."""
        return self.data.cohort_size or self.data.devices


def build_config(values: Mapping[str, Any]) -> Config:
    """Validate a nested mapping. Raises ConfigError with one line for the first broken rule."""
    return validated(Config, values)
