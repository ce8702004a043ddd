"""Fixtures that several test modules share, and where compiled kernels are kept."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from kernel_cache import keep_kernels

keep_kernels()  # before a kernel is imported

from spfl.config.schema import Config, build_config  # noqa: E402
from spfl.data.dataset import Dataset  # noqa: E402
from spfl.data.sources import load_dataset  # noqa: E402

settings.register_profile("spfl", deadline=None, derandomize=True)  # the machines of CI are noisy
settings.load_profile("spfl")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """After a command in this process, signals are what they were: a command leaves them to the end of Python."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The embedded digits."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Config]:
    """A small, quick experiment on the digits in which both kinds of packet are lost; sections are merged over it."""

    def build(seed: int = 0, workers: int = 1, **sections: dict[str, Any]) -> Config:
        values: dict[str, Any] = {
            "data": {"devices": 6},
            "model": {"name": "softmax"},
            "training": {"rounds": 2, "eval_every": 1, "batch_size": 16},
            "channel": {"median_snr_db": 6.0, "symbols_per_parameter": 2.0},
        }
        merged = {name: values.get(name, {}) | sections.get(name, {}) for name in values.keys() | sections.keys()}
        return build_config({"seed": seed, "workers": workers} | merged)

    return build
