"""Asynchronous rounds against a twin that keeps whole models and a list of events, and against synchronous ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from oracles import asynchronous_models, loss_at
from small_runs import assert_same_run, make_config
from spfl.config.asynchronous import AsynchronousConfig
from spfl.config.schema import build_config
from spfl.config.training import ClientsConfig
from spfl.custom import Custom
from spfl.errors import ConfigError
from spfl.learning.asynchronous import Gathered, Timeline, gather, staleness_weight
from spfl.learning.selection import Selection
from spfl.rng import SERVER, Purpose, stream
from spfl.runs.experiment import run_experiment
from spfl.runs.metrics import read_metrics
from spfl.runs.verification import verify
from spfl.schemes import SCHEMES
from spfl.training import train
from spfl.world.world import World

DEVICES, EACH, BATCH, RATE, SLOTS = 5, 60, 20, 0.1, 25


def equal_parts(labels, devices, rng):
    return np.array_split(np.argsort(labels, kind="stable")[: devices * EACH], devices)


def world_of(digits, rule, spread=6.0, **sections):
    values = {
        "data": {"devices": DEVICES},
        "model": {"name": "softmax"},
        "training": {"rounds": SLOTS, "batch_size": BATCH, "local_steps": 3, "local_rate": RATE, "rate": RATE},
        "channel": {"median_snr_db": 20.0, "tau_s": 0.02},
        "device": {"cycles_per_sample": 1e6, "cpu_spread": spread},
        "scheme": {"name": "error_free"},
        "asynchronous": rule,
        "workers": 1,
    }
    for name, keys in sections.items():
        values[name] = values.get(name, {}) | keys
    return World.build(build_config(values), digits, Custom(partition=equal_parts))


class Local:
    """Three steps of SGD of a device, by autograd, on minibatches drawn by the documented rule."""

    def __init__(self, world, digits):
        images = digits.train_inputs.float()
        self.world, self.x, self.y = world, (images - images.mean()) / images.std(correction=0), digits.train_labels
        self.module = world.model().module

    def __call__(self, model, device, slot):
        rng = stream(self.world.config.seed, slot, device, Purpose.BATCH)
        w = torch.tensor(model, dtype=torch.float32)
        for _ in range(self.world.config.training.local_steps):
            batch = torch.from_numpy(rng.choice(self.world.parts[device], BATCH, replace=False, shuffle=False))
            w.requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(w, batch), w)
            w = (w - RATE * gradient).detach()
        return w.numpy().astype(np.float64)

    def loss(self, flat, batch):
        return loss_at(self.module, flat, self.x[batch], self.y[batch])


AGES = {
    "constant": ({"staleness": "constant"}, lambda age: 1.0),
    "polynomial": ({"exponent": 0.7}, lambda age: (age + 1) ** -0.7),
    "hinge": ({"staleness": "hinge", "slope": 2.0, "slack": 1}, lambda age: 1 / (2 * (age - 1) + 1) if age > 1 else 1),
}
RULES = {
    "fedasync": ({"rule": "fedasync"}, 0.6 * RATE, {"mixing": 0.6}),
    "fedbuff": ({"rule": "fedbuff", "buffer": 3}, 2 * RATE, {"buffer": (3, 2.0)}),
}


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("name", RULES)
def test_models_and_times_are_those_of_the_paper(name, age, digits):
    rule, rate, twin = RULES[name]
    keys, weight = AGES[age]
    world = world_of(digits, rule | keys, training={"rate": rate})
    seconds = 1e6 * 3 * BATCH / world.clocks_hz
    expected = asynchronous_models(
        world.start().weights,
        lambda k, _: seconds[k],
        0.02,
        Local(world, digits),
        count=DEVICES,
        slots=SLOTS,
        weight=weight,
        **twin,
    )
    clock, oldest = 0.0, 0
    for record, (end_s, model) in zip(train(world), expected, strict=True):
        clock, oldest = clock + record.spent.round_s, max(oldest, record.asynchrony.staleness.max())
        assert clock == pytest.approx(end_s)
        np.testing.assert_allclose(record.server.weights, model, rtol=5e-4, atol=5e-5)
    assert oldest >= 2  # else the weights of old updates were never tried


@pytest.mark.parametrize("name", RULES)
def test_jitter_and_availability_are_those_of_the_twin(name, digits):
    rule, rate, twin = RULES[name]
    clients = {"availability": 0.6}
    world = world_of(digits, rule, training={"rate": rate}, device={"cpu_jitter": 0.8}, clients=clients)

    def compute_s(device, slot):
        normal = stream(world.config.seed, slot, device, Purpose.JITTER).standard_normal()
        return 1e6 * 3 * BATCH / world.clocks_hz[device] * np.exp(0.8 * normal)

    def reached(device, slot):
        return stream(world.config.seed, slot, SERVER, Purpose.AVAILABILITY).random(DEVICES)[device] < 0.6

    expected = asynchronous_models(
        world.start().weights,
        compute_s,
        0.02,
        Local(world, digits),
        count=DEVICES,
        slots=SLOTS,
        weight=lambda age: (age + 1) ** -0.5,
        reached=reached,
        **twin,
    )
    clock, waited = 0.0, 0
    for record, (end_s, model) in zip(train(world), expected, strict=True):
        clock = clock + record.spent.round_s
        waited += int(not all(reached(k, record.round_ + 1) for k in record.cohort))
        assert clock == pytest.approx(end_s)
        np.testing.assert_allclose(record.server.weights, model, rtol=5e-4, atol=5e-5)
    assert waited > 3


def test_jitter_slows_devices_down_in_synchronous_rounds_as_well(digits):
    """Median as before; a deadline then loses a device in some rounds and not in others."""
    still, shaken = (world_of(digits, {}, 1.0, device={"cpu_jitter": j}) for j in (0.0, 0.5))
    plain_s = next(iter(train(still))).spent.compute_s
    drawn = np.array([record.spent.compute_s for record in train(shaken)]) / plain_s
    assert np.log(drawn).std() == pytest.approx(0.5, abs=0.1)
    assert abs(np.median(np.log(drawn))) < 0.15
    late = world_of(digits, {}, 1.0, device={"cpu_jitter": 0.5}, clients={"deadline_s": 1.2 * float(plain_s[0])})
    came = np.array([record.devices.weight > 0 for record in train(late)])
    assert came.sum(0).min() > 0
    assert came.sum(0).max() < SLOTS
    joules = [record.spent.joules for record in train(still)]
    assert all((j > 0).all() for j in joules)


def test_old_updates_lead_elsewhere_than_with_constant_weights(digits):
    """A twin that could not fail would be one for which age does not matter."""
    ends = [list(train(world_of(digits, {"rule": "fedasync"} | AGES[age][0])))[-1].server.weights for age in AGES]
    assert min(np.abs(ends[0] - end).max() for end in ends[1:]) > 1e-2


@pytest.mark.parametrize("scheme", ["sp_fl_uniform", "sp_fl", "majority_vote", "sp_fl_plus", "sp_fl_plus_1"])
def test_equal_devices_make_the_rounds_of_a_synchronous_run(scheme, digits):
    """All have computed at the same time, so all send in each slot, over the same fades, and nothing is old."""
    chosen = {"scheme": {"name": scheme}, "training": {"rounds": 6}, "channel": {"median_snr_db": 0.0}}
    rule = {"rule": "fedbuff", "buffer": 1, "staleness": "constant"}
    pair = zip(train(world_of(digits, rule, 1.0, **chosen)), train(world_of(digits, {}, 1.0, **chosen)), strict=True)
    lost = 0
    for ours, theirs in pair:
        assert ours.cohort == theirs.cohort
        np.testing.assert_array_equal(ours.outcome.sign, theirs.outcome.sign)
        np.testing.assert_allclose(ours.server.weights, theirs.server.weights, rtol=1e-3, atol=2e-3)
        assert ours.spent.round_s == pytest.approx(theirs.spent.round_s)
        lost += int((~ours.outcome.sign).sum())
    assert lost > 0


def test_who_is_faster_sends_more_often_and_energy_counts_each_time(digits):
    world = world_of(digits, {"rule": "fedbuff", "buffer": 2}, 10.0, training={"rounds": 60})
    records = list(train(world))
    turns = np.bincount(np.concatenate([record.cohort for record in records]), minlength=DEVICES)
    assert list(np.argsort(turns, kind="stable")[[0, -1]]) == list(np.argsort(world.clocks_hz)[[0, -1]])
    assert all(record.spent.joules.size == len(record.cohort) for record in records)
    assert sum(record.asynchrony.stepped for record in records) < len(records)


def test_who_cannot_be_reached_gets_no_model_until_he_can_be():
    line, _ = timeline(online=[[k, 1, 10] for k in range(6)] + [[k, 30, 400] for k in range(6, 12)])
    slots = {t: line.slot(t) for t in range(1, 120)}
    began = {(k, b) for slot in slots.values() for k, b in zip(slot.senders, slot.began.tolist(), strict=True)}
    assert all(k < 6 for k, b in began if b <= 10)
    assert all(k >= 6 for k, b in began if b >= 30)
    alone = [slot for t, slot in slots.items() if 17 < t < 30]
    assert all(len(slot.senders) == 1 for slot in alone)  # nobody can be reached: one is called all the same
    assert max(len(slot.senders) for t, slot in slots.items() if t > 40) <= 5


# --- the timeline ------------------------------------------------------------------------------------------------


def timeline(devices=12, at_work=5, seed=3, airtime_s=0.5, **clients):
    seconds = np.random.default_rng(seed).uniform(0.1, 3.0, devices)
    chosen = Selection(ClientsConfig(**clients), devices, at_work, seed)
    return Timeline(chosen, airtime_s, lambda k, _: float(seconds[k])), seconds


def test_slots_follow_each_other_and_all_who_are_ready_send():
    line, seconds = timeline()
    slots = {t: line.slot(t) for t in range(1, 200)}
    ends = {0: 0.0} | {t: slot.end_s for t, slot in slots.items()}
    for t, slot in slots.items():
        assert slot.end_s == slot.start_s + 0.5
        ready = [ends[began - 1] + seconds[k] for k, began in zip(slot.senders, slot.began.tolist(), strict=True)]
        assert slot.start_s == max(ends[t - 1], min(ready))
        assert max(ready) <= slot.start_s
        for k, began, when in zip(slot.senders, slot.began.tolist(), ready, strict=True):
            between = range(began, t)
            assert all(slots[u].start_s < when for u in between)  # else it would have sent before
            assert not any(k in slots[u].senders for u in between)  # nobody is at work twice
    assert {k for slot in slots.values() for k in slot.senders} == set(range(12))


def test_a_timeline_is_the_same_whatever_is_asked_first():
    forth, back, other = timeline()[0], timeline()[0], timeline(seed=4)[0]
    back.slot(50)
    told = [[(s.start_s, s.senders, s.began.tolist()) for s in map(line.slot, range(1, 51))] for line in (forth, back)]
    assert told[0] == told[1]
    assert sum(other.slot(t).senders != forth.slot(t).senders for t in range(1, 51)) > 10


def test_the_elapsed_seconds_add_up_to_the_clock():
    line, _ = timeline()
    assert sum(line.elapsed_s(t) for t in range(1, 40)) == pytest.approx(line.slot(39).end_s)


@pytest.mark.parametrize("age", AGES)
def test_weights_of_age(age):
    keys, weight = AGES[age]
    config = AsynchronousConfig(rule="fedasync", **keys)
    np.testing.assert_allclose(staleness_weight(config, np.arange(6)), [weight(t) for t in range(6)])


def test_a_buffer_waits_for_its_number_of_updates():
    config, one = AsynchronousConfig(rule="fedbuff", buffer=3), np.ones(2, np.float32)
    state, step = gather(config, {}, Gathered(2 * one, 4.0, 1))
    assert step is None
    state, step = gather(config, state, Gathered(0 * one, 2.0, 0))  # a slot of which nothing arrived
    assert step is None
    state, step = gather(config, state, Gathered(10 * one, 6.0, 2))
    np.testing.assert_allclose(step, 12 / 12 * one)
    assert gather(config, state, Gathered(one, 1.0, 2))[1] is None  # it began anew


# --- as a run ------------------------------------------------------------------------------------------------------

ASYNCHRONOUS = {
    "asynchronous": {"rule": "fedbuff", "buffer": 3},
    "device__cycles_per_sample": 1e6,
    "device__cpu_spread": 5.0,
    "data__cohort_size": 4,
}


def config_of(**changes):
    return make_config(**(ASYNCHRONOUS | changes))


def test_a_stopped_run_resumes_and_verifies_to_the_same_bits(digits, tmp_path):
    def stop(values):
        if values["round"] == 7:
            raise KeyboardInterrupt

    run_experiment(config_of(), digits, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config_of(), digits, tmp_path / "run", progress=stop, checkpoint_every=3)
    summary = run_experiment(config_of(), digits, tmp_path / "run", existing="resume")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    verdict = verify(tmp_path / "run", digits)
    assert (verdict.rounds, verdict.difference) == (12, None)
    rounds = list(read_metrics(tmp_path / "run"))
    assert summary["server_steps"] == sum(values["stepped"] for values in rounds) < 12
    assert summary["round_s"] == pytest.approx(sum(values["round_s"] for values in rounds))
    assert summary["mean_staleness"] == pytest.approx(np.mean([values["staleness"] for values in rounds]))


def test_processes_and_threads_give_the_same_bits(digits, tmp_path):
    run_experiment(config_of(workers=1), digits, tmp_path / "a")
    run_experiment(config_of(workers=4, processes=2), digits, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_runs_or_is_refused_in_one_line(scheme, digits):
    config = config_of(scheme={"name": scheme}, channel__median_snr_db=15.0)
    rule, uplink = SCHEMES[scheme].rule, SCHEMES[scheme].uplink
    if uplink == "analog" or rule in ("reuse", "memory"):
        with pytest.raises(ConfigError, match=f"asynchronous.rule must be none with {scheme}, "):
            World.build(config, digits)
        return
    world = World.build(config, digits)
    start = world.start().weights
    weights = [record.server.weights for record in train(world)]
    assert all(np.isfinite(w).all() for w in weights)
    assert any(np.abs(a - b).max() > 0 for a, b in pairwise([start, *weights]))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"device__cycles_per_sample": 0.0, "device__cpu_spread": 1.0}, "needs device.cycles_per_sample > 0"),
        ({"asynchronous": {"rule": "fedasync"}}, "mixes models, so it needs training.local_steps > 1"),
        ({"asynchronous": {"rule": "fedasync", "buffer": 2}}, "buffer has an effect with rule = fedbuff only, got 2"),
        ({"asynchronous": {"buffer": 2}}, "buffer has an effect with rule = fedasync or fedbuff only, got 2"),
        ({"asynchronous": {"rule": "fedbuff", "slope": 2.0}}, "slope has an effect with staleness = hinge only"),
        (
            {"clients__selection": "power_of_choice"},
            "clients.selection must be random with asynchronous.rule = fedbuff",
        ),
        ({"clients__deadline_s": 0.5}, "clients.deadline_s must be absent with asynchronous.rule = fedbuff"),
        ({"channel__downlink": "stale"}, "channel.downlink must be perfect with asynchronous.rule = fedbuff"),
        ({"channel__doppler_hz": 5.0}, "channel.doppler_hz must be absent with asynchronous.rule = fedbuff, got 5.0"),
        ({"channel__movement": "waypoint", "channel__median_snr_db": None}, "channel.movement must be none"),
        ({"scheme": {"name": "sp_fl", "aggregation": "median"}}, "scheme.aggregation must be mean with asynchronous"),
        ({"training__local_steps": 2, "training__correction": "scaffold"}, "training.correction must be none"),
        ({"torch_device": "cpu"}, "torch_device must be absent with asynchronous.rule = fedbuff, got cpu"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes, line):
    with pytest.raises(ConfigError) as refused:
        config_of(**changes)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_device_that_drops_out_has_computed_in_vain_and_begins_anew(digits):
    world = World.build(config_of(clients={"dropout": 0.5}, training__rounds=30), digits)
    silent = [k for record in train(world) for k, v2 in zip(record.cohort, record.devices.v2, strict=True) if v2 == 0]
    assert silent
    again = [record.cohort for record in train(replace(world))]
    assert set(silent) <= {k for cohort in again for k in cohort}
