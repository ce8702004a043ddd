"""Fuzzers of claims, of nodes' answers and of datagrams: a few inputs in each test run, many in `make test-slow`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from spfl.errors import SpflError

HARM = (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, SpflError)
FUZZ = Path(__file__).parents[2] / "fuzz"
FEW = {"claims": 60, "answers": 1_500, "datagrams": 5_000}
FEW_SCHEMES = {"claims": {"schemes": ("sp_fl", "sp_fl_plus_1", "sp_fl_plus")}}
MANY = {"claims": 10_000, "answers": 200_000, "datagrams": 1_000_000}


def fuzzer(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FUZZ / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.mark.parametrize("name", FEW)
def test_no_input_does_more_than_it_may(name):
    found = fuzzer(name).fuzz(FEW[name], seed=3, **FEW_SCHEMES.get(name, {}))
    assert sum(found.values()) == FEW[name]
    assert len(found) > 1  # some are refused, and some are not


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_no_input_of_many_does_more_than_it_may(name, capsys):
    """SPFL_FUZZ multiplies the counts."""
    count = int(MANY[name] * float(os.environ.get("SPFL_FUZZ", "1")))
    found = fuzzer(name).fuzz(count, seed=4)
    with capsys.disabled():
        print(f"\nfuzz/{name}.py: {count} inputs, {dict(found)}, nothing else came of any")
    assert sum(found.values()) == count


@pytest.mark.parametrize("name", ["claims", "answers"])
def test_the_fuzzers_find_what_is_broken(name, monkeypatch):
    """Their twins: without the checks, harm is done within few inputs."""
    made = fuzzer(name)
    if name == "claims":
        monkeypatch.setattr("spfl.uplink.admission._possible", lambda *_: True)
    else:
        monkeypatch.setattr("spfl.flower.protocol.value_of", lambda note, key, kind: note[key])
    with pytest.raises(HARM):
        made.fuzz(FEW[name] * 5, seed=3, **FEW_SCHEMES.get(name, {}))


def test_the_fuzzer_of_claims_finds_a_vector_that_the_air_lengthens(monkeypatch):
    monkeypatch.setattr("spfl.uplink.admission._sent_within", lambda uploads, _: uploads)
    with pytest.raises(AssertionError):
        fuzzer("claims").fuzz(1500, seed=3, schemes=("analog_mean",))
