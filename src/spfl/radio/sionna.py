"""The door to Sionna (extra `sionna`): imported on first use, since that takes seconds; told in one line if missing."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from spfl.errors import ConfigError


def sionna(module: str, package: str = "phy") -> Any:
    """A module of `sionna.phy`, or of `sionna.sys`, such as "channel.tr38901".

    Raises ConfigError when Sionna is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"sionna.{package}.{module}" if module else f"sionna.{package}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sionna":
            raise
        raise ConfigError("this needs Sionna: pip install 'spfl[sionna]' (package sionna-no-rt)") from None
