"""Every error a user can cause or meet. The CLI turns each into one line on stderr and exit code 2."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

UNWRITABLE = "null byte", "null character"  # of a path: what Python's ValueError says
NO_HOME = "home directory"  # of a path that begins with ~: what pathlib's RuntimeError says
LOOP = "Symlink loop"  # of a path that links to itself: what pathlib's RuntimeError says
NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"  # what PyTorch's RuntimeError says
EXTRAS = {
    "matplotlib": "plots",
    "plotly": "report",
    "jinja2": "report",
    "datasets": "hub",
    "pandas": "tables",
    "openpyxl": "tables",
}
NO_THREAD = "can't start new thread"


def printable(text: str) -> str:
    """Text for a terminal: control characters, of which a name in a foreign folder may be full, become escapes.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class SpflError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(SpflError):
    """A parameter is unknown or breaks its rule; the message names parameter, rule and value."""


class DataError(SpflError):
    """A dataset is missing, unreadable, or cannot be partitioned as asked."""


class PacketError(SpflError):
    """A packet is truncated, corrupted, or was not made for this model, round or device."""


class AllocationError(SpflError):
    """A resource-allocation problem is malformed or has no feasible point."""


class RunFolderError(SpflError):
    """A run folder cannot be created, read, or continued."""


class WorkerError(SpflError):
    """A worker process ended, or met what it should not have."""


class FlowerError(SpflError):
    """Flower did not start, or a run of it failed."""


class MachineError(SpflError):
    """The machine refuses: a path cannot be read or written, memory or threads run out."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what the system refuses into a MachineError of one line; also a decorator. Faults of spfl pass as they are.

    The one place that knows how Python, NumPy and PyTorch say that a path, memory or threads are not to be had.
    """
    try:
        yield
    except (OSError, MemoryError, UnicodeError, ValueError, RuntimeError, OverflowError, ImportError) as error:
        line = refusal(error)
        if line is None:
            raise
        raise MachineError(line) from error


@contextmanager
def python_errors() -> Iterator[None]:
    """As `plain_errors`, for functions that are called from Python: options in messages become its keywords."""
    try:
        with plain_errors():
            yield
    except SpflError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(message: str) -> str:
    """A message with `--set KEY=none`, `--overwrite` and their like as a caller in Python writes them."""
    message = re.sub(r"--set ([\w.]+)=none", r'overrides={"\1": None}', message)
    message = re.sub(r"--(overwrite|resume)\b", r'existing="\1"', message)
    return re.sub(r"--(out|data-dir)\b", lambda found: found[1].replace("-", "_"), message)


def reason(error: BaseException) -> str:
    """What another library's error says, in one line and without what only its programmers understand."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    if "Traceback of TorchScript" in text:  # the interpreter of TorchScript tells its stack first
        text = text.splitlines()[-1].partition(": ")[2]
    return re.sub(r" *<[^<>]* object at 0x[0-9a-f]+>", "", " ".join(text.split()))[:200]


def named(error: BaseException) -> str:
    """The kind of an error and what it says, in one line."""
    return f"{type(error).__name__}: {reason(error) or type(error).__name__}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory is what is wanting, whoever says so."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


def refusal(error: BaseException) -> str | None:
    """What a path, memory, threads or a part of an extra were refused for, in one line; None for any other error."""
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        return f"this needs {name}: pip install 'spfl[{EXTRAS[name]}]'" if name in EXTRAS else None
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        name = re.split(r"[/\\]", error.path or "a library")[-1]
        return f"not enough memory to load {name}" if "failed to map segment" in text else None
    if out_of_memory(error):
        return f"not enough memory for what is asked ({text[:120] or 'no more is to be had'})"
    if NO_THREAD in text:
        return "no more threads are to be had here (workers): ask for fewer, such as workers = 1"
    if isinstance(error, OSError):
        return _of_the_system(error, text)
    if isinstance(error, UnicodeError):
        return f"a name or text cannot be encoded or decoded: {text[:200]}"
    if isinstance(error, ValueError) and any(words in text for words in UNWRITABLE):
        return f"a path cannot hold a null byte ({text})"
    if isinstance(error, RuntimeError) and LOOP in text:
        return f"a path is a link that leads to itself ({text})"
    if isinstance(error, RuntimeError) and NO_HOME in text:
        return f"a path that begins with ~ has no home folder here ({text})"
    return None


def _of_the_system(error: OSError, text: str) -> str:
    place = " -> ".join(_short(str(name)) for name in (error.filename, error.filename2) if name is not None)
    reason = error.strerror or text or type(error).__name__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        reason += "; raise the limit (ulimit -n)"
    return f"{place}: {reason}" if place else reason


def _short(name: str) -> str:
    return name if len(name) <= 160 else f"{name[:80]}...{name[-60:]}"


def first_true(wrong: Mapping[str, bool]) -> str | None:
    """The first fault that is one, in words, of a table of faults."""
    return next((what for what, is_wrong in wrong.items() if is_wrong), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or the list of all when none is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(known)})"
