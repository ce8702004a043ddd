"""Who takes part: draws with the chances that were asked for, and devices that are lost before they send."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import spfl
from spfl.config.schema import build_config
from spfl.config.training import ClientsConfig
from spfl.errors import ConfigError
from spfl.learning.selection import Selection, remember_losses
from spfl.training import train
from spfl.world.world import World

ROUNDS = 4000


def rate_within(found, chance, n, sigmas=5):
    return np.abs(found - chance) <= sigmas * np.sqrt(np.maximum(chance * (1 - chance), 1e-12) / n)


def test_devices_can_be_reached_as_often_as_asked_for():
    chances = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    selection = Selection(ClientsConfig(availability=tuple(chances)), 5, 5, 0)
    seen = np.mean([selection.reached(t) for t in range(1, ROUNDS + 1)], axis=0)
    assert rate_within(seen, chances, ROUNDS).all()
    assert not rate_within(seen[::-1], chances, ROUNDS).all()


def test_only_devices_that_can_be_reached_are_chosen_while_there_are_enough():
    selection = Selection(ClientsConfig(availability=0.5), 20, 4, 1)
    short = 0
    for t in range(1, 500):
        reached, cohort = selection.reached(t), selection.cohort(t)
        assert len(set(cohort)) == 4
        assert sum(reached[list(cohort)]) == min(4, reached.sum())
        short += reached.sum() < 4
    assert short > 0


def test_recorded_availability_is_kept():
    rows = ((0, 1, 2), (0, 5, 5), (1, 2, 9))
    selection = Selection(ClientsConfig(online=rows), 3, 3, 0)
    assert [selection.reached(t).tolist() for t in (1, 2, 3, 5)] == [
        [True, False, False], [True, True, False], [False, True, False], [True, True, False],
    ]  # fmt: skip


def power_of_choice_by_hand(losses, found, size):
    return sorted(sorted(found, key=lambda k: -losses[k])[:size])


def test_power_of_choice_takes_the_largest_losses_among_candidates():
    losses = np.random.default_rng(0).permutation(30).astype(np.float32)
    selection = Selection(ClientsConfig(selection="power_of_choice", candidates=30), 30, 5, 0)
    chosen = selection.cohort(3, np.ones(30), losses)
    assert list(chosen) == power_of_choice_by_hand(losses, range(30), 5)
    few = Selection(ClientsConfig(selection="power_of_choice", candidates=6), 30, 5, 0)
    cohorts = [few.cohort(t, np.ones(30), losses) for t in range(1, 300)]
    assert {k for cohort in cohorts for k in cohort} == set(range(30)) - {int(losses.argmin())}
    mean = np.mean([losses[list(cohort)].mean() for cohort in cohorts])
    assert losses.mean() < mean < losses[list(chosen)].mean()


def test_candidates_are_drawn_by_their_number_of_samples():
    weights = np.array([1.0, 1.0, 1.0, 7.0])
    selection = Selection(ClientsConfig(selection="power_of_choice", candidates=1), 4, 1, 0)
    counts = np.bincount([selection.cohort(t, weights)[0] for t in range(1, ROUNDS + 1)], minlength=4) / ROUNDS
    assert rate_within(counts, weights / 10, ROUNDS).all()


def test_losses_are_those_that_devices_told_last():
    known = remember_losses(None, 4, [1, 3], [0.5, float("nan")])
    assert known.tolist() == [np.inf, 0.5, np.inf, np.inf]
    assert remember_losses(known, 4, [0, 1], [2.0, 0.25]).tolist() == [2.0, 0.25, np.inf, np.inf]


def test_power_of_choice_prefers_devices_that_lag(digits, small_config):
    config = small_config(data={"devices": 10, "cohort_size": 3}, clients={"selection": "power_of_choice"},
                          training={"rounds": 12})  # fmt: skip
    world = World.build(config, digits)
    records = list(train(world))
    for before, after in pairwise(records):
        assert world.cohort(after.round_, before.server.memory) == after.cohort
    assert spfl.run(config).summary["digest"] == spfl.run(config, overrides={"processes": 2}).summary["digest"]
    rest = list(train(world, records[5].server))
    np.testing.assert_array_equal(rest[-1].server.weights, records[-1].server.weights)


def test_who_drops_out_sends_nothing_and_gets_no_band(digits, small_config):
    config = small_config(
        clients={"dropout": (0.0, 0.0, 0.5, 0.5, 1.0, 0.0)},
        training={"rounds": 40, "eval_every": 40},
        scheme={"name": "sp_fl_uniform"},  # whose allocation drops nobody
    )
    world = World.build(config, digits)
    shares = np.array([record.allocation.beta > 0 for record in train(world)])
    assert shares[:, [0, 1, 5]].all()
    assert not shares[:, 4].any()
    assert 0.2 < shares[:, [2, 3]].mean() < 0.8


def test_who_is_late_is_lost_and_computed_until_the_deadline(digits, small_config):
    device = {"cycles_per_sample": 1e6, "cpu_spread": 8.0}
    config = small_config(device=device, clients={"deadline_s": 0.05}, training={"rounds": 1, "local_epochs": 1})
    world = World.build(config, digits)
    seconds = 1e6 * np.array([len(part) for part in world.parts]) / world.clocks_hz
    late = seconds > 0.05
    assert late.any()
    (record,) = train(world)
    assert ((record.allocation.beta > 0) == ~late).all()
    np.testing.assert_allclose(record.spent.compute_s, np.minimum(seconds, 0.05))


def test_a_round_that_nobody_can_join_changes_nothing(digits, small_config):
    world = World.build(small_config(clients={"availability": 0.0}), digits)
    for record in train(world):
        np.testing.assert_array_equal(record.server.weights, world.start().weights)
        assert record.payload_bits == 0
        assert record.spent.joules.sum() == 0.0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"clients": {"availability": 1.5}}, "availability must lie in"),
        ({"clients": {"dropout": [0.1, 0.2]}}, r"dropout needs one value, or one a device \(20\), got 2"),
        ({"clients": {"candidates": 5}}, "candidates has an effect with selection = power_of_choice only"),
        ({"clients": {"selection": "power_of_choice"}}, "needs data.cohort_size < data.devices"),
        (
            {"clients": {"selection": "power_of_choice", "candidates": 3}, "data": {"cohort_size": 5}},
            "must lie in 5..20",
        ),
        ({"clients": {"deadline_s": 1.0}}, "deadline_s needs device.cycles_per_sample > 0"),
        ({"clients": {"online": [[20, 1, 2]]}}, "must name devices 0..19"),
        ({"clients": {"online": [[2, 0, 2]]}}, "rounds from 1"),
    ],
)
def test_settings_without_sense_are_refused_in_one_line(sections, message):
    with pytest.raises(ConfigError, match=message):
        build_config(sections)
