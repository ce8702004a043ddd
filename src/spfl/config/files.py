"""Configurations as TOML files and as `section.key=value` overrides, there and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from spfl.config.schema import Config, build_config
from spfl.config.section import Section
from spfl.errors import ConfigError
from spfl.files import read_text


def load_config(path: Path | str | None, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a TOML file, checked.

    Args:
        path: The file; all keys have their defaults when None.
        overrides: `section.key=value`, as with `--set`; later ones win.

    Returns:
        The resolved configuration, which never changes.

    Raises:
        ConfigError: The file is unreadable or no TOML, a key is unknown (with the nearest name), or a value is bad.
    """
    return build_config(read_values(path, overrides))


def read_values(path: Path | str | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file (none when None) with overrides applied; ConfigError as in `load_config`."""
    values = read_toml(Path(path)) if path else {}
    for override in overrides:
        assign(values, *parse_override(override))
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; tables in tables without end
        raise ConfigError(f"config file {path} cannot be read: {' '.join(str(error).split())[:120]}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`. Raises ConfigError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set needs key=value, got '{text}'")
    name, given = key.strip(), value.strip()
    return name, None if given == "none" and may_be_absent(name) else parse_value(given)


def may_be_absent(key: str) -> bool:
    """Whether `section.key` may be unset, for which the command line writes `none`."""
    field = all_fields().get(key)
    return field is not None and type(None) in get_args(field.annotation)


def all_fields() -> dict[str, FieldInfo]:
    """Every key of a configuration as `section.key`, with its type, default and meaning."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= {f"{name}.{key}": inner for key, inner in kind.model_fields.items()}
        else:
            found[name] = field
    return found


def keys_that_end(name: str) -> list[str]:
    """The keys `section.NAME`: what somebody may mean who leaves the section out."""
    return [key for key in all_fields() if key.rpartition(".")[2] == name]


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in nested tables. Raises ConfigError where a section of the key is a value."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: '{section}' is a value, not a section")
    values[last] = value


def dotted(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as `section.key` -> value, the inverse of `assign`."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself when it is none (so that `--set scheme.name=sp_fl` needs no quotes)."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError; so is a number of thousands of digits
        return text


def to_toml(config: Config) -> str:
    """The config as TOML that `load_config` reads back to an equal value (absent keys stand for None)."""
    lines: list[str] = []
    tables = config.model_dump(mode="json", exclude_none=True)
    for key, value in tables.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {toml_value(value)}")
    for key, value in tables.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{k} = {toml_value(v)}" for k, v in value.items())]
    return "\n".join(lines) + "\n"


def show_toml(config: Config) -> str:
    """`to_toml` for a reader: keys that are absent stand as comments with their meaning, in their sections."""
    lines: list[str] = []
    section = ""
    absent = {key: field for key, field in all_fields().items() if dotted(config.model_dump())[key] is None}
    for line in [*to_toml(config).splitlines(), "["]:
        if line.startswith("["):
            notes = [_absent(key, field) for key, field in absent.items() if key.rpartition(".")[0] == section]
            at = len(lines) - 1 if lines and not lines[-1] else len(lines)
            lines[at:at] = notes
            section = line.strip("[]")
        lines.append(line)
    return "\n".join(lines[:-1]) + "\n"


def _absent(key: str, field: FieldInfo) -> str:
    return f"# {key.rpartition('.')[2]} =   # {field.description}"


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's; DEL is not
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value)
