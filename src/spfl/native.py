"""Names of files for libraries in other languages, which take no name that is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
