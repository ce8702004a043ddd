"""Federated learning over unreliable wireless links, with sign-prioritized uplinks (Yue et al., arXiv 2603.10763).

    import spfl
    spfl.run("configs/demo.toml", scheme="sp_fl_plus").plot()

The names below are imported when they are first used, so that `import spfl` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spfl.version import __version__ as __version__

if TYPE_CHECKING:
    from spfl.allocation.allocator import allocate
    from spfl.allocation.bound import Devices, Objective
    from spfl.allocation.problem import Limits
    from spfl.allocation.result import AllocationResult
    from spfl.api import Comparison, compare, run
    from spfl.compensation import CompensationRule
    from spfl.config.files import load_config
    from spfl.config.schema import Config
    from spfl.custom import make_dataset
    from spfl.data.dataset import Dataset
    from spfl.data.sources import load_dataset
    from spfl.errors import SpflError
    from spfl.presets import load_preset
    from spfl.radio.outage import Link
    from spfl.runs.results import Run
    from spfl.scheme import Scheme
    from spfl.schemes import SCHEMES

__all__ = [
    "SCHEMES",
    "AllocationResult",
    "Comparison",
    "CompensationRule",
    "Config",
    "Dataset",
    "Devices",
    "Limits",
    "Link",
    "Objective",
    "Run",
    "Scheme",
    "SpflError",
    "allocate",
    "compare",
    "load_config",
    "load_dataset",
    "load_preset",
    "make_dataset",
    "run",
]
_MODULES = {
    "SCHEMES": "schemes",
    "AllocationResult": "allocation.result",
    "Comparison": "api",
    "CompensationRule": "compensation",
    "Config": "config.schema",
    "Dataset": "data.dataset",
    "Devices": "allocation.bound",
    "Limits": "allocation.problem",
    "Link": "radio.outage",
    "Objective": "allocation.bound",
    "Run": "runs.results",
    "Scheme": "scheme",
    "SpflError": "errors",
    "allocate": "allocation.allocator",
    "compare": "api",
    "load_config": "config.files",
    "load_dataset": "data.sources",
    "load_preset": "presets",
    "make_dataset": "custom",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'spfl' has no attribute '{name}'")
    return getattr(import_module(f"spfl.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
