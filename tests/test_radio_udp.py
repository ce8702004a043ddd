"""Datagrams: the format, parity, and real sockets on loopback against the emulated channel."""

from __future__ import annotations

import numpy as np
import pytest

from spfl.errors import ConfigError, PacketError
from spfl.fleet import Fleet
from spfl.radio.datagrams import DSCP, MODULUS, SIGN, cut, interleave, join, open_datagram
from spfl.radio.udp import Wire, check, exchange, run_over_udp
from spfl.training import Stopwatch, prepare, run
from spfl.world import World
from stats import assert_proportion

CHANNEL = {"fading": "independent", "recovery": "segment", "segment_bits": 512, "median_snr_db": 6.0}


@pytest.mark.parametrize("length", [1, 99, 100, 101])
def test_any_sufficient_datagrams_tell_the_packet(length):
    packet = np.random.default_rng(length).bytes(length)
    parts = [open_datagram(raw) for raw in cut(packet, 4, 2, SIGN, 7, 9)]
    assert {(d.device, d.round_, d.data, d.all_) for d in parts} == {(7, 9, 4, 6)}
    for lost in ([], [0, 3], [4, 5], [1, 4], [2]):
        assert join([d for d in parts if d.number not in lost], length) == packet
    assert join(parts[:3], length) is None
    assert join([], length) is None


def test_damage_is_found():
    (raw,) = cut(b"hello", 1, 0, MODULUS, 1, 2)
    for i in range(len(raw)):
        with pytest.raises(PacketError):
            open_datagram(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
    with pytest.raises(PacketError, match="length"):
        open_datagram(raw[:5])
    with pytest.raises(ConfigError, match="at most 255"):
        cut(b"x" * 300, 255, 1, SIGN, 0, 0)


def test_interleaving_goes_round_the_packets():
    assert interleave([[b"a0", b"a1", b"a2"], [b"b0"]]) == [b"a0", b"b0", b"a1", b"a2"]
    assert interleave([]) == []


@pytest.fixture(scope="module")
def wire():
    with Wire() as found:
        yield found


def test_the_shim_erases_with_the_probabilities_given(wire):
    loss, count = {(0, SIGN): 0.1, (1, MODULUS): 0.6}, 1500
    raws = [raw for d, kind in loss for i in range(count) for raw in cut(b"abc", 1, 0, kind, d, i)]
    found = [open_datagram(raw) for raw in wire.send(raws, loss, (1, 2))]
    for (device, _), chance in loss.items():
        rounds = {d.round_ for d in found if d.device == device}
        hits = np.array([i in rounds for i in range(count)])
        assert_proportion(hits, 1 - chance)
        with pytest.raises(AssertionError):
            assert_proportion(hits, 1 - chance - 0.1)


def test_without_loss_everything_arrives_in_order_and_marked(wire):
    raws = [raw for i in range(150) for raw in cut(bytes([i]) * 500, 2, 0, i % 2, i, 1)]
    assert wire.send(raws, {(i, i % 2): 0.0 for i in range(150)}, (0,)) == raws
    assert {kind: s.getsockopt(0, 1) >> 2 for kind, s in wire._sockets.items()} == DSCP


def test_segments_over_sockets_have_the_emulated_probabilities(wire, small_config, digits):
    """Many transmissions of one round: each segment arrives as often as the model's law says."""
    config = small_config(channel=CHANNEL, scheme={"name": "sp_fl_uniform"})
    world = World.build(config, digits)
    with Fleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    plan = prepare(world, world.start(), uploads, 1, Stopwatch())
    signs, moduli = [], []
    for repeat in range(60):
        from dataclasses import replace

        received, counts = exchange(wire, world, uploads, replace(plan, round_=repeat + 1), 0)
        assert counts["damaged"] == 0
        signs.append(received.sign_segments)
        moduli.append(received.modulus_segments)
    for found, chance in ((signs, plan.allocation.q_s), (moduli, plan.allocation.r_m)):
        flat = np.array(found).transpose(0, 2, 1).reshape(-1, len(uploads))
        assert_proportion(flat, chance)


def test_parity_recovers_sign_packets(wire, small_config, digits):
    config = small_config(channel=CHANNEL | {"median_snr_db": 15.0}, scheme={"name": "sp_fl_uniform"})
    world = World.build(config, digits)
    with Fleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    plan = prepare(world, world.start(), uploads, 1, Stopwatch())
    whole = [
        sum(exchange(wire, world, uploads, plan, parity)[0].sign_segments.all(1).sum() for _ in range(3))
        for parity in (0, 3)
    ]
    assert whole[1] > whole[0]


def test_a_run_over_sockets_learns_as_the_emulated_one(small_config, digits):
    """Same configuration, other fades: accuracies within the spread that the fades make."""
    training = {"rounds": 12, "eval_every": 12, "rate": 0.05}
    config = small_config(channel=CHANNEL, scheme={"name": "sp_fl_normalized"}, training=training)
    emulated = [
        list(run(small_config(seed=s, channel=CHANNEL, scheme={"name": "sp_fl_normalized"}, training=training), digits))
        for s in range(4)
    ]
    accuracy = np.array([records[-1].test_accuracy for records in emulated])
    *_, (record, counts) = run_over_udp(config, digits)
    assert counts["received"] <= counts["sent"]
    assert abs(record.test_accuracy - accuracy.mean()) < 5 * max(accuracy.std(ddof=1), 0.02)


@pytest.mark.parametrize(
    ("channel", "scheme", "message"),
    [
        ({"fading": "block"}, "sp_fl", "fading must be 'independent'"),
        ({"recovery": "all"}, "sp_fl", "recovery must be 'segment'"),
        ({}, "single_packet", "sends no datagrams"),
    ],
)
def test_what_udp_cannot_carry_is_refused(channel, scheme, message, small_config, digits):
    with pytest.raises(ConfigError, match=message):
        check(World.build(small_config(channel=CHANNEL | channel, scheme={"name": scheme}), digits))
