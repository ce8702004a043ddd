"""Packets of a federation as UDP datagrams: what arrives is the outcome, and what strangers send changes nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time

import numpy as np
import pytest

from spfl import training
from spfl.errors import ConfigError, FlowerError, PacketError
from spfl.fleet.threads import ThreadFleet
from spfl.flower import datagrams
from spfl.flower.client_app import app
from spfl.flower.gateway import Expected, Gateway, split_address
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.settings import FlowerConfig, Settings, to_run_config
from spfl.flower.strategy import SpFl
from spfl.packets.datagrams import MODULUS, SIGN, cut
from spfl.packets.sealed import new_session, seal
from spfl.radio.estimator import Pieces, arrival_rates, counted, measured_link, new_counts, packet_rates
from spfl.radio.outage import success
from spfl.radio.selective import at_least
from spfl.world.world import World
from stats import assert_proportion
from udp_shim import HOST, Shim

LARGE = {"median_snr_db": 6.0, "symbols_per_parameter": 2.0}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("flwr").setLevel(logging.ERROR)


def federated(config, digits, loss=0.0, *, between=lambda strategy, gateway: None, disorder=False, nodes=3, seed=0):
    """A run over real sockets; its records, and the datagrams of each round by what became of them."""
    world, heard, records = World.build(config, digits), [], []
    datagrams.check(world)
    with Gateway(f"{HOST}:0") as gateway, Shim(gateway.port, loss, seed, disorder) as shim:
        engine = FlowerConfig(wait_s=0, packets="udp", udp_address=shim.address)
        settings = Settings(**config.model_dump(), flower=engine)
        with ThreadFleet(world) as fleet:
            strategy = SpFl(world, fleet.evaluate, engine)
            strategy.uplink = datagrams.DatagramUplink(world, gateway, shim.address, 1e9, 0.2)
            for record in strategy.rounds(InProcessGrid(app, to_run_config(settings), nodes)):
                records.append(record)
                heard.append(strategy.heard)
                between(strategy, gateway)
        return records, heard, shim.seen


@pytest.mark.parametrize("channel", [LARGE, LARGE | {"segment_bits": 512, "recovery": "segment", "sign_parity": 1}])
@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "sp_fl_normalized", "majority_vote"])
def test_without_loss_all_arrives_and_is_what_was_sent(scheme, channel, small_config, digits):
    """The weights after a round are those of the emulated uplink with a perfect link."""
    config = small_config(channel=channel, scheme={"name": scheme})
    records, heard, seen = federated(config, digits, disorder=True)
    assert all((r.outcome.sign == (r.allocation.beta > 0)).all() for r in records)
    assert all(set(h) <= {"received", "replayed"} for h in heard)
    assert len(set(seen)) == len(seen) == sum(h["received"] for h in heard)
    world = World.build(config, digits)
    with ThreadFleet(world) as fleet:
        server = world.start()
        uploads, _ = fleet.uploads(server, world.cohort(1), 1)
        link = datagrams.measured_link
        first, second = world.format.segments
        pieces = Pieces(first, second, world.format.parity, config.channel.recovery)
        plan = training.prepare(world, server, uploads, 1, training.Stopwatch(),
                                lambda one, cohort: link(one, cohort, new_counts(6), pieces))  # fmt: skip
        known = training.Known(outcome=records[0].outcome)
        record = training.complete(world, server, plan, training.Stopwatch(), known)
    assert record.server.weights.tobytes() == records[0].server.weights.tobytes()


def test_signs_go_first_and_no_faster_than_the_granted_share(small_config, digits):
    config = small_config(channel=LARGE | {"segment_bits": 512, "recovery": "segment"}, scheme={"name": "sp_fl_plus_1"})
    world = World.build(config, digits)
    with ThreadFleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    packets = {(u.device, kind): getattr(u, name) for u in uploads[:2] for name, kind in datagrams.PACKETS.items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        order = datagrams.SendOrder(
            f"{HOST}:{server.getsockname()[1]}", new_session(), {uploads[0].device: 50_000.0, uploads[1].device: 0.0}
        )
        began = time.monotonic()
        count = datagrams.send(world, order, packets, 1)
        took = time.monotonic() - began
        found = [server.recv(65536) for _ in range(count)]
    kinds = [raw[8] for raw in found]
    assert kinds == sorted(kinds)
    assert {SIGN, MODULUS} == set(kinds)
    assert len(found) == sum(world.format.segments)  # a device without a share sends nothing
    bits = 8 * sum(len(raw) - 24 for raw in found[:-1])
    assert took >= bits / 50_000.0


@pytest.mark.parametrize("parity", [0, 2])
def test_what_the_shim_erases_is_what_is_lost(parity, small_config, digits):
    channel = LARGE | {"segment_bits": 256 + 256, "recovery": "segment", "sign_parity": parity}
    config = small_config(channel=channel, training={"rounds": 40, "eval_every": 40}, scheme={"name": "sp_fl_plus_1"})
    records, heard, _ = federated(config, digits, 0.2)
    world = World.build(config, digits)
    first = world.format.segments[0]
    told = 0.8 if not parity else 0.8 + 0.2 * float(at_least(first, first + parity - 1, np.array(0.8)))
    moduli = np.concatenate([r.outcome.modulus_segments[r.allocation.beta > 0].ravel() for r in records])
    signs = np.concatenate([r.outcome.sign_segments[r.allocation.beta > 0, 0] for r in records])
    assert_proportion(moduli[:, None], np.array([0.8]))
    assert_proportion(signs[:, None], np.array([told]))
    assert sum(h["received"] for h in heard) > 0
    rates = records[-1].allocation.q_s[records[-1].allocation.beta > 0]
    assert rates == pytest.approx(told, abs=0.2)  # the estimate that the allocator had


LEARNING = {"rounds": 10, "eval_every": 10, "rate": 0.05}


def test_a_run_over_datagrams_is_the_emulated_one_in_distribution(tmp_path, small_config, digits):
    """Six paired runs with 20 % loss: over sockets, and by a trace of these loss rates; a twin with 40 % differs."""
    path = tmp_path / "loss.csv"
    path.write_text("device,sign_loss,modulus_loss\n" + "".join(f"{k},0.2,0.2\n" for k in range(6)))

    def summed(records):
        got = [np.concatenate([r.outcome.sign, r.outcome.modulus]) for r in records]
        return float(np.mean(got)), records[-1].test_loss

    def both(seed):
        own = {"scheme": {"name": "sp_fl_uniform", "weights": "normalized"}, "training": LEARNING, "seed": seed}
        trace = small_config(channel={"model": "trace", "median_snr_db": None}, trace={"path": str(path)}, **own)
        sockets = small_config(channel=LARGE, **own)
        return (
            summed(list(training.run(trace, digits))),
            summed(federated(sockets, digits, 0.2, seed=seed)[0]),
            summed(federated(sockets, digits, 0.4, seed=seed)[0]),
        )

    model, udp, twin = np.array([both(seed) for seed in range(6)]).transpose(1, 0, 2)

    def apart(other):
        return np.abs((model - other).mean(0)) / ((model - other).std(0, ddof=1) / np.sqrt(len(model)))

    assert (apart(udp) < 5).all()
    assert apart(twin)[0] > 5


# --- what strangers and bad nodes send ---------------------------------------------------------------------------


def expected(session, devices=(0,)):
    return Expected(session, {(k, SIGN): (2, 2) for k in devices})


def raws(device=0, round_=5, kind=SIGN, body=b"abcd", count=2):
    return cut(body, count, 0, kind, device, round_)


@pytest.fixture
def gateway():
    with Gateway(f"{HOST}:0") as found:
        yield found


def tell(gateway, *datagrams_):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for raw in datagrams_:
            sender.sendto(raw, (HOST, gateway.port))


def test_only_what_a_node_of_the_round_sealed_for_its_own_device_is_taken(gateway):
    session, other, gone = new_session(), new_session(), new_session()
    gateway.open_round(4, [expected(gone)])
    gateway.close_round(0.01)
    gateway.open_round(5, [expected(session), expected(other, devices=(1,))])
    good = [seal(session, raw) for raw in raws()]
    bad = {
        "foreign": [b"", b"\xff" * 40, b"x" * 23, b"x" * 3000, seal(new_session(), raws()[0])],
        "forged": [
            good[0][:-16] + bytes(16), good[0][:8] + good[1][8:-16] + good[0][-16:],
            session.name + raws()[0] + bytes(16),
        ],
        "late": [seal(gone, raws(round_=4)[0])],
        "refused": [
            seal(session, raws(round_=4)[0]), seal(session, raws(device=1)[0]), seal(other, raws(device=0)[0]),
            seal(session, raws(kind=MODULUS)[0]), seal(session, raws(count=1)[0]),
            seal(session, raws(device=2**32 - 1)[0]),
        ],
    }  # fmt: skip
    tell(gateway, *(raw for group in bad.values() for raw in group), *good, good[1], good[0])
    heard = gateway.close_round(0.5)
    assert {name: heard.counts[name] for name in bad} == {name: len(group) for name, group in bad.items()}
    assert heard.counts["received"] == 2
    assert [heard.parts[0, SIGN][i].payload for i in (0, 1)] == [b"ab", b"cd"]
    assert set(heard.parts) == {(0, SIGN)}


def test_a_sealed_datagram_that_is_damage_inside_is_refused(gateway):
    session = new_session()
    gateway.open_round(5, [expected(session)])
    tell(gateway, seal(session, b""), seal(session, b"\0" * 16), seal(session, b"\xff" * 100))
    heard = gateway.close_round(0.3)
    assert heard.parts == {}
    assert sum(heard.counts.values()) == 3


def test_a_flood_neither_ends_the_round_nor_holds_it(gateway):
    session, over = new_session(), threading.Event()

    def flood():
        while not over.is_set():
            tell(gateway, *[b"\xff" * 60] * 50)

    thread = threading.Thread(target=flood)
    gateway.open_round(5, [expected(session)])
    thread.start()
    try:
        for _ in range(20):  # a node may have to send again what the flood drowns; here the buffer is large
            tell(gateway, *(seal(session, raw) for raw in raws()))
            time.sleep(0.01)
        began = time.monotonic()
        heard = gateway.close_round(0.5)
    finally:
        over.set()
        thread.join()
    assert heard.counts["received"] == 2
    assert heard.counts["foreign"] > 0
    assert time.monotonic() - began < 60


def test_strangers_between_the_rounds_change_no_bit(small_config, digits):
    config = small_config(channel=LARGE, scheme={"name": "sp_fl_plus_1"}, training={"rounds": 3})
    calm, _, _ = federated(config, digits)
    recorded = []

    def disturb(strategy, gateway):
        recorded.extend(raw for raw in [b"\0" * 100, b"", b"\xff" * 50])
        tell(gateway, *recorded)

    loud, _, seen = federated(config, digits, between=disturb)
    assert loud[-1].server.weights.tobytes() == calm[-1].server.weights.tobytes()
    assert seen


def test_a_node_that_is_gone_loses_its_devices_and_not_the_run(small_config, digits):
    class Gone(InProcessGrid):
        def answer(self, message):
            if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train.upload":
                raise RuntimeError("gone")
            return super().answer(message)

        def push_messages(self, messages):
            kept = [
                m for m in messages if not (m.metadata.dst_node_id == 2 and m.metadata.message_type == "train.upload")
            ]
            return super().push_messages(kept)

    config = small_config(channel=LARGE, scheme={"name": "sp_fl_uniform"}, training={"rounds": 2})
    world = World.build(config, digits)
    with Gateway(f"{HOST}:0") as gateway, ThreadFleet(world) as fleet:
        address = f"{HOST}:{gateway.port}"
        engine = FlowerConfig(wait_s=0, packets="udp", udp_address=address)
        strategy = SpFl(world, fleet.evaluate, engine)
        strategy.uplink = datagrams.DatagramUplink(world, gateway, address, 1e9, 0.2)
        settings = Settings(**config.model_dump(), flower=engine)
        records = list(strategy.rounds(Gone(app, to_run_config(settings), 3)))
    sent = np.array([True, False, True, True, False, True])  # node 2 of 3 holds devices 1 and 4
    assert all((r.outcome.sign == (sent & (r.allocation.beta > 0))).all() for r in records)
    assert strategy.faults
    rates = arrival_rates(strategy.uplink.counts(strategy.server.memory))[0]
    assert rates[1] == pytest.approx(0.9)  # it says nothing of a link that its node did not send


# --- the estimator -----------------------------------------------------------------------------------------------


def test_rates_are_learned_and_old_ones_forgotten():
    counts, rng = new_counts(3), np.random.default_rng(0)
    sent = np.full((2, 2), 10.0)
    for rate in (0.9, 0.3):
        for _ in range(80):
            counts = counted(counts, (0, 2), rng.binomial(10, rate, (2, 2)).astype(float), sent)
        rates = arrival_rates(counts)
        assert rates[:, [0, 2]] == pytest.approx(rate, abs=0.12)
        assert rates[:, 1] == pytest.approx(0.9)


def test_packets_of_pieces_have_the_probabilities_of_their_pieces():
    """Against counting by brute force."""
    rng, p = np.random.default_rng(1), 0.7
    for recovery, parity in (("all", 0), ("all", 2), ("segment", 0), ("segment", 1)):
        pieces = Pieces(3, 2, parity, recovery)
        sign, modulus = packet_rates(np.array([[p], [0.6]]), pieces)
        came = rng.random((200_000, 3 + parity)) < p
        whole = came.sum(1) >= 3
        found = whole if recovery == "all" else came[:, 0] | (whole if parity else False)
        assert found.mean() == pytest.approx(sign[0], abs=0.006)
        assert modulus[0] == pytest.approx(0.36 if recovery == "all" else 0.6)


def test_a_bad_link_is_given_more(small_config, digits):
    world = World.build(small_config(scheme={"name": "sp_fl_plus_1"}), digits)
    counts = counted(new_counts(6), range(6), np.tile([9.0, 9, 9, 3, 9, 9], (2, 1)), np.full((2, 6), 10.0))
    link = measured_link(world.radio.link(range(6), 1), range(6), counts, Pieces(1, 1, 0, "all"))
    rates = arrival_rates(counts)[0]
    assert success(link, 1 / 6, link.split).q_s == pytest.approx(rates)
    assert np.argmin(link.gain) == 3


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "scheme", "message"),
    [
        ({}, "single_packet", "sends no datagrams"),
        ({"fading": "independent"}, "sp_fl", "channel.fading must be block with flower.packets = udp"),
        ({"csi_error_db": 2.0}, "sp_fl", "channel.csi_error_db must be 0.0"),
    ],
)
def test_what_datagrams_cannot_carry_is_refused(channel, scheme, message, small_config, digits):
    with pytest.raises(ConfigError, match=message):
        datagrams.check(World.build(small_config(channel=channel, scheme={"name": scheme}), digits))


def test_packets_larger_than_a_datagram_must_be_cut(small_config, digits):
    config = small_config(model={"name": "mlp", "width": 200})
    with pytest.raises(ConfigError, match="segment_bits must be set"):
        datagrams.check(World.build(config, digits))


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:70000", "host:x"])
def test_an_address_is_host_and_port(text):
    with pytest.raises(FlowerError, match=r"flower.udp_address must be HOST:PORT"):
        split_address(text, "flower.udp_address")


def test_a_port_that_is_taken_is_one_line(gateway):
    with pytest.raises(FlowerError, match="cannot be used: Address already in use"), Gateway(f"{HOST}:{gateway.port}"):
        pass


def test_an_order_that_is_none_is_refused():
    from flwr.app import ConfigRecord, RecordDict

    grant = ConfigRecord({"devices": [0], "beta": [0.5]})
    good = {"name": bytes(8), "key": bytes(32), "address": "h:1", "bit_per_s": 1e6}
    assert datagrams.read_order(RecordDict({"grant": grant})) is None
    assert datagrams.read_order(RecordDict({"grant": grant, "udp": ConfigRecord(good)})).bit_per_s == {0: 5e5}
    for bad in ({"name": bytes(7)}, {"key": bytes(31)}, {"bit_per_s": 0.0}, {"address": 5}):
        with pytest.raises(PacketError):
            datagrams.read_order(RecordDict({"grant": grant, "udp": ConfigRecord(good | bad)}))
