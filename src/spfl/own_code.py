"""Code of a user's own that a configuration names: a Python file, or an object in a package or a file."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from spfl.errors import ConfigError, SpflError, did_you_mean, named, out_of_memory, reason


def source_digest(path: str) -> str:
    """SHA-256 of a file's bytes. Raises ConfigError when it cannot be read."""
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: str) -> bytes:
    try:
        place = Path(path).expanduser()
        if place.exists() and not place.is_file():  # a device or pipe may have no end
            raise ConfigError(f"{path} must be a file, got {'a folder' if place.is_dir() else 'a device or pipe'}")
        return place.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in it, a home that there is not
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}") from None


def run_file(path: str, digest: str) -> ModuleType:
    """The module that a Python file of this digest makes, run once a process.

    Raises ConfigError for a file of another digest, or one that raises, with its line.
    """
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ConfigError(
            f"{path} was changed: its SHA-256 is {found[:12]}..., the configuration says {digest[:12]}..."
        )
    name = f"spfl_own_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[module.__name__]  # a second try, as in a notebook, is not to find half of it
        if not isinstance(error, Exception):
            raise
        raise ConfigError(f"{path} fails: {named(error)}") from error
    return module


def called(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a part of the user's own returns. Raises ConfigError, which names the part, when it raises."""
    with failing(f"{part} of your own"):
        return function(*arguments)


@contextmanager
def failing(part: str) -> Iterator[None]:
    """Turn what code that is not ours raises into a ConfigError that names the part; but where memory is wanting."""
    try:
        yield
    except SpflError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ConfigError(f"{part} fails: {named(error)}") from error


def find_object(name: str, key: str) -> Any:
    """The object "package.module:name" or "file.py:name" that a key names. Raises ConfigError when there is none."""
    return find_source(name, key)[1]


def find_source(name: str, key: str) -> tuple[ModuleType, Any]:
    """The module as well. Packages of the current folder are found, however spfl was started. Raises ConfigError."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise ConfigError(f"{key} must be package.module:name or file.py:name, got {name!r}")
    if place.endswith(".py"):
        module = run_file(place, source_digest(place))
    else:
        module = _import(place, name)
    try:
        return module, getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{place} has no {attribute!r}{did_you_mean(attribute, vars(module))}") from None
    except Exception as error:  # of a module that makes its names when they are asked for
        raise ConfigError(f"{name} fails: {named(error)}") from error


def _import(place: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it; a console script has not
        sys.path.append(here)
    try:
        return importlib.import_module(place)
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {reason(error)}") from None
    except Exception as error:  # whatever a module raises when it is run
        raise ConfigError(f"{place} fails: {named(error)}") from error
