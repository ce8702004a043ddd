"""The proposed scheme and every baseline, each a point of one design space, in one dictionary.

A scheme says how a gradient is put into packets, how bandwidth and power are shared, and what the server does with
the packets that arrive. It is a record of choices only, carried out by the modules of `spfl.uplink`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from numpy.typing import ArrayLike
from pydantic import Field

from spfl.allocation.bound import Devices, Weights
from spfl.allocation.equal_outage import equal_outage
from spfl.compensation import Compensation
from spfl.config.names import SolverName
from spfl.config.schema import SchemeConfig
from spfl.config.section import check_fields
from spfl.errors import ConfigError, did_you_mean
from spfl.packets.vector_codecs import FLOAT32, TERNGRAD, Codec, qsgd
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


_SINGLE = Scheme(
    "single_packet",
    "conventional",
    "sign and modulus in one packet; a device whose packet is lost is left out",
    "single",
)
_SIGN = Scheme("sign_mean", "ours", "signs alone, each device's scaled by its mean modulus per tensor", "sign")
_SP_FL = Scheme(
    "sp_fl",
    "Yue et al. 2026, our reading",
    "sign and modulus packets, bandwidth and power by the one-step bound",
    uplink="split",
    weights="unbiased",
    compensation="global",
    solver="alternating",
)
_SP_FL_PLUS_1 = Scheme(
    "sp_fl_plus_1",
    "ours",
    "sp_fl in a rotated basis with calibrated weights; resources minimise the error of the mean",
    uplink="split",
    solver="exact",
    rule="calibrated",
    rotated=True,
    objective="error",
    allocate_split=True,
)
_DRIVE = Scheme(
    "drive",
    "Vargaftik et al. 2021 (DRIVE)",
    "one rotated bit a value, equal bandwidths, mean of the received",
    uplink="ladder",
    rotated=True,
    bits_per_value=1.0,
)
_SP_FL_PLUS = replace(
    _DRIVE,
    name="sp_fl_plus",
    source="ours",
    summary="important bits first: bandwidth and bits by who takes part, noise-aware calibrated weights",
    bits_per_value=None,
    solver="exact",
    objective="participation",
    rule="calibrated",
    noise_aware=True,
)
_PLUS_1_ABLATION = "ablation of sp_fl_plus_1, ours"
_AMIRI = "Amiri et al. 2021"
_ABLATION = "ablation of sp_fl, ours"

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("error_free", "upper limit", "exact gradients, nothing lost, no quantisation", uplink="ideal"),
        _SINGLE,
        replace(
            _SINGLE,
            name="single_packet_unbiased",
            summary="single packet with inverse-probability weights",
            weights="unbiased",
        ),
        replace(
            _SINGLE,
            name="single_packet_optimised",
            source="ours",
            summary="single packet, its bandwidth by the exact solver",
            solver="exact",
        ),
        replace(
            _SINGLE,
            name="retransmit",
            summary="single packet sent twice, each time for half the time at the same power",
            attempts=2,
        ),
        replace(
            _SINGLE,
            name="harq",
            source="Caire, Tuninetti 2001 (HARQ-IR)",
            summary="as retransmit, with new parity the second time, decoded with the first",
            attempts=2,
            combining="incremental",
        ),
        replace(
            _SINGLE,
            name="mifa",
            source="Gu et al. 2021 (MIFA)",
            summary="single packet; the vector last received of a lost device stands in for it",
            rule="memory",
        ),
        replace(
            _SINGLE,
            name="reuse_last",
            source="ours",
            summary="single packet; the last global update stands in for lost devices",
            rule="reuse",
        ),
        replace(
            _SINGLE,
            name="schedule_channel",
            source=f"{_AMIRI} (BC)",
            summary="only the best instantaneous channels send; needs more channel knowledge than sp_fl",
            schedule="channel",
        ),
        replace(
            _SINGLE,
            name="schedule_norm",
            source=f"{_AMIRI} (BN2)",
            summary="only the largest gradient norms send",
            schedule="norm",
        ),
        replace(
            _SINGLE,
            name="schedule_channel_norm",
            source=f"{_AMIRI} (BC-BN2)",
            summary="of twice as many best instantaneous channels, the largest norms send",
            schedule="channel_norm",
        ),
        replace(
            _SIGN,
            name="majority_vote",
            source="Bernstein et al. 2018",
            summary="signs alone; sign of their weighted sum times the mean modulus per tensor",
            rule="vote",
        ),
        replace(
            _SIGN,
            name="scaled_sign",
            source="Karimireddy et al. 2019",
            summary="signs alone, each device's scaled by its mean modulus",
            one_mean=True,
        ),
        _SIGN,
        Scheme(
            "top_k",
            "Aji, Heafield 2017; Stich et al. 2018",
            "the largest values with their places, the rest kept for later rounds",
            uplink="sparse",
            weights="plain",
            error_feedback=True,
        ),
        Scheme(
            "over_the_air",
            "Zhu et al. 2021 (OBDA)",
            "signs superposed in the air by truncated channel inversion; sign times mean modulus per tensor",
            uplink="analog",
            rule="vote",
        ),
        _SP_FL,
        _SP_FL_PLUS_1,
        replace(
            _SP_FL_PLUS_1,
            name="sp_fl_plus_1_uncalibrated",
            source=_PLUS_1_ABLATION,
            summary="sp_fl_plus_1 with normalized weights",
            rule="mean",
        ),
        replace(
            _SP_FL_PLUS_1,
            name="sp_fl_plus_1_unrotated",
            source=_PLUS_1_ABLATION,
            summary="sp_fl_plus_1 on the raw gradient",
            rotated=False,
        ),
        replace(
            _SP_FL_PLUS_1,
            name="sp_fl_plus_1_uniform",
            source=_PLUS_1_ABLATION,
            summary="sp_fl_plus_1, nothing optimised: the conventional point",
            solver="uniform",
            allocate_split=False,
        ),
        replace(
            _SINGLE,
            name="single_packet_plus",
            source="ours",
            summary="single packet rotated and calibrated as in sp_fl_plus_1, bandwidth by the exact solver",
            solver="exact",
            rule="calibrated",
            rotated=True,
            objective="error",
        ),
        _DRIVE,
        replace(
            _DRIVE,
            name="eden",
            source="Vargaftik et al. 2022 (EDEN)",
            summary="scheme.bits_per_value rotated bits a value (2), equal bandwidths, mean of the received",
            bits_per_value=2.0,
        ),
        replace(
            _DRIVE,
            name="drive_exact",
            source="DRIVE; bandwidths ours",
            summary="drive with bandwidths by the exact solver",
            solver="exact",
            objective="error",
        ),
        replace(
            _DRIVE,
            name="drive_calibrated",
            source="DRIVE; weights after Deville, Sarndal 1992",
            summary="drive with calibrated weights",
            rule="calibrated",
        ),
        replace(
            _DRIVE,
            name="eden_adaptive",
            source="EDEN; bits of each device by its link",
            summary="bits of each device by its link, equal bandwidths, mean of the received",
            bits_per_value=None,
            objective="participation",
        ),
        replace(
            _DRIVE,
            name="eden_calibrated",
            source="EDEN; weights after Deville, Sarndal 1992",
            summary="eden_adaptive with calibrated weights",
            bits_per_value=None,
            objective="participation",
            rule="calibrated",
        ),
        replace(
            _DRIVE,
            name="schedule_capacity",
            source=f"after {_AMIRI}; EDEN",
            summary="the best instantaneous channels send as many bits as their links carry",
            bits_per_value=None,
            objective="participation",
            schedule="channel",
        ),
        replace(
            _DRIVE,
            name="schedule_capacity_fair",
            source=f"after {_AMIRI}; EDEN",
            summary="as schedule_capacity, by the channel relative to its mean",
            bits_per_value=None,
            objective="participation",
            schedule="fair",
        ),
        _SP_FL_PLUS,
        replace(
            _SP_FL_PLUS,
            name="sp_fl_plus_uniform",
            source="ablation of sp_fl_plus, ours",
            summary="sp_fl_plus with equal bandwidths",
            solver="uniform",
        ),
        replace(
            _SP_FL_PLUS,
            name="sp_fl_plus_plain",
            source="ablation of sp_fl_plus, ours",
            summary="sp_fl_plus with the mean of the received",
            rule="mean",
            noise_aware=False,
        ),
        replace(
            _SINGLE,
            name="fedtoe",
            source="after Wang et al. 2021 (FedTOE)",
            summary="single packet, bandwidths at which all devices have the same outage",
            share=equal_outage,
        ),
        replace(
            _SINGLE,
            name="schedule_fair",
            source="proportional-fair scheduling",
            summary="only the best channels relative to their mean send",
            schedule="fair",
        ),
        replace(
            _SIGN,
            name="scaled_sign_feedback",
            source="Karimireddy et al. 2019 (EF-signSGD)",
            summary="scaled_sign with the error feedback that its paper is about, plain weights",
            one_mean=True,
            error_feedback=True,
            weights="plain",
        ),
        Scheme(
            "analog_mean",
            "Zhu, Wang, Huang 2020; Amiri, Gunduz 2020",
            "gradients superposed in the air by truncated inversion; needs synchronised phases and CSI",
            uplink="analog",
        ),
        Scheme("float32", "conventional", "32 bits a value in one packet", uplink="codec", codec=FLOAT32),
        Scheme("qsgd", "Alistarh et al. 2017", "7 levels of the norm, 4 bits a value", uplink="codec", codec=qsgd(7)),
        Scheme("terngrad", "Wen et al. 2017", "-1, 0 or 1, 1.6 bits a value", uplink="codec", codec=TERNGRAD),
        replace(
            _SINGLE,
            name="gomore",
            source="Yao et al. 2023 (GoMORE)",
            summary="single packet; a lost local model is replaced by the outdated global one",
            weights="plain",
        ),
        replace(_SP_FL, name="sp_fl_exact", source="ours", summary="sp_fl with the exact solver", solver="exact"),
        replace(
            _SP_FL,
            name="sp_fl_normalized",
            source="ours",
            summary="sp_fl with normalized weights and the layer mean as compensation",
            weights="normalized",
            compensation="layer",
        ),
        replace(_SP_FL, name="sp_fl_uniform", source=_ABLATION, summary="sp_fl, nothing optimised", solver="uniform"),
        replace(
            _SP_FL, name="sp_fl_no_band", source=_ABLATION, summary="sp_fl with equal bandwidths", allocate_band=False
        ),
        replace(
            _SP_FL,
            name="sp_fl_no_power",
            source=_ABLATION,
            summary="sp_fl with power in proportion to the packets",
            allocate_power=False,
        ),
        replace(
            _SP_FL,
            name="sp_fl_no_compensation",
            source=_ABLATION,
            summary="sp_fl without compensatory modulus",
            compensation="zero",
        ),
    )
}


def resolve(config: SchemeConfig, own: Scheme | None = None) -> Scheme:
    """The scheme a configuration names (or the caller's own), with the keys it sets in place of the scheme's defaults.

    Error feedback that is switched on without a choice of weights takes `plain` weights. It repays what a lost packet
    would have delivered, so with weights that make up for losses as well, a constant gradient would be applied 1/q
    times (docs/model.md, error 2).
    Raises ConfigError for an unknown name.
    """
    if own is None and config.name not in SCHEMES:
        raise ConfigError(f"unknown scheme '{config.name}'" + did_you_mean(config.name, SCHEMES))
    keys = (
        "weights",
        "compensation",
        "shrink",
        "solver",
        "objective",
        "error_feedback",
        "bits_per_value",
        "tau",
        "auxiliary",
        "ridge",
    )
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    if given.get("error_feedback"):
        given = {"weights": "plain"} | given
    if own is None or "density" in config.model_fields_set:
        given["density"] = config.density
    named = own or SCHEMES[config.name]
    if config.objective and named.objective == "participation":
        raise ConfigError(
            f"scheme.objective must be absent with {named.name}, whose bandwidth and bits follow participation, "
            f"got {config.objective!r}"
        )
    scheme = replace(named, **given)
    if config.aggregation != "mean" and (scheme.rule not in ("mean", "calibrated") or scheme.uplink == "analog"):
        raise ConfigError(
            f"scheme.aggregation must be mean with {scheme.name}, which has a rule of its own, got {config.aggregation}"
        )
    if scheme.rotated and scheme.compensation not in ("layer", "zero"):
        raise ConfigError(
            f"scheme.compensation must be layer or zero with the rotated packets of {scheme.name}, "
            f"got {getattr(scheme.compensation, 'name', scheme.compensation)}"
        )
    return scheme


def bias_and_noise(scheme: Scheme, config: SchemeConfig) -> tuple[float, float]:
    """theta and kappa of the scheme's cost (model.md, section 6): 0 and 1 where it is the squared error of the mean."""
    return (0.0, 1.0) if scheme.objective == "error" else (config.theta, config.kappa)
