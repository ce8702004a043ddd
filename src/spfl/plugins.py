"""What the file of `plugin.path` defines, in place of parts of the experiment; and networks by `model.factory`.

A plugin is a Python file with objects of the names that `spfl.run` takes as keywords, and any number of `Scheme`s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spfl.config.schema import Config
from spfl.custom import Custom
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.own_code import failing, find_object, run_file
from spfl.rng import SETUP_ROUND, Purpose, server_stream
from spfl.scheme import Scheme

PARTS = ("partition", "gains", "fades", "local", "server", "loss", "metric")
FACTORY = "module"  # a network, or a function that makes one


def plugin_parts(config: Config) -> Mapping[str, Any]:
    """The parts that the plugin defines, by name. Raises ConfigError for a plugin that defines none."""
    path, digest = config.plugin.path, config.plugin.sha256
    if path is None or digest is None:
        return {}
    found = {name: value for name, value in vars(run_file(path, digest)).items() if name in (*PARTS, FACTORY)}
    if not found and not plugin_schemes(config):
        raise ConfigError(f"plugin {path} defines no scheme, and none of {', '.join((FACTORY, *PARTS))}")
    return found


def plugin_schemes(config: Config) -> dict[str, Scheme]:
    """The schemes that the plugin defines, by their own names."""
    if config.plugin.path is None or config.plugin.sha256 is None:
        return {}
    values = vars(run_file(config.plugin.path, config.plugin.sha256)).values()
    return {value.name: value for value in values if isinstance(value, Scheme)}


def own_scheme(config: Config) -> Scheme | None:
    """The plugin's scheme of the name that the configuration asks for; None where it has none."""
    return plugin_schemes(config).get(config.scheme.name)


def with_plugin(config: Config, dataset: Dataset, custom: Custom) -> Custom:
    """The caller's parts, with those of the plugin and of `model.factory` where the caller brings none."""
    parts = plugin_parts(config)
    missing = {name: parts[name] for name in PARTS if name in parts and getattr(custom, name) is None}
    if custom.scheme is None and (scheme := own_scheme(config)) is not None:
        missing["scheme"] = scheme
    if custom.module is None:
        factory = (
            parts.get(FACTORY) if config.model.factory is None else find_object(config.model.factory, "model.factory")
        )
        if factory is not None:
            missing["module"] = make_module(factory, config, dataset)
    return replace(custom, **missing) if missing else custom


def _sizes(dataset: Dataset) -> dict[str, Any]:
    """What a factory may ask for."""
    known = {"shape": dataset.shape, "classes": dataset.classes, "num_classes": dataset.classes}
    if dataset.is_images:
        return known | dict(zip(("channels", "height", "width"), dataset.shape, strict=True))
    if dataset.has_indices:
        return known | {"length": dataset.shape[-1], "vocabulary": dataset.vocabulary}
    return known | ({"columns": dataset.shape[0]} if len(dataset.shape) == 1 else {})


def make_module(factory: nn.Module | Callable[..., Any], config: Config, dataset: Dataset) -> nn.Module:
    """The network of a factory, which is called with those of these keywords that it takes.

    shape (of an input), channels, height, width (of images), columns (of rows), length and vocabulary (of tokens),
    classes and num_classes (torchvision's word for the number of outputs). PyTorch's global generator is seeded for it
    and put back, so the initial weights are a function of the seed. Raises ConfigError.
    """
    if isinstance(factory, nn.Module):
        return factory
    known = _sizes(dataset)
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # no function, or one of C that tells no parameters
        raise ConfigError(
            f"the network's factory must be a torch.nn.Module or a Python function, got {type(factory).__name__}"
        ) from None
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    given = {k: v for k, v in known.items() if k in taken or (anything and k == "num_classes")}
    rng = server_stream(config.seed, SETUP_ROUND, Purpose.INITIAL_WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        with failing("the network's factory"):
            module = factory(**given)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"the network's factory must return a torch.nn.Module, got {type(module).__name__}")
    return module
