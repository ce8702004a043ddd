"""What this process may use of the machine: cores, memory, and names of files for libraries in other languages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

CHUNK = 4096  # devices a thread takes at once
PART = 2**18  # values gone over together where they are many: they stay in the second-level cache
Answered = TypeVar("Answered")


@contextmanager
def native(path: Path) -> Iterator[str]:
    """Yields a name under which a file can be read: its own, or that of an open descriptor where its own is no UTF-8.

    Raises OSError for a file that cannot be opened, as such a library would.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def cores() -> int:
    """Cores that this process may use: CPU affinity and the limit of a container are respected."""
    from joblib import cpu_count

    return int(cpu_count())


def memory_bytes() -> int:
    """Memory that this process can still be given: of the machine, and of its control group."""
    free = [int(words[1]) * 1024 for words in map(str.split, _lines("/proc/meminfo")) if words[0] == "MemAvailable:"]
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        found = _words(f"/sys/fs/cgroup/{most}") + _words(f"/sys/fs/cgroup/{used}")
        if len(found) == 2 and all(word.isdecimal() for word in found):
            free.append(max(0, int(found[0]) - int(found[1])))
    return min(free, default=2**40)


def _words(path: str) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: str) -> list[str]:
    try:
        return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError):
        return []


def in_chunks(work: Callable[[slice], Answered], size: int, chunk: int = CHUNK) -> list[Answered]:
    """What `work` gives for every part of `size` devices, in their order; one part is done at once, without threads."""
    parts = [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(len(parts), cores())) as pool:
        return list(pool.map(work, parts))
