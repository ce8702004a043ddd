"""The proposed scheme and every baseline: rows of one dictionary, each a point of one design space (`spfl.scheme`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spfl.allocation.equal_outage import equal_outage
from spfl.config.schema import SchemeConfig
from spfl.errors import ConfigError, did_you_mean
from spfl.packets.vector_codecs import FLOAT32, TERNGRAD, qsgd
from spfl.scheme import Scheme


def _like(other: Scheme, name: str, source: str, summary: str, **changes: Any) -> Scheme:
    """A scheme that is as another but for some fields."""
    return replace(other, name=name, source=source, summary=summary, **changes)


_SINGLE = Scheme(
    "single_packet",
    "conventional",
    "sign and modulus in one packet; a device whose packet is lost is left out",
    "single",
)
_SIGN = Scheme("sign_mean", "ours", "signs alone, each device's scaled by its mean modulus per tensor", "sign")
_SP_FL = Scheme(
    "sp_fl", "Yue et al. 2026, our reading", "sign and modulus packets, bandwidth and power by the one-step bound",
    uplink="split", weights="unbiased", compensation="global", solver="alternating",
)  # fmt: skip
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
_SP_FL_PLUS = _like(
    _DRIVE,
    "sp_fl_plus",
    "ours",
    "important bits first: bandwidth and bits by who takes part, noise-aware calibrated weights",
    bits_per_value=None,
    solver="exact",
    objective="participation",
    rule="calibrated",
    noise_aware=True,
    peaks=True,
)
_PLUS_1_ABLATION = "ablation of sp_fl_plus_1, ours"
_AMIRI = "Amiri et al. 2021"
_ABLATION = "ablation of sp_fl, ours"

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("error_free", "upper limit", "exact gradients, nothing lost, no quantisation", uplink="ideal"),
        _SINGLE,
        _like(
            _SINGLE,
            "single_packet_unbiased",
            "conventional",
            "single packet with inverse-probability weights",
            weights="unbiased",
        ),
        _like(
            _SINGLE, "single_packet_optimised", "ours", "single packet, bandwidth by the exact solver", solver="exact"
        ),
        _like(
            _SINGLE,
            "retransmit",
            "conventional",
            "single packet sent twice, each time for half the time at the same power",
            attempts=2,
        ),
        _like(
            _SINGLE,
            "harq",
            "Caire, Tuninetti 2001 (HARQ-IR)",
            "as retransmit, with new parity the second time, decoded with the first",
            attempts=2,
            combining="incremental",
        ),
        _like(
            _SINGLE,
            "mifa",
            "Gu et al. 2021 (MIFA)",
            "single packet; the vector last received of a lost device stands in for it",
            rule="memory",
        ),
        _like(_SINGLE, "reuse_last", "ours", "single packet; the last update stands in for lost devices", rule="reuse"),
        _like(
            _SINGLE,
            "schedule_channel",
            f"{_AMIRI} (BC)",
            "only the best instantaneous channels send; needs more channel knowledge than sp_fl",
            schedule="channel",
        ),
        _like(_SINGLE, "schedule_norm", f"{_AMIRI} (BN2)", "only the largest gradient norms send", schedule="norm"),
        _like(
            _SINGLE,
            "schedule_channel_norm",
            f"{_AMIRI} (BC-BN2)",
            "of twice as many best instantaneous channels, the largest norms send",
            schedule="channel_norm",
        ),
        _like(
            _SIGN,
            "majority_vote",
            "Bernstein et al. 2018",
            "signs alone; sign of their weighted sum times the mean modulus per tensor",
            rule="vote",
        ),
        _like(
            _SIGN,
            "scaled_sign",
            "Karimireddy et al. 2019",
            "signs alone, each device's scaled by its mean modulus",
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
        _like(
            _SP_FL_PLUS_1,
            "sp_fl_plus_1_uncalibrated",
            _PLUS_1_ABLATION,
            "sp_fl_plus_1 with normalized weights",
            rule="mean",
        ),
        _like(
            _SP_FL_PLUS_1, "sp_fl_plus_1_unrotated", _PLUS_1_ABLATION, "sp_fl_plus_1 on the raw gradient", rotated=False
        ),
        _like(
            _SP_FL_PLUS_1,
            "sp_fl_plus_1_uniform",
            _PLUS_1_ABLATION,
            "sp_fl_plus_1, nothing optimised: the conventional point",
            solver="uniform",
            allocate_split=False,
        ),
        _like(
            _SINGLE,
            "single_packet_plus",
            "ours",
            "single packet rotated and calibrated as in sp_fl_plus_1, bandwidth by the exact solver",
            solver="exact",
            rule="calibrated",
            rotated=True,
            objective="error",
        ),
        _DRIVE,
        _like(
            _DRIVE,
            "eden",
            "Vargaftik et al. 2022 (EDEN)",
            "scheme.bits_per_value rotated bits a value (2), equal bandwidths, mean of the received",
            bits_per_value=2.0,
        ),
        _like(
            _DRIVE,
            "drive_exact",
            "DRIVE; bandwidths ours",
            "drive with bandwidths by the exact solver",
            solver="exact",
            objective="error",
        ),
        _like(
            _DRIVE,
            "drive_calibrated",
            "DRIVE; weights after Deville, Sarndal 1992",
            "drive with calibrated weights",
            rule="calibrated",
        ),
        _like(
            _DRIVE,
            "eden_adaptive",
            "EDEN; bits of each device by its link",
            "bits of each device by its link, equal bandwidths, mean of the received",
            bits_per_value=None,
            objective="participation",
        ),
        _like(
            _DRIVE,
            "eden_calibrated",
            "EDEN; weights after Deville, Sarndal 1992",
            "eden_adaptive with calibrated weights",
            bits_per_value=None,
            objective="participation",
            rule="calibrated",
        ),
        _like(
            _DRIVE,
            "schedule_capacity",
            f"after {_AMIRI}; EDEN",
            "the best instantaneous channels send as many bits as their links carry",
            bits_per_value=None,
            objective="participation",
            schedule="channel",
        ),
        _like(
            _DRIVE,
            "schedule_capacity_fair",
            f"after {_AMIRI}; EDEN",
            "as schedule_capacity, by the channel relative to its mean",
            bits_per_value=None,
            objective="participation",
            schedule="fair",
        ),
        _SP_FL_PLUS,
        _like(
            _SP_FL_PLUS,
            "sp_fl_plus_uniform",
            "ablation of sp_fl_plus, ours",
            "sp_fl_plus with equal bandwidths",
            solver="uniform",
        ),
        _like(
            _SP_FL_PLUS,
            "sp_fl_plus_plain",
            "ablation of sp_fl_plus, ours",
            "sp_fl_plus with the mean of the received",
            rule="mean",
            noise_aware=False,
        ),
        _like(
            _SINGLE,
            "fedtoe",
            "after Wang et al. 2021 (FedTOE)",
            "single packet, bandwidths at which all devices have the same outage",
            share=equal_outage,
        ),
        _like(
            _SINGLE,
            "schedule_fair",
            "proportional-fair scheduling",
            "only the best channels relative to their mean send",
            schedule="fair",
        ),
        _like(
            _SIGN,
            "scaled_sign_feedback",
            "Karimireddy et al. 2019 (EF-signSGD)",
            "scaled_sign with the error feedback that its paper is about, plain weights",
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
        _like(
            _SINGLE,
            "gomore",
            "Yao et al. 2023 (GoMORE)",
            "single packet; a lost local model is replaced by the outdated global one",
            weights="plain",
        ),
        _like(_SP_FL, "sp_fl_exact", "ours", "sp_fl with the exact solver", solver="exact"),
        _like(
            _SP_FL,
            "sp_fl_normalized",
            "ours",
            "sp_fl with normalized weights and the layer mean as compensation",
            weights="normalized",
            compensation="layer",
        ),
        _like(_SP_FL, "sp_fl_uniform", _ABLATION, "sp_fl, nothing optimised", solver="uniform"),
        _like(_SP_FL, "sp_fl_no_band", _ABLATION, "sp_fl with equal bandwidths", allocate_band=False),
        _like(
            _SP_FL, "sp_fl_no_power", _ABLATION, "sp_fl with power in proportion to the packets", allocate_power=False
        ),
        _like(_SP_FL, "sp_fl_no_compensation", _ABLATION, "sp_fl without compensatory modulus", compensation="zero"),
    )
}


_KEYS = (
    "weights", "compensation", "shrink", "solver", "objective", "error_feedback", "bits_per_value", "peaks", "tau",
    "auxiliary", "ridge",
)  # fmt: skip


def resolve(config: SchemeConfig, own: Scheme | None = None) -> Scheme:
    """The scheme a configuration names (or the caller's own), with the keys it sets in place of the scheme's defaults.

    Error feedback that is switched on without a choice of weights takes `plain` weights. It repays what a lost packet
    would have delivered, so with weights that make up for losses as well, a constant gradient would be applied 1/q
    times (docs/model.md, error 2).
    Raises ConfigError for an unknown name.
    """
    if own is None and config.name not in SCHEMES:
        raise ConfigError(f"unknown scheme '{config.name}'" + did_you_mean(config.name, SCHEMES))
    given = {key: getattr(config, key) for key in _KEYS if getattr(config, key) is not None}
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
