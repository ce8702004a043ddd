"""The recorded links of a configuration, and what cannot be run over them."""

from __future__ import annotations

from spfl.config.schema import Config
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.radio.trace import Trace, read_trace
from spfl.scheme import Scheme

RAYLEIGH_ONLY = ("analog", "ladder")  # uplinks whose allocation has Rayleigh fading built in


def recorded_links(config: Config, scheme: Scheme, custom: Custom) -> Trace | None:
    """What `trace.path` names; None where it names nothing.

    Raises ConfigError for a file without a run of this configuration, and for what needs fades that were not recorded.
    """
    if config.trace.path is None or config.trace.sha256 is None:
        return None
    if scheme.uplink in RAYLEIGH_ONLY or scheme.combining == "incremental":
        raise ConfigError(f"channel.model = trace is not for {scheme.name}, whose link is worked out for Rayleigh "
                          "fading")  # fmt: skip
    if custom.gains is not None or custom.fades is not None:
        raise ConfigError("gains and fades of your own must be absent with channel.model = trace, which has them")
    trace = read_trace(config.trace.path, config.trace.sha256, config.data.devices)
    rounds, by_fade = config.training.rounds, scheme.schedule in ("channel", "channel_norm", "fair")
    if trace.kind == "outcomes" and (scheme.attempts > 1 or by_fade):
        raise ConfigError(f"a trace of outcomes is not for {scheme.name}, which needs the fades; take one of gains")
    if trace.kind != "gains" and config.channel.median_snr_db is not None:
        raise ConfigError("channel.median_snr_db must be absent with a trace of outcomes or losses, "
                          f"got {config.channel.median_snr_db} (--set channel.median_snr_db=none)")  # fmt: skip
    if trace.kind != "losses" and rounds > trace.rounds and config.trace.end == "refuse":
        raise ConfigError(f"training.rounds must be <= {trace.rounds}, the rounds of trace {trace.path}, got "
                          f"{rounds}; trace.end = repeat begins it again")  # fmt: skip
    return trace
