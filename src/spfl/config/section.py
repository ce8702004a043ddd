"""Tables of a configuration: frozen, validated once, with one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spfl.errors import ConfigError, did_you_mean


class Section(BaseModel):
    """A table of the configuration file: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)


def validated(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A section, or a configuration with further sections. Raises ConfigError as `build_config` does."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, kind)) from None


def _one_line(error: ValidationError, root: type[Section]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("function", "literal", "float"))]
    name = ".".join(path) or "config"
    if first["type"] == "extra_forbidden":
        return f"unknown config key '{name}'" + did_you_mean(path[-1], _known_keys(root, path[:-1]))
    if first["type"] == "value_error":
        rule = str(first["msg"]).removeprefix("Value error, ")
        return rule if not path else f"{name}: {rule}"
    message = str(first["msg"])
    return f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _known_keys(root: type[BaseModel], path: list[str]) -> Iterable[str]:
    section = root
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return section.model_fields.keys()
