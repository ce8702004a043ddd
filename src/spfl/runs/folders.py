"""Writing to an output folder: by one process at a time, whole files only, faults of the disk told in one line."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spfl.errors import RunFolderError

try:
    import fcntl
except ImportError:  # no such locks on Windows: there, folders are not guarded
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # file systems without locks: not guarded
PATIENCE_S = 2.0  # processes of a sweep that was killed end within a second
_held: set[int] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, for this process alone. Left empty, what was made is removed again.

    The lock is `flock` on FOLDER/.lock: the kernel releases it when the process ends, however it ends, so a file left
    by a dead process locks nothing. Raises RunFolderError when another process holds it, or when the folder cannot
    be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(folder)
    try:
        yield
    finally:
        _held.discard(file)
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):  # not empty: something was written
            for path in made:
                path.rmdir()


def _acquire(folder: Path) -> int:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if _flock(file) and _is_current(file, folder / LOCK):
            _held.add(file)
            with suppress(OSError):  # no room: whoever is refused is not told by whom
                os.truncate(file, 0)
                os.write(file, str(os.getpid()).encode())
            return file
        holder = os.pread(file, 20, 0).decode(errors="replace")
        os.close(file)
        if time.monotonic() > give_up:
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise RunFolderError(f"output folder {folder} is in use by {who}; wait for it, or take another --out")
        time.sleep(0.05)


def in_use(folder: Path) -> bool:
    """Whether a process holds the folder just now; where folders are not guarded, never."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go at once: who wants the folder tries for a while
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _flock(file: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _is_current(file: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name: its last holder may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked process: an open copy of the file would keep the lock after the death of its parent."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a fault of the file system (full, read-only, no permission) into a RunFolderError of one line."""
    try:
        yield
    except OSError as error:
        what = error.strerror or " ".join(str(error).split())
        raise RunFolderError(
            f"cannot write to {folder}: {what}; what it holds is whole, --resume goes on from there"
        ) from None


@contextmanager
def appender(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields what appends bytes to a file and brings them to the disk. Raises RunFolderError as `writing` does."""
    with writing(path.parent):
        file = path.open("ab")

    def append(content: bytes) -> None:
        with writing(path.parent):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    try:
        yield append
    finally:
        with suppress(OSError):  # told already, by `append`
            file.close()


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where folders can be opened."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
