"""One function over many items in many processes: answers as they come, and no fault of one item stops the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from typing import Any, Generic, TypeVar

from spfl.errors import ConfigError, SpflError, WorkerError

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")

METHOD = "fork" if sys.platform == "linux" else "spawn"  # a fork starts with all the parent has in memory
WATCH_S = 1.0  # seconds between looks at the parent
GRACE_S = 10.0  # for a process that is to end; one that forked while a lock was held may never do so by itself


@dataclass(frozen=True)
class Failure:
    """Why an item has no answer: one line, the traceback if there is one, and the error if it is one of ours."""

    message: str
    details: str = ""
    refusal: SpflError | None = None

    def error(self, what: str) -> SpflError:
        """What to raise of it where there are no processes: our own error as it is; anything else after `what`."""
        if self.refusal is not None:
            return self.refusal
        error = WorkerError(f"{what}: {self.message}")
        error.add_note(self.details)
        return error


def map_processes(
    function: Callable[[Piece], Answer], items: Sequence[Piece], processes: int
) -> Generator[tuple[Piece, Answer | Failure], None, None]:
    """Yield (item, answer) in the order in which answers come. An exception, or the death of a process, is a Failure.

    Processes end with the caller: at once when the iterator is closed, within a second when the caller is killed.
    Where processes are not forked, `function` and the items must be picklable. Interrupts are left to the caller.
    """
    todo = iter(items)
    workers: list[Worker[Piece, Answer]] = []
    try:
        for _ in range(min(processes, len(items))):  # one by one: an interrupt meets those that have begun
            workers.append(Worker(function))
        for worker, item in zip(workers, todo, strict=False):
            worker.give(item)
        busy = list(workers)
        while busy:
            ready = set(wait([handle for worker in busy for handle in worker.handles()]))
            for worker in [w for w in busy if ready.intersection(w.handles())]:
                done, answer = worker.take()
                busy.remove(worker)
                for item in todo:  # one at most: the worker is put back to work before its answer is looked at
                    worker.give(item)
                    busy.append(worker)
                    break
                yield done, answer
    finally:
        for worker in workers:
            worker.stop()


class Worker(Generic[Piece, Answer]):
    """A process that answers one item at a time, and is replaced when it dies."""

    def __init__(self, function: Callable[[Piece], Answer]) -> None:
        self._function = function
        self._item: Any = None
        self._start()

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(METHOD)  # typeshed knows no context of a method that is a variable
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._function, theirs, os.getpid()), daemon=True)
        try:
            self._process.start()
        except (PicklingError, AttributeError, TypeError):  # which of them depends on what cannot be sent
            self._pipe.close()
            raise ConfigError(
                "processes must be 0 with a part of your own that cannot be sent to a new process; or define it by a "
                "name at the top of a module, not as a lambda or inside a function"
            ) from None
        finally:
            theirs.close()

    def handles(self) -> tuple[Any, ...]:
        """What becomes ready when there is an answer, or when there will be none."""
        return self._pipe, self._process.sentinel

    def give(self, item: Piece) -> None:
        self._item = item
        if not self._process.is_alive():
            self._pipe.close()
            self._start()
        with suppress(OSError):  # the process has just died: `take` will tell
            self._pipe.send(item)

    def take(self) -> tuple[Piece, Answer | Failure]:
        """The item given and its answer, once one of the handles is ready."""
        try:
            if self._pipe.poll():
                return self._item, self._pipe.recv()
        except (EOFError, OSError):
            pass
        self._join()
        return self._item, Failure(f"the process ended with exit code {self._process.exitcode}")

    def stop(self) -> None:
        self._process.terminate()
        self._join()
        self._pipe.close()

    def _join(self) -> None:
        self._process.join(GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(function: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """The life of a process: answer until there is nobody to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _one_thread()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a progress bar of the parent may have replaced them
    with suppress(RuntimeError):  # no more threads are to be had: whatever needs one says so
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(item)
        except BaseException as error:  # an exit or an interrupt, too: of code of the user's own
            answer = _failure(error)
        pipe.send(answer)


def _failure(error: BaseException) -> Failure:
    details = traceback.format_exc()
    if isinstance(error, SystemExit):
        error = ConfigError(f"code of your own ended the process with exit code {error.code}")
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Failure(line.rstrip(": "), details, error if isinstance(error, SpflError) else None)


def _one_thread() -> None:
    """PyTorch computes each operation on one thread: that keeps equal bits, and spares a wait for ever.

    PyTorch's threads (OpenMP's) do not survive a fork, and the child of a parent that has used them waits for them.
    """
    import torch  # here: this module is of any function

    torch.set_num_threads(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)
