"""A network of the user's own: the app carries its code, and all parties must have the same.

`flower.module` is `module:function`. The function takes nothing and returns a `torch.nn.Module`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from spfl.custom import AS_CONFIGURED, Custom
from spfl.errors import ConfigError, reason
from spfl.imports import import_source


@dataclass(frozen=True)
class Own:
    """The caller's own parts, and a digest of the file that they come from; empty when there is none."""

    custom: Custom = AS_CONFIGURED
    digest: str = ""


def load_own_parts(source: str, seed: int) -> Own:
    """What `flower.module` names. Its weights are drawn under the seed. Raises ConfigError with one line."""
    if not source:
        return Own()
    module, made = import_source(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = made()
        except Exception as error:  # whatever a caller's own code raises
            raise ConfigError(f"flower.module {source}: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"flower.module {source} must return a torch.nn.Module, got {type(network).__name__}")
    return Own(Custom(module=network), hashlib.sha256(source_file(module).read_bytes()).hexdigest()[:16])


def source_file(module: ModuleType) -> Path:
    """The file of a module. Raises ConfigError for one that has none."""
    if module.__file__ is None:
        raise ConfigError(f"module {module.__name__} must be a file, got a package without one")
    return Path(module.__file__)
