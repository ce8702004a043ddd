"""What a transmission scheme is: a record of choices, in one design space with every baseline.

How a gradient is put into packets, how bandwidth and power are shared, and what the server does with the packets that
arrive. The choices are carried out by the modules of `spfl.uplink`; `spfl.schemes` has the schemes by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from numpy.typing import ArrayLike
from pydantic import Field

from spfl.allocation.bound import Devices, Weights
from spfl.compensation import Compensation
from spfl.config.names import SolverName
from spfl.config.schema import SchemeConfig
from spfl.config.section import check_fields
from spfl.errors import ConfigError
from spfl.packets.vector_codecs import Codec
from spfl.radio.outage import Link

Uplink = Literal["ideal", "split", "single", "sign", "sparse", "analog", "ladder", "codec"]
Rule = Literal["mean", "calibrated", "reuse", "memory", "vote"]
Combining = Literal["none", "incremental"]
ObjectiveName = Literal["bound", "error", "participation"]
Auxiliary = Literal["bias", "labels"]
Schedule = Literal["all", "channel", "norm", "channel_norm", "fair"]
OwnShares = Callable[[Devices, Link], tuple[ArrayLike, ArrayLike]]
ONE_PACKET: tuple[Uplink, ...] = ("ideal", "single", "sign", "sparse", "analog")
# What a field may not be together with another: field, value, the other field, its values.
CONFLICTS: tuple[tuple[str, object, str, tuple[object, ...]], ...] = (
    ("rotated", True, "uplink", ("ideal", "analog", "sparse")),  # which carry the gradient in its own coordinates
    ("rotated", True, "rule", ("vote",)),  # votes are about parameters
    ("rule", "calibrated", "uplink", ("ideal", "analog")),  # which send no output bias as side information
    ("allocate_split", True, "uplink", ONE_PACKET),  # there is nothing to split
    ("uplink", "ladder", "rotated", (False,)),  # its planes are those of rotated blocks
    ("uplink", "codec", "codec", (None,)),  # which makes the packet
    ("combining", "incremental", "attempts", (1, *range(3, 99))),  # the law is that of two
    ("combining", "incremental", "uplink", ("ideal", "split", "sparse", "analog", "ladder", "codec")),
)


@dataclass(frozen=True)
class Scheme:
    """One transmission scheme: how gradients are sent, how resources are shared, what the server makes of it.

    It is a record of choices; a baseline is one row of `SCHEMES`. Fields are checked when a scheme is made.

    Args:
        name: Its name, in configurations and tables.
        source: Where it comes from.
        summary: What it does, in at most 100 characters.
        uplink: What is sent. `ideal`: the exact gradient without loss. `split`: a sign and a modulus packet. `single`:
            both in one packet. `sign`: the sign packet alone. `sparse`: the largest values and their places. `analog`:
            signs superposed in the air. `ladder`: as many rotated bits as are granted, important ones first. `codec`:
            one packet of the codec below.
        weights: Aggregation weight c of the rule `mean` (model.md, section 4).
        compensation: What stands for a lost modulus: a name, or a `CompensationRule` (model.md, section 5).
        shrink: Factor in [0, 1] on the compensatory modulus.
        solver: Who allocates: `uniform`, `alternating` or `exact`.
        allocate_band: Whether the bandwidth is optimised.
        allocate_power: Whether the split of the power is optimised.
        error_feedback: Whether a device keeps what the server did not use, for its next gradient.
        rule: What the server makes of what it received. `mean`: the weighted mean of model.md, section 4. `calibrated`:
            the mean over the received, corrected by side information from all devices. `reuse`: the last update stands
            in for the weight that was not received. `memory`: the vector last received of a device stands in for it.
            `vote`: the sign of the sum of signs, each weighted by its samples,
            times the mean modulus of each tensor.
        schedule: Who may send: all, or the best by instantaneous channel, by gradient norm, or by both.
        attempts: Times a packet is sent, each with its part of the time; it is received if one attempt is.
        combining: What the receiver makes of several attempts. `none`: each is decoded alone. `incremental`: new parity
            each time, decoded together (see `spfl.radio.harq`).
        density: Share in (0, 1] of the values that `sparse` sends.
        one_mean: Whether the mean modulus that a device reports is one number, not one a parameter tensor.
        rotated: Whether signs and moduli are taken after a random rotation; a sign alone is then nearly unbiased.
        objective: What the resources minimise. `bound`: the one-step bound. `error`: the expected squared error of the
            mean over the received. `participation`: see `spfl.allocation.participation`.
        allocate_split: Whether the split of the bandwidth (rho) is optimised as well.
        share: Your own allocation in place of a solver: from (devices, link) to beta and alpha, each (device,).
        bits_per_value: Bits a value of a `ladder`, for every device; None lets the allocator choose for each.
        peaks: Whether a `ladder` tells the largest values of small groups first (`spfl.packets.peaks`).
        tau: Part of a device's gradient that no other device can tell, relative to its squared norm (model.md, section
            11).
        noise_aware: Whether calibrated weights count how noisy what was received of a device is.
        auxiliary: By what `calibrated` weights are corrected: the gradient of the output bias, or the label shares that
            devices told when they joined.
        ridge: Share of the spread of the label shares or gradients that calibration takes for noise.
        codec: A vector to one packet and back, for the uplink `codec`.

    Raises:
        ConfigError: A field is not what its annotation admits, or two fields contradict each other.
    """

    name: str
    source: str
    summary: str
    uplink: Uplink = "split"
    weights: Weights = "normalized"
    compensation: Compensation = "layer"
    shrink: Annotated[float, Field(ge=0, le=1)] = 1.0
    solver: SolverName = "uniform"
    allocate_band: bool = True
    allocate_power: bool = True
    error_feedback: bool = False
    rule: Rule = "mean"
    schedule: Schedule = "all"
    attempts: Annotated[int, Field(ge=1)] = 1
    combining: Combining = "none"
    density: Annotated[float, Field(gt=0, le=1)] = 0.02
    one_mean: bool = False
    rotated: bool = False
    objective: ObjectiveName = "bound"
    allocate_split: bool = False
    share: OwnShares | None = None
    bits_per_value: Annotated[float, Field(gt=0)] | None = None
    peaks: bool = False
    tau: float = 1.0
    noise_aware: bool = False
    auxiliary: Auxiliary = "bias"
    ridge: float = 0.3
    codec: Codec | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value, other, values in CONFLICTS:
            if getattr(self, name) == value and (met := getattr(self, other)) in values:
                raise ConfigError(f"Scheme.{name} must not be {value!r} with {other} = {met!r}")

    @property
    def grants_bits(self) -> bool:
        """Whether the allocator decides, with the bandwidth, how long the packet of each device is."""
        return self.uplink == "ladder" and self.objective == "participation"


def bias_and_noise(scheme: Scheme, config: SchemeConfig) -> tuple[float, float]:
    """theta and kappa of the scheme's cost (model.md, section 6): 0 and 1 where it is the squared error of the mean."""
    return (0.0, 1.0) if scheme.objective == "error" else (config.theta, config.kappa)
