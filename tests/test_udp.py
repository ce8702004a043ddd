"""Datagrams: the format, parity, and real sockets on loopback against the emulated channel."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest

from spfl.errors import ConfigError, PacketError, WorkerError
from spfl.fleet.threads import ThreadFleet
from spfl.packets.datagrams import DSCP, MODULUS, SIGN, Datagram, _seal, cut, interleave, join, open_datagram
from spfl.packets.sockets import mark
from spfl.training import Stopwatch, prepare, run
from spfl.udp import Wire, check, exchange, rounds_over, run_over_udp
from spfl.world.world import World
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


def test_without_loss_everything_arrives_in_order_and_marked(wire, monkeypatch):
    marked = []
    monkeypatch.setattr("spfl.udp.mark", lambda sender, kind: (mark(sender, kind), marked.append(tos(sender))))
    raws = [raw for i in range(150) for raw in cut(bytes([i]) * 500, 2, 0, i % 2, i, 1)]
    assert wire.send(raws, {(i, i % 2): 0.0 for i in range(150)}, (0,)) == raws
    assert marked == [DSCP[raw[0]] for raw in raws]


def tos(sender):
    return sender.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> 2


# --- what others send ---------------------------------------------------------------------------------------


def forged(**changes):
    """A datagram with a CRC that fits, whatever its numbers say."""
    values = {"kind": 0, "number": 0, "data": 1, "all_": 1, "device": 0, "round_": 1, "payload": b"forged"}
    return _seal(Datagram(**(values | changes)))


STRANGERS = {
    "garbage": b"\xff" * 40,
    "empty": b"",
    "zero blocks": forged(data=0, all_=0),
    "unknown device": forged(device=2**32 - 1),
    "other content": forged(),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_a_stranger_sends_to_the_ports_is_not_heard(wire, name):
    raws = [raw for i in range(20) for raw in cut(bytes([i]) * 500, 2, 0, i % 2, i, 1)]
    loss = {(i, i % 2): 0.0 for i in range(20)}
    _, shim = wire._sender.getsockname(), wire._sender.getpeername()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for port in range(shim[1] - 3, shim[1] + 4):
            for _ in range(200):  # a flood
                stranger.sendto(STRANGERS[name], ("127.0.0.1", port))
        assert wire.send(raws, loss, (0,)) == raws


@pytest.mark.parametrize("name", [name for name in STRANGERS if name != "empty"])
def test_a_device_that_sends_what_is_none_of_its_datagrams_is_counted(small_config, digits, name, monkeypatch):
    config = small_config(channel=CHANNEL, scheme={"name": "sp_fl_uniform"}, training={"rounds": 2})
    with Wire() as wire:
        send = wire.send
        monkeypatch.setattr(
            wire, "send", lambda raws, loss, seed: [*send(raws, loss, seed), STRANGERS[name], STRANGERS[name]]
        )
        counts = [counts for _, counts in rounds_over(wire, World.build(config, digits))]
        assert [one["damaged"] for one in counts] == [2, 2]
        # and on the way through the shim: it forwards what it is sent, and outlives what it cannot read
        assert send([STRANGERS[name]], {}, (0,)) == []
        assert send([forged(device=3)], {(3, 0): 0.0}, (0,)) == [forged(device=3)]


@pytest.mark.parametrize("name", ["server", "shim"])
def test_the_end_that_is_killed_is_named_in_one_line(name):
    raws = cut(b"abc", 1, 0, SIGN, 0, 1) * 3
    with Wire() as wire:
        process = {"server": wire._server, "shim": wire._shim}[name].process
        process.kill()
        process.join()
        with pytest.raises(WorkerError, match=f"^the {name} ended with exit code -9$"):
            wire.send(raws, {(0, SIGN): 0.0}, (0,))


@pytest.mark.parametrize(
    "parts",
    [
        [Datagram(0, 7, 2, 2, 0, 1, b"ab"), Datagram(0, 0, 2, 2, 0, 1, b"ab")],
        [Datagram(0, 0, 0, 0, 0, 1, b"")],
        [Datagram(0, 0, 2, 3, 0, 1, b"ab"), Datagram(0, 2, 2, 3, 0, 1, b"abc")],
        [Datagram(0, 0, 2, 2, 0, 1, b"ab"), Datagram(0, 1, 3, 3, 0, 1, b"ab")],
        [Datagram(0, 0, 2, 300, 0, 1, b"ab"), Datagram(0, 299, 2, 300, 0, 1, b"ab")],
    ],
)
def test_joining_what_is_not_of_one_packet_is_a_packet_error(parts):
    with pytest.raises(PacketError):
        join(parts, 4)


@pytest.mark.parametrize(("parity", "segment_bits"), [(0, 512), (2, 512), (0, 65536)])
def test_segments_over_sockets_have_the_emulated_probabilities(parity, segment_bits, wire, small_config, digits):
    """Many transmissions of one round: each segment is had as often as the model's law says, with parity as well.

    65536 bits hold a packet, so that each is one datagram.
    """
    channel = CHANNEL | {"sign_parity": parity, "segment_bits": segment_bits}
    world = World.build(small_config(channel=channel, scheme={"name": "sp_fl_uniform"}), digits)
    assert (world.format.segments == (1, 1)) == (segment_bits == 65536)
    with ThreadFleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    plan = prepare(world, world.start(), uploads, 1, Stopwatch())
    signs, moduli = [], []
    for repeat in range(60):
        received, counts = exchange(wire, world, uploads, replace(plan, round_=repeat + 1))
        assert counts["damaged"] == 0
        signs.append(received.sign_segments)
        moduli.append(received.modulus_segments)
    found = np.array(signs)[:, :, 0] if parity else np.array(signs).transpose(0, 2, 1).reshape(-1, len(uploads))
    assert_proportion(found, plan.allocation.q_s)  # with parity the segments of a packet share their luck
    assert_proportion(np.array(moduli).transpose(0, 2, 1).reshape(-1, len(uploads)), plan.allocation.r_m)
    if parity:
        shares = plan.allocation.beta, plan.allocation.alpha, plan.allocation.rho
        assert plan.allocation.q_s.max() > 1.05 * world.radio.law.sent_success(plan.link, *shares)[0].max()


LEARNING = {"rounds": 12, "eval_every": 12, "rate": 0.05}


def summed(outcomes, last):
    """(share of the segments had, loss after the last round) of a run."""
    had = [np.concatenate([o.sign_segments.ravel(), o.modulus_segments.ravel()]) for o in outcomes]
    return float(np.mean(had)), last.test_loss


def over_sockets(wire, config, digits):
    records = [record for record, _ in rounds_over(wire, World.build(config, digits))]
    return summed([r.outcome for r in records], records[-1])


def emulated(config, digits):
    records = list(run(config, digits))
    return summed([r.outcome for r in records], records[-1])


def test_runs_over_sockets_are_the_emulated_ones_in_distribution(wire, small_config, digits):
    """Ten paired runs: what arrives and what is learned differ by less than 5 standard errors.

    A twin whose gains are three decibel too good must differ by more.
    """

    def config(seed, median_snr_db=6.0):
        channel = CHANNEL | {"median_snr_db": median_snr_db}
        return small_config(seed=seed, channel=channel, scheme={"name": "sp_fl_uniform"}, training=LEARNING)

    model = np.array([emulated(config(seed), digits) for seed in range(10)])
    sockets = np.array([over_sockets(wire, config(seed), digits) for seed in range(10)])
    twin = np.array([over_sockets(wire, config(seed, 9.0), digits) for seed in range(10)])

    def apart(other):
        return np.abs((model - other).mean(0)) / ((model - other).std(0, ddof=1) / np.sqrt(len(model)))

    assert (apart(sockets) < 5).all()
    assert apart(twin)[0] > 5


def test_a_run_from_the_command_line_reports_its_datagrams(small_config, digits):
    *_, (record, counts) = run_over_udp(small_config(channel=CHANNEL, scheme={"name": "sp_fl_normalized"}), digits)
    assert 0 < counts["received"] <= counts["sent"]
    assert record.round_ == 2


@pytest.mark.parametrize(
    ("channel", "scheme", "message"),
    [
        ({"fading": "block"}, "sp_fl", "channel.fading must be independent with packets over UDP, got block"),
        ({"recovery": "all"}, "sp_fl", "channel.recovery must be segment with packets over UDP, got all"),
        ({}, "single_packet", "sends no datagrams"),
    ],
)
def test_what_udp_cannot_carry_is_refused(channel, scheme, message, small_config, digits):
    with pytest.raises(ConfigError, match=message):
        check(World.build(small_config(channel=CHANNEL | channel, scheme={"name": scheme}), digits))
