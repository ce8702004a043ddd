"""Which PyTorch device a whole round may run on, what such a round can do, and how it repeats itself bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

from spfl.config.schema import Config
from spfl.errors import ConfigError, first_true
from spfl.scheme import Scheme

UPLINKS = ("ideal", "split", "single", "sign")
RULES = ("mean", "calibrated", "vote")
UNUSABLE = (Exception,)  # what PyTorch raises for such a device: also ImportError and AttributeError of its plugins
COMPENSATIONS = ("layer", "zero", "global")


def find_device(name: str) -> torch.device:
    """The device of that name, not yet used. Raises ConfigError when PyTorch knows none.

    CUDA devices are counted only: a process that has used one cannot be forked any more, and sweeps fork.
    """
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.zeros(1, device=device, dtype=torch.float64).item()
        elif (device.index or 0) >= (count := torch.cuda.device_count()):
            raise RuntimeError(f"PyTorch sees {count} CUDA devices")
    except UNUSABLE as error:
        raise _refused(name, error) from None
    return device


def use_device(name: str) -> torch.device:
    """The device of that name, which has worked once. Raises ConfigError when it does not."""
    device = find_device(name)
    try:
        torch.zeros(1, device=device, dtype=torch.float64).item()
    except UNUSABLE as error:
        raise _refused(name, error) from None
    return device


def _refused(name: str, error: Exception) -> ConfigError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, ImportError | AttributeError):
        why = "this PyTorch was built without it"
    return ConfigError(f"torch_device must be a PyTorch device that works here, got {name!r} ({why[:120]})")


@contextmanager
def repeatable() -> Iterator[None]:
    """PyTorch in a state in which equal work gives equal bits; also a decorator.

    On the CPU, one thread inside an operation: sums depend on their number. On a GPU, convolutions by algorithms that
    add in a fixed order, and in TF32 only where matrix products are (by default they are not).
    """
    threads = torch.get_num_threads()
    tf32 = torch.get_float32_matmul_precision() != "highest"
    torch.set_num_threads(1)
    try:
        with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_num_threads(threads)


def device_name(name: str | None) -> str | None:
    """What hardware stands behind a device, for the record of a run."""
    if name is None:
        return None
    device = find_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else name


def makes_packets(config: Config, scheme: Scheme) -> bool:
    """Whether a PyTorch device has kernels for all that the scheme sends and decodes; else packets are the host's."""
    return (
        scheme.uplink in UPLINKS
        and scheme.rule in RULES
        and scheme.compensation in COMPENSATIONS
        and not scheme.error_feedback
        and config.channel.segment_bits is None
        and config.channel.link != "uncoded"
        and config.channel.side_information != "lossy"
        and config.scheme.aggregation == "mean"
        and config.scheme.device_clip is None
    )


def check_supported(config: Config, *, own_local: bool = False, statistics: bool = False) -> None:
    """Raises ConfigError, with one line, for what a round on a device does not do. Worker threads do all of it."""
    wrong = {
        "a local rule of your own": own_local,
        "channel.downlink = stale": config.channel.downlink == "stale",
        "model.batch_norm = average and running statistics": statistics,
        "hostile devices": config.attack.devices > 0,
        "processes > 1": config.processes > 1,
    }
    if what := first_true(wrong):
        raise ConfigError(f"torch_device must be absent with {what}, got {config.torch_device!r}")
