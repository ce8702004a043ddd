"""Federated learning over unreliable wireless links, with sign-prioritized uplinks (Yue et al., arXiv 2603.10763).

    import spfl
    spfl.run("configs/demo.toml", scheme="sp_fl_plus").plot()

The names below are imported when they are first used, so that `import spfl` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spfl.aggregation import CompensationRule
    from spfl.allocation import allocate
    from spfl.api import Comparison, compare, run
    from spfl.config import Config
    from spfl.config_files import load_config
    from spfl.custom import make_dataset
    from spfl.data import Dataset, load_dataset
    from spfl.errors import SpflError
    from spfl.results import Run
    from spfl.schemes import SCHEMES, Scheme

__version__ = "0.1.0"
__all__ = [
    "SCHEMES",
    "Comparison",
    "CompensationRule",
    "Config",
    "Dataset",
    "Run",
    "Scheme",
    "SpflError",
    "allocate",
    "compare",
    "load_config",
    "load_dataset",
    "make_dataset",
    "run",
]
_HOMES = {
    "aggregation": ("CompensationRule",),
    "allocation": ("allocate",),
    "api": ("Comparison", "compare", "run"),
    "config": ("Config",),
    "config_files": ("load_config",),
    "custom": ("make_dataset",),
    "data": ("Dataset", "load_dataset"),
    "errors": ("SpflError",),
    "results": ("Run",),
    "schemes": ("SCHEMES", "Scheme"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"spfl.{module}"), name)
    raise AttributeError(f"module 'spfl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
