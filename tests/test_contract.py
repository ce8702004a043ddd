"""The contract suite finds what it is there to find: each broken part fails the test that names it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spfl import testing
from spfl.fleet import threads as fleet
from spfl.schemes import SCHEMES
from spfl.testing import SchemeContract, assert_equal
from spfl.uplink import reception
from spfl.uplink.format import Format

SP_FL = SCHEMES["sp_fl_normalized"]


def test_averaging_in_what_was_lost_is_found(monkeypatch):
    honest = reception.receive

    def deaf(form, arrived, state):
        everything = replace(arrived.outcome, sign=np.ones_like(arrived.outcome.sign))
        return honest(form, replace(arrived, outcome=everything), state)

    SchemeContract().test_what_was_lost_is_never_averaged_in(SP_FL)
    monkeypatch.setattr(testing, "receive", deaf)
    with pytest.raises(AssertionError):
        SchemeContract().test_what_was_lost_is_never_averaged_in(SP_FL)


def test_bits_that_are_not_counted_are_found(monkeypatch):
    monkeypatch.setattr(Format, "payload_bits", lambda *_: 1)
    with pytest.raises(AssertionError):
        SchemeContract().test_every_bit_is_accounted_for(SP_FL)


def test_state_outside_the_state_is_found(monkeypatch):
    honest, calls = fleet.local_gradient, []

    def moody(*arguments):
        calls.append(0)
        gradient, loss, kept = honest(*arguments)
        return gradient * np.float32(1 + len(calls)), loss, kept

    monkeypatch.setattr(fleet, "local_gradient", moody)
    with pytest.raises(AssertionError):
        SchemeContract().test_a_round_is_a_pure_function_of_the_state(SP_FL)


def test_a_share_that_breaks_on_silent_devices_is_found():
    """Dividing by the weights of a cohort in which nobody has any: the example's mistake before the suite found it."""

    def careless(devices, link):
        return devices.weight / devices.weight.sum(), 0.5

    mine = replace(SCHEMES["sp_fl_uniform"], name="mine", share=careless)
    with pytest.raises(Exception, match=r"invalid value|must return"):
        SchemeContract().test_gradients_that_are_not_finite_are_contained(mine, tuple(range(6)))


def test_equal_means_to_the_last_bit():
    assert_equal({"a": np.array([1.0, np.nan]), "b": (1, np.nan)}["a"], np.array([1.0, np.nan]))
    with pytest.raises(AssertionError):
        assert_equal({"a": np.array([1.0])}, {"a": np.array([1.0 + 1e-15])})
    with pytest.raises(AssertionError):
        assert_equal({"a": 1}, {"b": 1})


def test_a_class_without_a_scheme_says_so():
    with pytest.raises(AssertionError, match="set the class attribute"):
        SchemeContract._scheme.__wrapped__(SchemeContract())


def pulled(task):
    """FedProx with one step, by hand: the gradient, and a pull of nothing since the step begins at the model."""
    gradient, loss = task.gradient(task.weights.clone(), next(task.batches()))
    return gradient.numpy().copy(), loss


def counted(weights, update, memory, round_):
    """Plain steps that shrink with the steps made: a rule with a memory."""
    made = memory.get("made", np.zeros(1, np.float32)) + np.float32(np.any(update != 0))
    return weights - 0.1 / np.sqrt(np.maximum(made, 1)) * update, {"made": made}


class TestPeaks(SchemeContract):
    scheme = replace(SCHEMES["sp_fl_plus"], name="sp_fl_plus_peaks", peaks=True)


class TestRulesOfYourOwn(SchemeContract):
    scheme = SP_FL
    local = staticmethod(pulled)
    server = staticmethod(counted)


def test_a_local_rule_that_draws_elsewhere_is_found():
    """A rule that takes random numbers from a generator of its own gives other bits the second time."""
    rng = np.random.default_rng(0)

    def moody(task):
        gradient, loss = pulled(task)
        return gradient + rng.normal(size=gradient.size).astype(np.float32), loss

    class Moody(SchemeContract):
        local = staticmethod(moody)

    with pytest.raises(AssertionError):
        Moody().test_same_seed_same_bits_whatever_the_workers(SP_FL)


def test_a_server_rule_that_remembers_elsewhere_is_found():
    calls = []

    def moody(weights, update, memory, round_):
        calls.append(round_)
        return weights - 0.1 * len(calls) * update, {}

    class Moody(SchemeContract):
        server = staticmethod(moody)

    with pytest.raises(AssertionError):
        Moody().test_a_round_is_a_pure_function_of_the_state(SP_FL)
