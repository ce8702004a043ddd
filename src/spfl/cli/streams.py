"""Standard output and error that lose no work: what they cannot print is replaced, what they cannot take is kept."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from spfl.errors import MachineError

ERRORS = "spfl.plain"  # the name under which codecs know `_plain`
PLAIN = {"±": "+-", "…": "...", "‖": "||", "−": "-", "α": "alpha", "µ": "u"}
PLAIN |= {block: str(level) for level, block in enumerate("▁▂▃▄▅▆▇█", 1)}  # a sparkline in figures


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """For one character that a stream lacks: the bytes of a file name as they are, a word in ASCII, or its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), end
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), end


codecs.register_error(ERRORS, _plain)


class Steady:
    """A text stream whose faults are kept, and not raised: a full disk or a closed pipe stops no work.

    `fault` is the first one; `unsaid` is what the stream had not passed on by then.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.fault: OSError | None = None
        self.unsaid = ""

    def write(self, text: str) -> int:
        if isinstance(text, str):
            self.unsaid += text
        if self.fault is None:
            try:
                self._stream.write(text)
                if getattr(self._stream, "line_buffering", False) and "\n" in text:
                    self.flush()
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if self.fault is None:
            try:
                self._stream.flush()
                self.unsaid = ""
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.fault = error
        with suppress(OSError, ValueError):  # what waits in the buffers would be tried again when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nowhere() -> TextIO:
    """In place of a stream that was closed before Python began (`>&-`): its number goes to no file of ours."""
    return open(os.devnull, "w", encoding="utf-8")


@contextmanager
def steady_streams() -> Iterator[None]:
    """Inside, `sys.stdout` and `sys.stderr` are `Steady`, and lack no character.

    Raises MachineError at the end when standard output took not all: standard error then has the rest, and nothing is
    lost. A reader that went away (a closed pipe) is none: it had enough.
    """
    before = sys.stdout, sys.stderr
    streams = [stream or _nowhere() for stream in before]
    policies = [getattr(stream, "errors", None) for stream in streams]
    out, err = (Steady(stream) for stream in streams)
    for stream in streams:
        _forgive(stream, ERRORS)
    sys.stdout, sys.stderr = cast(Any, out), cast(Any, err)
    try:
        yield
        out.flush()
        if out.fault is not None and out.fault.errno != errno.EPIPE:
            err.write(out.unsaid)
            raise MachineError(f"standard output: {out.fault.strerror or out.fault}; what it lost is above")
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
        for stream, policy, mine in zip(streams, policies, before, strict=True):
            if mine is None:
                stream.close()
            else:
                _forgive(stream, policy)


def _forgive(stream: Any, policy: str | None) -> None:
    with suppress(AttributeError, ValueError, OSError):  # a stream of a test, or a closed one
        stream.reconfigure(errors=policy or "strict")
