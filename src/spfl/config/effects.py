"""Keys that change nothing because another key decides: found from the configuration alone, told before a run.

A key of `[scheme]` that only some schemes have is idle with the others, but not in a comparison of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from spfl.config.data import READING
from spfl.config.files import dotted
from spfl.config.names import ANALOGUE, CALIBRATED, EMBEDDED_NAMES, LADDER_FIXED, LADDER_GRANTED, MODELS, SPARSE
from spfl.config.schema import Config
from spfl.errors import ConfigError


@dataclass(frozen=True)
class Overridden:
    """Keys without effect on what is learned, when `holds`, and the reason in words.

    by_scheme: whether it is so for the scheme that the configuration names, and may not be for others in a comparison.
    """

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    reason: str
    by_scheme: bool = False


def _scaled(config: Config) -> bool:
    """Whether transmit power and noise cancel: gains are scaled to an SNR, and nothing else is sent over them."""
    return config.channel.median_snr_db is not None and {
        config.channel.downlink,
        config.channel.side_power_dbm,
    } == {"perfect", None}


def _of(names: tuple[str, ...], *keys: str) -> Overridden:
    """Keys that are for these schemes only, and for those of a plugin."""
    return Overridden(
        keys,
        lambda c: c.scheme.name not in names and c.plugin.path is None,
        f"it needs scheme.name = {' or '.join(names)}",
        by_scheme=True,
    )


OVERRIDDEN = (
    _of(ANALOGUE, "channel.phase_error_rad"),
    _of((*LADDER_FIXED, *LADDER_GRANTED), "scheme.bits_per_value", "scheme.peaks"),
    _of(LADDER_GRANTED, "scheme.tau"),
    _of(CALIBRATED, "scheme.auxiliary", "scheme.ridge"),
    _of(SPARSE, "scheme.density"),
    Overridden(
        ("channel.power_dbm", "channel.noise_dbm_per_hz", "channel.noise_figure_db"),
        _scaled,
        "channel.median_snr_db scales all gains so that they cancel; unset it (--set channel.median_snr_db=none)",
    ),
    Overridden(
        ("channel.radius_m", "channel.min_distance_m", "channel.shadowing_db"),
        lambda c: c.channel.gains_db is not None or c.channel.model == "trace",
        "the gains are given; unset channel.gains_db (--set channel.gains_db=none), or model = trace",
    ),
    Overridden(("trace.end",), lambda c: c.channel.model != "trace", "it needs channel.model = trace"),
    Overridden(
        ("channel.symbols_per_parameter",),
        lambda c: c.channel.tau_s is not None,
        "channel.tau_s gives the uplink time; unset it (--set channel.tau_s=none)",
    ),
    Overridden(("channel.subbands",), lambda c: c.channel.fading != "selective", "it needs channel.fading = selective"),
    Overridden(
        ("channel.round_s",),
        lambda c: c.channel.doppler_hz is None and c.channel.movement == "none",
        "it needs channel.doppler_hz or movement",
    ),
    Overridden(("channel.bler_curves",), lambda c: c.channel.link != "bler", "it needs channel.link = bler"),
    Overridden(
        ("channel.carrier_hz", "channel.bs_height_m", "channel.device_height_m", "channel.indoor_share"),
        lambda c: c.channel.model in ("macro", "trace"),
        "it needs channel.model = umi, uma or rma",
    ),
    Overridden(
        ("channel.downlink_power_dbm", "channel.downlink_noise_figure_db", "channel.downlink_bits_per_parameter"),
        lambda c: c.channel.downlink == "perfect",
        "it needs channel.downlink = stale or sit_out",
    ),
    Overridden(
        ("data.dirichlet_alpha",),
        lambda c: c.data.source == "partition" and c.data.partition not in ("dirichlet", "sampled"),
        "it needs data.partition = dirichlet or sampled",
    ),
    Overridden(("data.shards_per_device",), lambda c: c.data.partition != "shards", "it needs data.partition = shards"),
    Overridden(
        ("data.samples_per_device",), lambda c: c.data.partition != "sampled", "it needs data.partition = sampled"
    ),
    Overridden(
        tuple(f"data.{key}" for key in READING if key not in ("name", "task")),
        lambda c: c.data.name in EMBEDDED_NAMES,
        "embedded data are not read from files",
    ),
    Overridden(
        ("model.batch_norm",),
        lambda c: c.model.factory is None and c.plugin.path is None and c.model.name in MODELS,
        "the networks that model.name knows have no BatchNorm",
    ),
    Overridden(
        ("scheme.theta", "scheme.kappa"),
        lambda c: c.scheme.objective == "error",
        "scheme.objective = error is the bound's cost at theta = 0 and kappa = 1",
    ),
    Overridden(("scheme.trim",), lambda c: c.scheme.aggregation != "trimmed_mean", "it needs aggregation trimmed_mean"),
    Overridden(
        ("attack.devices", "attack.factor"), lambda c: c.attack.kind == "none", "it needs attack.kind, which is none"
    ),
    Overridden(("attack.kind",), lambda c: c.attack.devices == 0, "it needs attack.devices, which is 0"),
    Overridden(
        ("device.cpu_hz", "device.cpu_spread", "device.cpu_jitter", "device.switched_capacitance_f"),
        lambda c: c.device.cycles_per_sample == 0,
        "it needs device.cycles_per_sample, which is 0",
    ),
)


def without_effect(config: Config, *, compared: bool = False) -> dict[str, str]:
    """Every key that the configuration makes idle, whatever its value, and why; `compared`: in several schemes."""
    rules = (rule for rule in OVERRIDDEN if not (compared and rule.by_scheme))
    return {key: rule.reason for rule in rules if rule.holds(config) for key in rule.keys}


def told_idle(config: Config, *, compared: bool = False) -> list[str]:
    """A line for every key that was moved from its default and changes nothing; `compared`: in several schemes."""
    now, default = dotted(config.model_dump()), _defaults()
    idle = without_effect(config, compared=compared).items()
    return [f"{key} has no effect on what is learned: {reason}" for key, reason in idle if now[key] != default[key]]


def check_swept(configs: Iterable[Config], keys: Iterable[str]) -> None:
    """Raises ConfigError for a key with several values that changes nothing at any point of a sweep."""
    points = list(configs)
    tables = [dotted(config.model_dump()) for config in points]
    idle = [without_effect(config) for config in points]
    for key in keys:
        several = len({repr(table.get(key)) for table in tables}) > 1
        if several and all(key in found for found in idle):
            raise ConfigError(f"{key} is swept, but has no effect at any point: {idle[0][key]}")


@cache
def _defaults() -> dict[str, Any]:
    return dotted(Config().model_dump())
