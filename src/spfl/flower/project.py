"""A Flower app in a folder: two modules of one line, and the configuration in pyproject.toml.

A network of the user's own is `module:function` or `file.py:function` (`flower.module`): the function takes nothing
and returns a `torch.nn.Module`. The app carries its file, and all parties must have the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tomli_w
import torch
from torch import nn

from spfl.config.files import assign
from spfl.custom import AS_CONFIGURED, Custom
from spfl.errors import ConfigError, named
from spfl.flower.settings import Settings, to_run_config
from spfl.own_code import find_source
from spfl.version import __version__

PACKAGE, OWN = "spfl_app", "own.py"
MODULES = {
    "__init__.py": '"""SP-FL as a Flower app."""\n',
    "client_app.py": '"""What runs at a node."""\n\nfrom spfl.flower.client_app import app\n\n__all__ = ["app"]\n',
    "server_app.py": '"""What runs at the server."""\n\nfrom spfl.flower.server_app import app\n\n__all__ = ["app"]\n',
}
README = """# SP-FL as a Flower app

    flwr run . local --stream --federation-config "num-supernodes=2" --run-config "flower.out='/abs/path/of/run'"

`[tool.flwr.app.config]` in pyproject.toml has every key of `spfl config schema`, and `flower.*` for the engine; an
empty text stands for a key that is left out. `--run-config "training.rounds=5"` overrides a key. The run folder lies on
the server's host. spfl must be installed wherever the app runs: it is not listed under `dependencies`, so that nothing
is downloaded at run time.
"""


@dataclass(frozen=True)
class Own:
    """The caller's own parts, and a digest of the file that they come from; empty when there is none."""

    custom: Custom = AS_CONFIGURED
    digest: str = ""


def load_own_parts(source: str, seed: int) -> Own:
    """What `flower.module` names. Its weights are drawn under the seed. Raises ConfigError with one line."""
    if not source:
        return Own()
    module, made = find_source(source, "flower.module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = made()
        except Exception as error:  # whatever a caller's own code raises
            raise ConfigError(f"flower.module {source}: {named(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"flower.module {source} must return a torch.nn.Module, got {type(network).__name__}")
    return Own(Custom(module=network), hashlib.sha256(source_file(module).read_bytes()).hexdigest()[:16])


def source_file(module: ModuleType) -> Path:
    """The file of a module. Raises ConfigError for one that has none."""
    if module.__file__ is None:
        raise ConfigError(f"module {module.__name__} must be a file, got a package without one")
    return Path(module.__file__)


def write_project(folder: Path, settings: Settings) -> None:
    """Write the app. A network of the user's own (`flower.module`) is made once, and its file goes into the app.

    Raises ConfigError for a folder that is not empty, or for a module that makes no network.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output {folder} is not an empty folder")
    settings, own = _carried(settings)
    (folder / PACKAGE).mkdir(parents=True, exist_ok=True)
    if own is not None:
        (folder / PACKAGE / OWN).write_bytes(own)
    (folder / "pyproject.toml").write_text(_pyproject(settings), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    for name, text in MODULES.items():
        (folder / PACKAGE / name).write_text(text, encoding="utf-8")


def _carried(settings: Settings) -> tuple[Settings, bytes | None]:
    """The settings under which the app finds its own network, and the file that it carries; None without one."""
    source = settings.flower.module
    if not source:
        return settings, None
    load_own_parts(source, settings.seed)
    module, _ = find_source(source, "flower.module")
    inside = f"{PACKAGE}.{OWN.removesuffix('.py')}:{source.rpartition(':')[2]}"
    engine = settings.flower.model_copy(update={"module": inside})
    return settings.model_copy(update={"flower": engine}), source_file(module).read_bytes()


def _pyproject(settings: Settings) -> str:
    config: dict[str, Any] = {}
    for key, value in to_run_config(settings).items():
        assign(config, key, value)
    components = {"serverapp": f"{PACKAGE}.server_app:app", "clientapp": f"{PACKAGE}.client_app:app"}
    project = {
        "name": PACKAGE.replace("_", "-"),
        "version": __version__,
        "description": "Sign-prioritized federated learning",
        "license": "Apache-2.0",
        "dependencies": list[str](),
    }
    app = {"publisher": "spfl", "components": components, "config": config}
    tables = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": project,
        "tool": {"hatch": {"build": {"targets": {"wheel": {"packages": [PACKAGE]}}}}, "flwr": {"app": app}},
    }
    return tomli_w.dumps(tables)
