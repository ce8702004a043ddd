"""Folders for what a program trusts when it reads it back: of the user's own, and nobody else may write there."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> str | None:
    """Make the folder, and those above it, with mode 700 where they are not there.

    Returns why it cannot be trusted, in one line; None when it can.
    """
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"{path} cannot be made: {error.strerror}"
    return untrusted(path)


def untrusted(path: Path) -> str | None:
    """Why what lies at a path may be of somebody else, in one line; None when it is the user's own. Raises OSError."""
    if not hasattr(os, "geteuid"):
        return None  # Windows: folders of a profile are the user's
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link"
    if found.st_uid != os.geteuid():
        return f"{path} belongs to another user"
    if found.st_mode & OTHERS_WRITE:
        return f"{path} can be written by others (mode {found.st_mode & 0o777:o}); chmod go-w it if all in it is yours"
    return None


def drop_torn_pickles(folder: Path, *suffixes: str) -> int:
    """Remove pickles that a power cut has left empty, cut or filled with zeros: each ends with its STOP, a dot."""
    torn = [path for suffix in suffixes for path in folder.rglob(f"*{suffix}") if not _ends_with_stop(path)]
    for path in torn:
        with suppress(OSError):
            path.unlink()
    return len(torn)


def _ends_with_stop(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"."
    except OSError:
        return False
