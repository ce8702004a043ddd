"""Every error a user can cause or meet. The CLI turns each into one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SpflError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(SpflError):
    """A parameter is unknown or breaks its rule; the message names parameter, rule and value."""


class DataError(SpflError):
    """A dataset is missing, unreadable, or cannot be partitioned as asked."""


class PacketError(SpflError):
    """A packet is truncated, corrupted, or was not made for this model, round or device."""


class AllocationError(SpflError):
    """A resource-allocation problem is malformed or has no feasible point."""


class RunFolderError(SpflError):
    """A run folder cannot be created, read, or continued."""


class WorkerError(SpflError):
    """A worker process ended, or met what it should not have."""


class FlowerError(SpflError):
    """Flower did not start, or a run of it failed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or the list of all when none is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(known)})"
