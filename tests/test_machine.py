"""How many cores a process may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spfl.errors import refusal
from spfl.machine import cores


def test_there_is_at_least_one_core_and_no_more_than_the_machine_has() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_affinity_of_the_process_is_respected() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import spfl.machine as m; print(m.cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_library_that_does_not_fit_into_memory_is_one_line():
    fault = ImportError("/x/y.so: failed to map segment from shared object", path="/x/y.so")
    assert refusal(fault) == "not enough memory to load y.so"
    assert refusal(ImportError("cannot import name 'f'")) is None
