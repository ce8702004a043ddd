"""Writing to an output folder: by one process at a time, whole files only, faults of the disk told in one line."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spfl.errors import RunFolderError
from spfl.files import FOLDER, HANDLES, check_folder, open_file, open_in_place, replace_file, replacing

try:
    import fcntl
except ImportError:  # no such locks on Windows: there, folders are not guarded
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # file systems without locks: not guarded
PATIENCE_S = 2.0  # processes of a sweep that was killed end within a second


@dataclass(frozen=True)
class _Lock:
    """The lock file, and a handle of the folder itself: its inode cannot be given to another while it is open."""

    file: int
    folder: int | None

    def close(self) -> None:
        os.close(self.file)
        if self.folder is not None:
            os.close(self.folder)


_held: dict[str, _Lock] = {}  # by absolute path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, for this process alone. Left empty, what was made is removed again.

    The lock is `flock` on FOLDER/.lock: the kernel releases it when the process ends, however it ends, so a file left
    by a dead process locks nothing. Raises RunFolderError when another process holds it, or when the folder cannot
    be made or written to. As long as it is held, every write is preceded by a look whether the folder is still ours.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    name = os.path.abspath(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _held[name] = _acquire(folder)
    try:
        yield
    finally:
        with suppress(OSError, RunFolderError):
            remove(folder / LOCK)
        _held.pop(name, None)
        lock.close()
        with suppress(OSError):  # not empty: something was written
            for path in made:
                path.rmdir()


def _acquire(folder: Path) -> _Lock:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        file = open_in_place(folder / LOCK, os.O_RDWR)
        if _flock(file) and _is_current(file, folder / LOCK):
            with suppress(OSError):  # no room: whoever is refused is not told by whom
                os.truncate(file, 0)
                os.write(file, str(os.getpid()).encode())
            return _Lock(file, os.open(folder, os.O_RDONLY | FOLDER) if HANDLES else None)
        holder = os.pread(file, 20, 0).decode(errors="replace")
        os.close(file)
        if time.monotonic() > give_up:
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise RunFolderError(f"output folder {folder} is in use by {who}; wait for it, or take another --out")
        time.sleep(0.05)


def check_ours(folder: Path) -> int | None:
    """The handle of a folder that this process holds; None for one that it does not.

    Raises RunFolderError when the name now belongs to another folder, or the lock to another process: somebody removed
    the folder, and maybe began a run of his own there.
    """
    lock = _held.get(os.path.abspath(folder))
    if lock is None:
        return None
    same = _is_current(lock.file, folder / LOCK) and (lock.folder is None or _is_current(lock.folder, folder))
    if not same:
        raise RunFolderError(f"output folder {folder} was removed or replaced while this run wrote to it; stopped")
    return lock.folder


def remove(path: Path) -> None:
    """Remove a file, if it is there, of a folder that is ours still. Raises RunFolderError as `check_ours`, OSError."""
    folder = check_ours(path.parent)
    with suppress(FileNotFoundError):
        os.unlink(path if folder is None else path.name, dir_fd=folder)


def in_use(folder: Path) -> bool:
    """Whether a process holds the folder just now; where folders are not guarded, never."""
    try:
        file = open_file(folder / LOCK)
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
    """Whether what is open is still what has that name: somebody may have removed or replaced it in between."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _forget() -> None:
    """In a forked process: an open copy of the file would keep the lock after the death of its parent."""
    for lock in _held.values():
        lock.close()
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
        file = os.fdopen(open_in_place(path, os.O_WRONLY | os.O_APPEND), "ab")

    def append(content: bytes) -> None:
        check_ours(path.parent)
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
    """Replace a file whole, as `files.replace_file`, in a folder that is ours still: see `check_ours`."""
    replace_file(path, content, check_ours(path.parent))


@contextmanager
def replacing_ours(path: Path) -> Iterator[BinaryIO]:
    """The same for a file that is written in pieces; yields what to write to."""
    with replacing(path, check_ours(path.parent)) as file:
        yield file
        check_ours(path.parent)


def below(folder: Path, *names: str) -> Path:
    """The path of a folder below one: raises RunFolderError where a link lies on the way to it."""
    for name in names:
        folder = check_folder(folder / name)
    return folder
