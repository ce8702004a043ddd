"""Names of files and folders that a machine refuses, or that a careless program misreads; also for fuzz/."""

from __future__ import annotations

import os

STRANGE_PATHS = {
    "a name of 300 characters": "a" * 300,
    "below a file": "file/x",
    "a file": "file",
    "nobody's home": "~nosuchuser/x",
    "empty": "",
    "a null byte": "a\0b",
    "no UTF-8": os.fsdecode(b"r\xe9sum\xe9"),
    "somebody else's": "locked/x",
    "markup": "[/b]x[red]",
    "a dollar": r"a$\foo$b",
}
