"""`python -m spfl` and the command `spfl`: the command line in a process of its own."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress


def run() -> None:
    """Run the command line that this process was given, and end the process with its exit code.

    Python is not taken down: a thread of a library that still runs then aborts the process now and then, after all is
    said and done (pytorch/pytorch, issue 38228). The exit function that is registered first runs last: threads have
    been joined by then, and the libraries have said farewell.
    """
    codes: list[int] = []

    def leave() -> None:
        if not codes:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(codes[0] & 0xFF)

    atexit.register(leave)
    from spfl.cli.commands import main

    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            codes.append(stop.code or 0)
        raise


if __name__ == "__main__":
    run()
