"""Objects of the user's own modules, by `module:name`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from spfl.errors import ConfigError, named


def import_source(source: str) -> tuple[ModuleType, Any]:
    """The module of `module:name`, and what it calls `name`. The current folder is looked in as well.

    Raises ConfigError when there is no such thing, or when the module itself raises.
    """
    name, colon, attribute = source.partition(":")
    if not colon or not name or not attribute:
        raise ConfigError(f"own code must be given as module:function, got '{source}'")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it; a console script has not
        sys.path.append(here)
    try:
        module = import_module(name)
        return module, getattr(module, attribute)
    except Exception as error:  # whatever a caller's own module raises when it is run
        raise ConfigError(f"{source} cannot be imported: {named(error)}") from error
