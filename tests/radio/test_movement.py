"""Devices that walk, and transmitters of other cells."""

from __future__ import annotations

import numpy as np
import pytest

from spfl.config.schema import build_config
from spfl.errors import ConfigError
from spfl.radio.movement import Recorded, Waypoints
from spfl.training import train
from spfl.world.world import World
from stats import assert_mean


def walkers(devices=200, speed=1.5, seed=0):
    start = 500.0 * np.sqrt(np.random.default_rng(1).random(devices))
    return Waypoints(seed, start, 500.0, speed)


def test_where_devices_are_is_a_function_of_the_time_alone():
    walked, asked = walkers(), walkers()
    times = [0.0, 10.0, 1000.0, 5000.0]
    forwards = [walked.distance_m(time) for time in times]
    backwards = [asked.distance_m(time) for time in reversed(times)]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(forwards[0], walked.start_m)
    assert not np.array_equal(forwards[1], walkers(seed=1).distance_m(10.0))


def test_nobody_is_faster_than_his_speed_or_leaves_the_disc():
    walked, step_s = walkers(), 3.0
    along = np.array([walked.distance_m(step_s * k) for k in range(800)])
    assert np.abs(np.diff(along, axis=0)).max() <= 1.5 * step_s + 1e-9
    assert along.max() <= 500.0 + 1e-9


def test_walkers_gather_in_the_middle_as_the_stationary_law_says():
    """Random waypoint in a disc: E[r^2] of the mix over time is below R^2 / 2 of uniform points (Bettstetter 2003).

    A point of a leg, weighted by its length: by Monte Carlo over pairs of uniform points, an independent way.
    """
    rng = np.random.default_rng(0)
    radius, angle = np.sqrt(rng.random((2, 400_000))), 2 * np.pi * rng.random((2, 400_000))
    ends = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    part = rng.random(400_000)[:, None]
    inner, length = (1 - part) * ends[0] + part * ends[1], np.linalg.norm(ends[0] - ends[1], axis=1)
    expected = np.average((inner**2).sum(1), weights=length)
    walked = walkers(devices=4000, speed=50.0)
    found = np.concatenate([(walked.distance_m(time) / 500.0) ** 2 for time in (400.0, 800.0)])
    assert expected < 0.45
    assert_mean(found, expected)


def test_recorded_devices_go_straight_on_from_row_to_row():
    rows = [(1, 10.0, 30.0, 40.0), (1, 0.0, 0.0, 100.0), (0, 5.0, 60.0, 80.0)]
    path = Recorded(np.array([200.0, 300.0, 400.0]), rows)
    for time_s, expected in ((0.0, 100.0), (5.0, np.hypot(15.0, 70.0)), (10.0, 50.0), (99.0, 50.0)):
        np.testing.assert_allclose(path.distance_m(time_s), [100.0, expected, 400.0])


# --- in a cell -------------------------------------------------------------------------------------------------------


def world(digits, **channel):
    values = {"data": {"devices": 6}, "model": {"name": "softmax"}, "training": {"rounds": 3}, "workers": 1}
    return World.build(build_config(values | {"channel": channel}), digits)


def test_gains_follow_the_path_loss_of_the_way_walked(digits):
    still = world(digits, median_snr_db=3.0)
    moving = world(digits, median_snr_db=3.0, movement="waypoint", speed_m_per_s=20.0, round_s=5.0)
    start, later = moving.radio.cell(0), moving.radio.cell(40)
    np.testing.assert_allclose(start.gain, still.radio.cell(0).gain)
    np.testing.assert_allclose(later.gain / start.gain, (start.distance_m / later.distance_m) ** 3.76, rtol=1e-6)
    assert later.distance_m.min() >= 35.0
    assert not np.allclose(later.distance_m, start.distance_m)


def test_walking_is_the_same_after_a_stop_and_changes_what_is_received(digits):
    def last(world, start=None):
        *_, record = train(world, start)
        return record

    keys = {"median_snr_db": 0.0, "movement": "waypoint", "speed_m_per_s": 100.0, "round_s": 10.0}
    whole, first = last(world(digits, **keys)), next(train(world(digits, **keys)))
    np.testing.assert_array_equal(last(world(digits, **keys), first.server).server.weights, whole.server.weights)
    assert not np.array_equal(whole.allocation.q_s, last(world(digits, median_snr_db=0.0)).allocation.q_s)


def test_interferers_add_their_received_power_to_the_noise(digits):
    """A transmitter of 23 dBm at 1 km: 128.1 dB of path loss, so -105.1 dBm over 10 MHz."""
    quiet = world(digits).radio.link(range(6), 1)
    loud = world(digits, interferers=[[600.0, 800.0, 23.0], [-800.0, 600.0, 23.0]]).radio.link(range(6), 1)
    added = loud.noise_w_per_hz - quiet.noise_w_per_hz
    assert added == pytest.approx(2 * 10 ** ((23 - 128.1 - 30) / 10) / 10e6, rel=1e-9)
    np.testing.assert_array_equal(quiet.gain, loud.gain)


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ({"movement": "waypoint", "drop": "per_round"}, "movement = waypoint needs drop = fixed, model = macro"),
        ({"movement": "waypoint", "gains_db": [0.0] * 6}, "movement = waypoint needs drop = fixed, model = macro"),
        ({"speed_m_per_s": 3.0}, "speed_m_per_s has an effect with movement = waypoint only"),
        ({"interferers": [[0.0, 0.5, 23.0]]}, r"interferers must be \[x_m, y_m, power_dbm\], 1 m away or more"),
        ({"interferers": [[500.0, 0.0, 23.0]], "median_snr_db": 0.0}, "interferers needs median_snr_db to be absent"),
    ],
)
def test_what_does_not_go_together_is_one_line(digits, channel, message):
    with pytest.raises(ConfigError, match=message):
        world(digits, **channel)


def test_a_recorded_walk_sets_the_gains_by_the_path_loss(digits):
    """Ten times as far after three rounds: 37.6 dB less, and the others as before."""
    rows = [[2, 0.0, 40.0, 0.0], [2, 3.0, 400.0, 0.0]]
    moved = world(digits, movement="recorded", positions=rows, round_s=1.0)
    near, far, later = (moved.radio.cell(t).gain for t in (0, 3, 5))
    assert 10 * np.log10(near[2] / far[2]) == pytest.approx(37.6)
    np.testing.assert_array_equal(far, later)
    np.testing.assert_array_equal(np.delete(near, 2), np.delete(far, 2))
    assert len(list(train(moved))) == 3


@pytest.mark.parametrize(
    ("channel", "line"),
    [
        ({"movement": "recorded"}, "movement = recorded and positions go together, got recorded and 0 positions"),
        ({"positions": [[0, 0.0, 1.0, 1.0]]}, "movement = recorded and positions go together, got none and 1"),
        ({"movement": "recorded", "positions": [[9, 0.0, 1.0, 1.0]]}, r"channel.positions must name devices 0..5"),
        ({"movement": "recorded", "positions": [[0, -1.0, 1.0, 1.0]]}, "device and time from 0, got"),
        ({"movement": "recorded", "positions": [[0, 1.0, 1.0, 1.0]] * 2}, "must name a device once at a time"),
    ],
)
def test_positions_that_make_no_sense_are_one_line(channel, line):
    with pytest.raises(ConfigError, match=line):
        build_config({"data": {"devices": 6}, "channel": channel})
