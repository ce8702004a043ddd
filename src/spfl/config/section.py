"""Tables of a configuration and public records: validated once, with one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, field_validator

from spfl.errors import ConfigError, did_you_mean


class Section(BaseModel):
    """A table of the configuration file: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1."""
        if isinstance(value, bool) and "bool" not in str(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"must be no truth value, got {str(value).lower()}")
        return value


def unmet(having: str, wanted: Mapping[str, tuple[Any, Any]]) -> str | None:
    """The line on the first key whose (value, wanted value) differ, if there is one; None is an absent key."""
    for key, (value, only) in wanted.items():
        if value != only:
            return f"{key} must be {'absent' if only is None else only} with {having}, got {value}"
    return None


def require(having: str, wanted: Mapping[str, tuple[Any, Any]]) -> None:
    """For validators: raise ValueError with the line of `unmet`, if there is one."""
    if line := unmet(having, wanted):
        raise ValueError(line)


AnySection = TypeVar("AnySection", bound=Section)


def validated(kind: type[AnySection], values: Mapping[str, Any]) -> AnySection:
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
        return f"unknown config key '{name}'" + _meant(root, path)
    if first["type"] == "value_error":
        rule = str(first["msg"]).removeprefix("Value error, ")
        return rule if not path else f"{name}: {rule}"
    if first["input"] == "none" and str(first["type"]).endswith("_parsing"):
        return f"{name} must have a value, got none, which unsets keys that may be absent"
    message = str(first["msg"])
    return f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _meant(root: type[Section], path: list[str]) -> str:
    """The keys of other sections that end so, else the nearest of the section."""
    ends = [
        f"{section}.{path[-1]}"
        for section, field in root.model_fields.items()
        if isinstance(kind := field.annotation, type) and issubclass(kind, BaseModel) and path[-1] in kind.model_fields
    ]
    return (
        f" (did you mean {' or '.join(map(repr, ends))}?)"
        if ends
        else did_you_mean(path[-1], _known_keys(root, path[:-1]))
    )


def _known_keys(root: type[BaseModel], path: list[str]) -> Iterable[str]:
    section = root
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return section.model_fields.keys()


# --- records: dataclasses that a caller makes in Python --------------------------------------------------------------


def check_fields(record: Any) -> None:
    """For `__post_init__`: raise ConfigError for the first field whose value its annotation does not admit."""
    kind: Any = type(record)
    for name, (adapter, choices) in _rules(kind).items():
        value = getattr(record, name)
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            what = f"{type(record).__name__}.{name}"
            if choices and isinstance(value, str):
                known = ", ".join(choices)
                raise ConfigError(f"{what} must be one of {known}, got {value!r}" + _near(value, choices)) from None
            rule = error.errors()[-1]["msg"].replace("Input should be", "must be")
            raise ConfigError(f"{what} {rule}, got {value!r}") from None


def _near(name: str, choices: list[str]) -> str:
    hint = did_you_mean(name, choices)
    return hint if "did you mean" in hint else ""  # the choices are told already


@cache
def _rules(kind: Any) -> dict[str, tuple[TypeAdapter[Any], list[str]]]:
    """Of each field: what checks it, and the names it may have."""
    hints = get_type_hints(kind, include_extras=True)
    anything = ConfigDict(arbitrary_types_allowed=True)
    return {
        field.name: (TypeAdapter(hints[field.name], config=anything), _choices(hints[field.name]))
        for field in fields(kind)
    }


def _choices(hint: Any) -> list[str]:
    """The names that an annotation admits, within unions as well."""
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if isinstance(value, str)]
    return [name for part in get_args(hint) if get_origin(part) is Literal for name in _choices(part)]
