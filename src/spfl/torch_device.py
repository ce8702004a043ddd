"""Which PyTorch device a whole round may run on, and what such a round can do."""

from __future__ import annotations

import torch

from spfl.config import Config
from spfl.errors import ConfigError
from spfl.schemes import Scheme

UPLINKS = ("ideal", "split", "single", "sign")
RULES = ("mean", "calibrated", "vote")
COMPENSATIONS = ("layer", "zero", "global")


def find_device(name: str) -> torch.device:
    """The device of that name. Raises ConfigError when PyTorch knows none, or it has no 64-bit numbers."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"torch_device must be a PyTorch device that works here, got {name!r} ({reason[:120]})"
        ) from None
    return device


def device_name(name: str | None) -> str | None:
    """What hardware stands behind a device, for the record of a run."""
    if name is None:
        return None
    device = find_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else name


def check_supported(config: Config, scheme: Scheme) -> None:
    """Raises ConfigError, with one line, for what a round on a device does not do. Worker threads do all of it."""
    wrong = {
        f"the uplink of {scheme.name}": scheme.uplink not in UPLINKS,
        f"the rule of {scheme.name}": scheme.rule not in RULES,
        f"compensation {getattr(scheme.compensation, 'name', scheme.compensation)}": scheme.compensation
        not in COMPENSATIONS,
        "error feedback": scheme.error_feedback,
        "training.local_steps > 1": config.training.local_steps > 1,
        "channel.segment_bits": config.channel.segment_bits is not None,
        "channel.downlink = stale": config.channel.downlink == "stale",
        "hostile devices": config.attack.devices > 0,
        "scheme.aggregation": config.scheme.aggregation != "mean",
        "scheme.device_clip": config.scheme.device_clip is not None,
        "processes > 1": config.processes > 1,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(f"torch_device must be absent with {what}, got {config.torch_device!r}")
