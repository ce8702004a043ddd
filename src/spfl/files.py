"""Files in folders that somebody else may have made: links are not followed, and only regular files are opened.

A folder arrives as an archive or a checkout, and its links point where their maker wanted. A file is read through
`read_file`, added to through `open_in_place`, and replaced through `replace_file`; a folder below one is entered only
after `check_folder`. The folder that the user names may itself be a link: it is his own word.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

from spfl.errors import RunFolderError

# 0 where a platform has none of these (Windows): there, the look before opening is all.
NOFOLLOW, FOLDER = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_DIRECTORY", 0)
SAFE = NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
HANDLES = os.open in os.supports_dir_fd and os.unlink in os.supports_dir_fd
LARGEST_TEXT = 2**26  # bytes of a JSON or TOML file; those of spfl have some thousands
AnyPath = TypeVar("AnyPath", bound=Path)


def check_file(path: AnyPath) -> AnyPath:
    """The path; raises RunFolderError for a link, or for what is not a regular file. What is missing passes."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    if not stat.S_ISREG(mode):
        raise RunFolderError(f"{path} is {_kind(mode)}, must be a file; a folder of somebody else is not trusted")
    return path


def check_folder(path: AnyPath) -> AnyPath:
    """The path of a folder below that of the user; raises RunFolderError for a link. What is missing passes."""
    if path.is_symlink():
        raise RunFolderError(f"{path} is a link, must be a folder; a folder of somebody else is not trusted")
    return path


def _kind(mode: int) -> str:
    return "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"


def is_file(path: Path) -> bool:
    """Whether a file is there. Raises RunFolderError for a link and the like, which `Path.is_file` would follow."""
    return check_file(path).exists()


def open_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file. Raises RunFolderError as `check_file`, and OSError."""
    check_file(path)
    file = os.open(path, flags | SAFE, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise RunFolderError(f"{path} must be a file; a folder of somebody else is not trusted")
    return file


def open_in_place(path: Path, flags: int) -> int:
    """As `open_file`, to change a file where it lies; raises RunFolderError also for one that has a second name."""
    file = open_file(path, flags | os.O_CREAT)
    try:
        _check_names(path, os.fstat(file))
    except RunFolderError:
        os.close(file)
        raise
    return file


def check_own(path: AnyPath) -> AnyPath:
    """As `check_file`, for a file that is shown whole: one with a second name may be a file of the user's elsewhere."""
    if is_file(path):
        _check_names(path, path.lstat())
    return path


def _check_names(path: Path, status: os.stat_result) -> None:
    if status.st_nlink > 1:
        raise RunFolderError(
            f"{path} has a second name (a hard link), which would change or be shown too; copy the folder first"
        )


def read_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, at most `most` of them. Raises RunFolderError otherwise, and OSError."""
    with os.fdopen(open_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise RunFolderError(f"{path} has {size} bytes, must have at most {most}")
        return file.read()


def read_text(path: Path) -> str:
    """The text of a file that the user names, a pipe as well; OSError for one without a near end, such as /dev/zero."""
    with path.open("rb") as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise OSError(errno.EFBIG, f"has more than {LARGEST_TEXT >> 20} MiB", str(path))
    return content.decode("utf-8-sig")


def stream(path: Path) -> BytesIO:
    """As `read_file`, for libraries that read a file object."""
    return BytesIO(read_file(path))


def replace_file(path: Path, content: bytes, folder: int | None = None) -> None:
    """Replace a file whole, as `replacing`. Raises OSError."""
    with replacing(path, folder) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, folder: int | None = None) -> Iterator[BinaryIO]:
    """Write beside the target, flush to the disk, rename: a reader sees the old file or the new one, never a part.

    What lies at the name of the temporary file is removed, not written to; a link at the target is replaced, not
    followed. A device or pipe is neither: OSError. `folder` is a handle of `path.parent` that the caller holds.
    """
    if not HANDLES:
        with _renamed(path.with_name(f"{path.name}.tmp"), path, None) as file:
            yield file
        return
    handle = os.open(path.parent, os.O_RDONLY | FOLDER) if folder is None else folder
    try:
        with _renamed(Path(f"{path.name}.tmp"), Path(path.name), handle) as file:
            yield file
        with suppress(OSError):  # the renaming itself, where folders can be brought to the disk
            os.fsync(handle)
    finally:
        if folder is None:
            os.close(handle)


def _refuse_device(target: Path, folder: int | None) -> None:
    """Raises OSError for what root could replace and everybody needs: /dev/full, /dev/stdout, a named pipe."""
    with suppress(FileNotFoundError):
        mode = os.stat(target, dir_fd=folder).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, f"is {_kind(mode)}, must be a file", str(target))


@contextmanager
def _renamed(temporary: Path, target: Path, folder: int | None) -> Iterator[BinaryIO]:
    _refuse_device(target, folder)
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, 0o666, dir_fd=folder)
        with os.fdopen(file, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, target, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
