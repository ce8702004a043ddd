"""SP-FL on Flower, in process: the numbers of `spfl run`, whatever the nodes, and nodes that do not behave."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from spfl import training
from spfl.config.schema import AttackConfig
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, PacketError
from spfl.fleet.threads import ThreadFleet
from spfl.flower import protocol, records
from spfl.flower.client_app import app, place_of
from spfl.flower.inprocess import InProcessGrid
from spfl.flower.roster import Place
from spfl.flower.server_app import run_on
from spfl.flower.settings import FlowerConfig, Settings, read_run_config, to_run_config
from spfl.flower.strategy import UPLOAD, SpFl
from spfl.runs.metrics import metrics
from spfl.schemes import SCHEMES
from spfl.world.world import World

TRAIN, QUERY = MessageType.TRAIN, MessageType.QUERY


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("flwr").setLevel(logging.ERROR)


def settings_of(config, **engine):
    return Settings(**config.model_dump(), flower=FlowerConfig(wait_s=0, **engine))


def start(config, digits, nodes=2, grid=InProcessGrid, **engine):
    """A strategy and a grid, ready to run."""
    settings, world = settings_of(config, **engine), World.build(config, digits)
    fleet = ThreadFleet(world)
    return SpFl(world, fleet.evaluate, settings.flower), grid(app, to_run_config(settings), nodes)


def run(config, digits, nodes=2, grid=InProcessGrid, **engine):
    strategy, grid = start(config, digits, nodes, grid, **engine)
    return strategy, list(strategy.rounds(grid))


def task(round_, devices, weights):
    note = protocol.RoundTask(round_, tuple(devices), np.zeros(0, np.float32), {}, one_exchange=False)
    return protocol.task_content(note, weights)


def told(record):
    return {key: value for key, value in metrics(record).items() if key != "seconds"}


def assert_same(records, others):
    assert [told(r) for r in records] == [told(r) for r in others]
    for record, other in zip(records, others, strict=True):
        assert record.server.weights.tobytes() == other.server.weights.tobytes()


# --- the same numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_gives_the_bits_of_spfl_run(scheme, small_config, digits):
    config = small_config(scheme={"name": scheme})
    strategy, records = run(config, digits, nodes=3)
    assert_same(records, list(training.run(config, digits)))
    assert strategy.faults == []


@pytest.mark.parametrize("nodes", [1, 2, 5, 6, 8])
@pytest.mark.parametrize("one_exchange", [False, True])
def test_the_numbers_do_not_depend_on_nodes_or_exchanges(nodes, one_exchange, small_config, digits):
    """Eight nodes for six devices: two of them have nothing to do."""
    config = small_config(scheme={"name": "sp_fl_plus_1"}, data={"cohort_size": 4}, training={"momentum": 0.9})
    _, records = run(config, digits, nodes, one_exchange=one_exchange)
    assert_same(records, list(training.run(config, digits)))


@pytest.mark.parametrize("compensation", ["global", "last", "layer", "ema", "scaled_ema", "zero"])
def test_what_both_ends_remember_reaches_the_nodes(compensation, small_config, digits):
    scheme = {"name": "sp_fl", "compensation": compensation, "error_feedback": True, "weights": "plain"}
    config = small_config(scheme=scheme, training={"rounds": 4})
    _, records = run(config, digits)
    assert_same(records, list(training.run(config, digits)))


@pytest.mark.parametrize(
    "channel",
    [
        {"fading": "selective", "subbands": 4},
        {"csi_error_db": 3.0},
        {"segment_bits": 512},
        {"side_information": "lossy", "side_share": 0.3},
        {"downlink": "sit_out", "downlink_power_dbm": 22.0},
        {"drop": "per_round", "doppler_hz": 5.0, "round_s": 0.1},
    ],
)
def test_the_radio_is_the_same_on_flower(channel, small_config, digits):
    config = small_config(channel=channel, training={"rounds": 3}, data={"cohort_size": 5})
    _, records = run(config, digits)
    assert_same(records, list(training.run(config, digits)))


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"rounds": 3, "local_steps": 2, "correction": "scaffold"}},
        {"training": {"rounds": 3, "local_epochs": 1, "proximal_mu": 0.1, "server_optimiser": "yogi"}},
        {"clients": {"selection": "power_of_choice", "availability": 0.7, "dropout": 0.2}, "data": {"cohort_size": 3}},
    ],
)
def test_algorithms_are_the_same_on_flower(sections, small_config, digits):
    config = small_config(**sections)
    _, records = run(config, digits)
    assert_same(records, list(training.run(config, digits)))


TASKS = {
    "regression": {
        "data": {"name": "diabetes", "devices": 5, "partition": "iid"},
        "model": {"name": "mlp", "width": 8},
    },
    "next_token": {
        "data": {"name": "sentences", "devices": 40, "cohort_size": 4, "partition": "column"},
        "model": {"name": "lstm", "width": 8},
    },
}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks_are_the_same_on_flower(task, small_config):
    config, data = (
        small_config(**TASKS[task], training={"rounds": 2, "batch_size": 4}),
        load_dataset(TASKS[task]["data"]["name"]),
    )
    assert data.task == task
    strategy, records = run(config, data)
    assert_same(records, list(training.run(config, data)))
    assert strategy.faults == []
    assert records[-1].metric in ("r2", "accuracy")
    assert np.isfinite(records[-1].test_score)


class LastComesFirst(InProcessGrid):
    """Replies in the reverse order."""

    def pull_messages(self, message_ids):
        return list(reversed(list(super().pull_messages(message_ids))))


def test_the_order_of_arrival_does_not_matter(small_config, digits):
    config = small_config(training={"rounds": 3})
    _, records = run(config, digits, 6, LastComesFirst)
    assert_same(records, list(training.run(config, digits)))


def test_flowers_own_loop_gives_the_same_weights(small_config, digits):
    """`Strategy.start` as Flower has it: a result with the weights and a metric record for each round."""
    config = small_config()
    strategy, grid = start(config, digits)
    result = strategy.start(grid, records.weights_record(strategy.server.weights), num_rounds=2, timeout=10)
    last = list(training.run(config, digits))[-1]
    weights = records.read_weights(result.arrays, strategy.world.layout.size)
    assert weights.tobytes() == last.server.weights.tobytes()
    assert result.train_metrics_clientapp[2]["test_accuracy"] == last.test_accuracy


def test_a_run_folder_has_the_bytes_of_spfl_run_even_when_resumed(small_config, digits, tmp_path, monkeypatch):
    from spfl.runs.experiment import run_experiment

    config = small_config(scheme={"name": "sp_fl", "error_feedback": True}, training={"rounds": 6, "momentum": 0.5})
    whole = run_experiment(config, digits, tmp_path / "whole")

    class Stops(InProcessGrid):
        """The server is interrupted in round 4, in the middle of the second exchange."""

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            if messages and messages[0].metadata.message_type == UPLOAD and messages[0].metadata.group_id == "4":
                raise KeyboardInterrupt
            return super().send_and_receive(messages, timeout=timeout)

    settings = settings_of(config, out=str(tmp_path / "part"), checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        run_on(Stops(app, to_run_config(settings), 2), settings.experiment, settings.flower)
    again = settings.flower.model_copy(update={"resume": True})
    summary = run_on(InProcessGrid(app, to_run_config(settings), 3), settings.experiment, again)
    assert summary["digest"] == whole["digest"]
    for name in ("weights.safetensors", "allocation.parquet", "config.toml"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- nodes that do not behave ----------------------------------------------------------------------------------


class Hostile(InProcessGrid):
    """Node 2 (partition 1) spoils its replies of one kind by `spoil`, which returns a list of replies."""

    kind, spoil, node = TRAIN, staticmethod(lambda reply: [reply]), 2

    def pull_messages(self, message_ids):
        for reply in super().pull_messages(message_ids):
            if reply.metadata.src_node_id == self.node and reply.metadata.message_type == self.kind:
                yield from self.spoil(reply)
            else:
                yield reply


def hostile(kind, spoil):
    return type("Spoilt", (Hostile,), {"kind": kind, "spoil": staticmethod(spoil)})


def changed(record, key, change):
    """A spoiler: the value at `record` / `key` is changed."""

    def spoil(reply):
        part = reply.content[record]
        part[key] = change(part[key])
        return [reply]

    return spoil


def array(change=lambda values: values, **claims):
    """A change of an Array: of its values, or of what it says about them."""

    def apply(old):
        values = np.frombuffer(old.data, old.dtype).reshape(old.shape).copy()
        fields = {"dtype": old.dtype, "shape": old.shape, "stype": old.stype, "data": change(values).tobytes()}
        return Array(**(fields | claims))

    return apply


def put(value, *at):
    def change(values):
        values[at] = value
        return values

    return change


def without(record):
    def spoil(reply):
        del reply.content[record]
        return [reply]

    return spoil


def failing(reply):
    return [Message(error=Error(1, "out of memory"), metadata=reply.metadata)]


def renamed(reply):
    reply.metadata.__dict__["_src_node_id"] = 77
    return [reply]


REPORTS = {
    "no answer": (lambda reply: [], "no answer within"),
    "error": (failing, "failed: out of memory"),
    "another sender": (renamed, "was answered for by node 77"),
    "no report": (without("report"), "record 'report' must be ConfigRecord"),
    "no arrays": (without("side"), "record 'side' must be ArrayRecord"),
    "stale round": (changed("report", "round", lambda r: r - 1), "round must be"),
    "round of another type": (changed("report", "round", float), "'round' must be int"),
    "other devices": (changed("report", "devices", lambda d: [k - 1 for k in d]), "devices must be"),
    "one device twice": (changed("report", "devices", lambda d: [d[0], *d]), "devices must be"),
    "negative samples": (changed("report", "samples", lambda n: [-1, *n[1:]]), "samples must be"),
    "too few samples": (changed("report", "samples", lambda n: n[1:]), "samples must be"),
    "endless samples": (changed("report", "samples", lambda n: [2**60, *n[1:]]), "samples must be"),
    "dtype": (changed("side", "means", array(dtype="float64")), "must be float32"),
    "pickle": (changed("side", "means", array(stype="numpy.ndarray")), "'means' must be float32"),
    "shape": (changed("side", "means", array(shape=(1, 2))), "'means' must be float32"),
    "huge claim": (changed("side", "means", array(shape=(10**12, 2))), "'means' must be float32"),
    "too long": (changed("side", "means", array(lambda v: np.append(v, v))), "bytes, got"),
}


@pytest.mark.parametrize("name", list(REPORTS))
def test_a_spoilt_report_costs_its_devices_the_round_and_no_more(name, small_config, digits):
    spoil, what = REPORTS[name]
    config = small_config(scheme={"name": "sp_fl", "compensation": "layer"}, training={"rounds": 2})
    strategy, records = run(config, digits, 3, hostile(TRAIN, spoil))
    assert any(fault.node == 2 and what in fault.what for fault in strategy.faults), strategy.faults
    assert all(np.isfinite(record.server.weights).all() for record in records)
    assert [record.rejected for record in records] == [2, 2]  # devices 1 and 4
    assert not any(record.outcome.sign[[1, 4]].any() and record.allocation.q_s[[1, 4]].any() for record in records)
    assert records[0].server.weights.tobytes() != records[1].server.weights.tobytes()


IMPOSSIBLE = {
    "nan": changed("side", "numbers", array(put(np.nan, 0, 1))),
    "infinite": changed("side", "numbers", array(put(np.inf, 0, 4))),
    "negative energy": changed("side", "numbers", array(put(-1.0, 0, 2))),
    "no such vectors": changed("side", "numbers", array(put(1e9, 0, 3))),
    "negative means": changed("side", "means", array(put(-1.0, 0, 0))),
    "nan means": changed("side", "means", array(put(np.nan, 0, 0))),
}


@pytest.mark.parametrize("name", list(IMPOSSIBLE))
def test_an_impossible_claim_costs_that_device_only(name, small_config, digits):
    config = small_config(scheme={"name": "sp_fl", "compensation": "layer"})
    strategy, records = run(config, digits, 3, hostile(TRAIN, IMPOSSIBLE[name]))
    assert [(f.node, f.devices, f.what) for f in strategy.faults] == [(2, (1,), "claims what no gradient has")] * 2
    assert [record.rejected for record in records] == [1, 1]


ATTACKS = get_args(AttackConfig.model_fields["kind"].annotation)


@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "error_free"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_hostile_devices_do_the_same_on_flower(kind, scheme, small_config, digits):
    """Two hostile devices, and the honest ones of the same nodes."""
    config = small_config(scheme={"name": scheme}, attack={"kind": kind, "devices": 2}, training={"rounds": 3})
    _, records = run(config, digits)
    assert_same(records, list(training.run(config, digits)))


UPLOADS = {
    "no answer": (lambda reply: [], "no answer within"),
    "error": (failing, "failed: out of memory"),
    "stale round": (changed("upload", "round", lambda r: r - 1), "round must be"),
    "other devices": (changed("upload", "devices", lambda d: d[::-1]), "devices must be"),
    "no packets": (without("packets"), "record 'packets' must be ArrayRecord"),
    "cut": (changed("packets", "sign_packet", array(lambda v: v[:, :-1])), "bytes, got"),
    "oversized": (changed("packets", "modulus_packet", array(lambda v: np.repeat(v, 9, 1))), "bytes, got"),
    "not bytes": (changed("packets", "sign_packet", array(dtype="int8")), "must be uint8"),
}


@pytest.mark.parametrize("name", list(UPLOADS))
def test_a_spoilt_upload_is_a_lost_packet(name, small_config, digits):
    spoil, what = UPLOADS[name]
    config = small_config(scheme={"name": "sp_fl"}, training={"rounds": 2}, channel={"median_snr_db": 60.0})
    strategy, records = run(config, digits, 3, hostile(UPLOAD, spoil))
    assert [(f.node, f.devices) for f in strategy.faults] == [(2, (1, 4))] * 2
    assert all(what in fault.what for fault in strategy.faults)
    for record in records:
        assert record.outcome.sign.tolist() == [True, False, True, True, False, True]
        assert record.rejected == 2


@pytest.mark.parametrize("packet", ["sign_packet", "modulus_packet"])
def test_a_flipped_bit_is_caught_by_the_codec(packet, small_config, digits):
    """One packet of device 4 only: device 1 of the same node stays in the round. A lone sign packet is still used."""

    def flip(values):
        values[1, 50] ^= 1
        return values

    config = small_config(scheme={"name": "sp_fl"}, channel={"median_snr_db": 60.0})
    strategy, records = run(config, digits, 3, hostile(UPLOAD, changed("packets", packet, array(flip))))
    assert strategy.faults == []
    assert [record.rejected for record in records] == [1, 1]


def test_packets_of_another_round_are_caught_by_the_codec(small_config, digits):
    """A node that replays its first packets under the new round's number."""
    kept = {}

    def replay(reply):
        kept.setdefault("packets", reply.content["packets"])
        reply.content["packets"] = kept["packets"]
        return [reply]

    config = small_config(scheme={"name": "sp_fl"}, channel={"median_snr_db": 60.0})
    _, records = run(config, digits, 3, hostile(UPLOAD, replay))
    assert [record.rejected for record in records] == [0, 2]


def test_an_infinite_gradient_does_not_stop_the_others(small_config, digits):
    """Without packets a gradient arrives as it is: one infinity would make every step void."""
    config = small_config(scheme={"name": "error_free"})
    spoil = changed("packets", "gradient", array(put(np.inf, 0, 3)))
    strategy, records = run(config, digits, 3, hostile(UPLOAD, spoil))
    assert (strategy.faults[0].node, strategy.faults[0].devices) == (2, (1,))
    assert records[-1].server.weights.tobytes() != records[0].server.weights.tobytes()


def test_a_second_answer_is_refused_and_the_first_is_used(small_config, digits):
    config = small_config()
    strategy, records = run(config, digits, 3, hostile(TRAIN, lambda reply: [reply, reply]))
    assert [(fault.node, fault.what) for fault in strategy.faults] == [
        (2, "answered twice, or what it was not asked")
    ] * 2
    assert_same(records, list(training.run(config, digits)))


def test_a_round_without_any_answer_leaves_the_weights(small_config, digits):
    class Silent(InProcessGrid):
        def pull_messages(self, message_ids):
            return [m for m in super().pull_messages(message_ids) if m.metadata.message_type == QUERY]

    config = small_config(scheme={"name": "sp_fl_plus_1"})
    strategy, records = run(config, digits, 2, Silent)
    assert [record.rejected for record in records] == [6, 6]
    assert strategy.server.weights.tobytes() == World.build(config, digits).start().weights.tobytes()


# --- who is there ----------------------------------------------------------------------------------------------


class Late(InProcessGrid):
    """No node at first, then one more each time the server asks; node 2 goes away for good after `leaves` looks."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks, self.leaves = 0, 10**9

    def get_node_ids(self):
        self.looks += 1
        return [n for n in list(super().get_node_ids())[: self.looks - 1] if n != 2 or self.looks < self.leaves]


def test_the_server_waits_for_its_nodes(small_config, digits, monkeypatch):
    monkeypatch.setattr("spfl.flower.roster.POLL_S", 0.001)
    config = small_config()
    strategy, grid = start(config, digits, 3, Late)
    strategy.engine = strategy.engine.model_copy(update={"wait_s": 30.0})
    assert_same(list(strategy.rounds(grid)), list(training.run(config, digits)))


def test_a_node_that_leaves_costs_its_devices(small_config, digits, monkeypatch):
    monkeypatch.setattr("spfl.flower.roster.POLL_S", 0.001)
    config = small_config(training={"rounds": 3})
    strategy, grid = start(config, digits, 3, Late)
    strategy.engine = strategy.engine.model_copy(update={"wait_s": 30.0})
    grid.leaves = 6  # four looks until all are there, one for round 2
    assert [record.rejected for record in strategy.rounds(grid)] == [0, 0, 2]


def test_too_few_nodes_are_one_clear_error(small_config, digits):
    strategy, grid = start(small_config(), digits, 3, Late, min_nodes=2)
    with pytest.raises(ConfigError, match="min_nodes must be reached within 0 s: 2 wanted, 0 there"):
        next(strategy.rounds(grid))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"partition": 0}, "partition-id 0 is held by node 1"),
        ({"partitions": 4}, "num-partitions must be 3 as most nodes have it, got 4"),
        ({"partition": 3}, "partition-id must be in 0..num-partitions - 1, got 3 of 3"),
        ({"identity": protocol.Identity("00", "digits of CRC 00")}, "its network is another: 00, the run's is"),
    ],
)
def test_a_node_out_of_place_is_refused(answer, what, small_config, digits):
    def spoil(reply):
        reply.content = protocol.hello_content(replace(protocol.read_hello(reply.content), **answer))
        return [reply]

    strategy, records = run(small_config(), digits, 3, hostile(QUERY, spoil))
    assert [fault.node for fault in strategy.faults] == [2]
    assert what in strategy.faults[0].what
    assert [record.rejected for record in records] == [2, 2]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("partitions", [1, 2, 5, 2**62])
def test_a_node_that_lies_about_the_number_of_partitions_shuts_out_nobody(
    partitions, first, small_config, digits, monkeypatch
):
    """Also when it was the first to answer, and alone: the others take its place as soon as they are more."""
    monkeypatch.setattr("spfl.flower.roster.POLL_S", 0.001)

    def spoil(reply):
        lie = {"partition": 0, "partitions": partitions}
        reply.content = protocol.hello_content(replace(protocol.read_hello(reply.content), **lie))
        return [reply]

    class Liar(hostile(QUERY, spoil)):
        """Node 2 lies, and is there a while before the others."""

        looks = 0

        def get_node_ids(self):
            self.looks += 1
            return [2] if first and self.looks < 3 else list(super().get_node_ids())

    config = small_config(training={"rounds": 5})
    strategy, records = run(config, digits, 3, Liar)
    assert records[-1].rejected == 2  # the devices of node 2 alone
    assert strategy.faults[-1].what == f"num-partitions must be 3 as most nodes have it, got {partitions}"
    assert {fault.node for fault in strategy.faults} == {2}


def test_what_a_node_says_is_logged_in_one_line_of_bounded_length(small_config, digits):
    def spoil(reply):
        words = "\x1b[2J\n" + "x" * 10**6
        answer = {"identity": protocol.Identity(words, words, words), "versions": words}
        reply.content = protocol.hello_content(replace(protocol.read_hello(reply.content), **answer))
        return [reply]

    def refuse(reply):
        reply.content = protocol.refusal_content("\x1b]0;title\x07" + "y" * 10**6)
        return [reply]

    def fail(reply):
        return [Message(error=Error(1, "\r\n" + "z" * 10**6), metadata=reply.metadata)]

    for kind, way in ((QUERY, spoil), (QUERY, refuse), (TRAIN, fail)):
        strategy, _ = run(small_config(), digits, 3, hostile(kind, way))
        assert [fault.node for fault in strategy.faults][:1] == [2]
        assert all(len(f.what) < 600 and f.what.isprintable() for f in strategy.faults)


def test_more_nodes_than_one_that_says_it_is_all_are_waited_for(small_config, digits, monkeypatch):
    """min_nodes counts also when a single node says that it holds every partition."""
    monkeypatch.setattr("spfl.flower.roster.POLL_S", 0.001)
    strategy, grid = start(small_config(), digits, 1, min_nodes=2)
    strategy.engine = strategy.engine.model_copy(update={"wait_s": 0.05})
    with pytest.raises(ConfigError, match=r"min_nodes must be reached within 0\.05 s: 2 wanted, 1 there"):
        next(strategy.rounds(grid))


def test_a_node_with_other_versions_takes_part_with_a_warning(small_config, digits, caplog):
    def spoil(reply):
        reply.content = protocol.hello_content(replace(protocol.read_hello(reply.content), versions="{'spfl': '9'}"))
        return [reply]

    logging.getLogger("flwr").addHandler(caplog.handler)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    strategy, records = run(small_config(), digits, 3, hostile(QUERY, spoil))
    assert strategy.faults == []
    assert [record.rejected for record in records] == [0, 0]
    assert "bits may differ" in caplog.text


def test_a_node_whose_hello_failed_is_asked_again(small_config, digits):
    failures = [1, 1]

    def spoil(reply):
        return failing(reply) if failures and failures.pop() else [reply]

    strategy, records = run(small_config(training={"rounds": 4}), digits, 3, hostile(QUERY, spoil))
    assert [record.rejected for record in records] == [2, 2, 0, 0]
    assert strategy.faults == []


def test_a_node_that_comes_back_under_another_id_takes_its_place_again(small_config, digits):
    class Moves(InProcessGrid):
        """Node 2 is node 9 from the second look on."""

        looks = 0

        def get_node_ids(self):
            self.looks += 1
            if self.looks == 2:
                self._contexts[9] = self._contexts.pop(2)
                self._contexts[9].node_id = 9
            return super().get_node_ids()

    config = small_config(training={"rounds": 3})
    strategy, records = run(config, digits, 3, Moves)
    assert strategy.faults == []
    assert_same(records, list(training.run(config, digits)))


def test_a_node_that_hangs_is_left_out_until_it_answers_who_it_is(small_config, digits):
    """It costs one time-out, not one a round."""
    asked = []

    class Hangs(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            asked.append([message.metadata.dst_node_id for message in messages])
            replies = super().send_and_receive(messages, timeout=timeout)
            return [reply for reply in replies if reply.metadata.src_node_id != 2 or len(asked) != 3]

        def pull_messages(self, message_ids):
            ready = [
                n for n in message_ids if self._replies[n].metadata.message_type != QUERY or len(asked) not in (3, 4)
            ]
            return super().pull_messages(ready)  # its hello, between rounds 2 and 3, is answered a round later

    config = small_config(training={"rounds": 4})
    strategy, records = run(config, digits, 3, Hangs)
    assert [record.rejected for record in records] == [0, 2, 2, 0]
    assert asked[2] == [1, 2, 3]  # round 2: the side information
    assert asked[4] == [1, 3]  # round 3
    assert len(strategy.faults) == 1


def test_devices_are_spread_over_nodes():
    shares = [Place(p, 3).devices(range(8)) for p in range(3)]
    assert shares == [(0, 3, 6), (1, 4, 7), (2, 5)]


@pytest.mark.parametrize("node_config", [{}, {"partition-id": 0}, {"partition-id": "0", "num-partitions": 2}])
def test_a_node_without_a_place_says_so(node_config):
    with pytest.raises(ConfigError, match='--node-config must say "partition-id=P num-partitions=N"'):
        place_of(node_config)


# --- the node --------------------------------------------------------------------------------------------------


def ask(grid, content, kind=TRAIN, node=1):
    return grid.answer(Message(content, node, kind))


@pytest.fixture
def small_grid(small_config):
    config = small_config()
    return InProcessGrid(app, to_run_config(settings_of(config)), 2)


def test_a_node_refuses_devices_that_are_not_its_own(small_grid, small_config, digits):
    world = World.build(small_config(), digits)
    weights = records.weights_record(world.start().weights)
    reply = ask(small_grid, task(1, [0, 1], weights))
    assert "devices (0, 1) are not all of this node" in reply.error.reason


def test_a_node_has_no_packets_of_a_round_it_was_not_asked_for(small_grid, small_config, digits):
    world = World.build(small_config(), digits)
    record = next(training.run(small_config(), digits))
    grant = protocol.grant_content(1, [0], record.allocation, [0])
    assert "record 'upload' must be ConfigRecord" in ask(small_grid, grant, UPLOAD).error.reason
    weights = records.weights_record(world.start().weights)
    assert ask(small_grid, task(1, [0, 2], weights)).has_content()
    other = protocol.grant_content(2, [0, 2], record.allocation, [0, 2])
    assert "round must be 2, got 1" in ask(small_grid, other, UPLOAD).error.reason
    right = protocol.grant_content(1, [0, 2], record.allocation, [0, 2])
    assert ask(small_grid, right, UPLOAD).has_content()
    assert ask(small_grid, right, UPLOAD).has_error()  # handed over once


# --- the wire --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reported(digits):
    from spfl.config.files import load_config

    config = load_config(None, ["data.devices=4", "model.name=softmax", "workers=1", "scheme.name=sp_fl_plus_1"])
    world = World.build(config, digits)
    with ThreadFleet(world) as fleet:
        return world, fleet.uploads(world.start(), range(4), 1)[0]


def test_uploads_survive_the_wire(reported):
    world, uploads = reported
    content = protocol.report_content(1, uploads)
    content["packets"] = records.packets_record(uploads, world)
    content = RecordDict.inflate(content.deflate(), _children(content))
    there = protocol.read_packets(content, protocol.read_report(content, 1, range(4), world), world)
    for sent, got in zip(uploads, there, strict=True):
        for name, value in vars(sent).items():
            np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


def _children(record):
    """Flower's serialisation object by object, as SuperLink stores them."""
    return {key: type(part).inflate(part.deflate(), _children(part)) for key, part in (record.children or {}).items()}


def test_a_silent_device_sends_no_packets(reported):
    from spfl.uplink.upload import silent

    world, uploads = reported
    mixed = [silent(world.format, 0), *uploads[1:]]
    content = protocol.report_content(1, mixed)
    content["packets"] = records.packets_record(mixed, world)
    there = protocol.read_packets(content, protocol.read_report(content, 1, range(4), world), world)
    assert there[0].sign_packet == b""
    assert [u.sign_packet for u in there[1:]] == [u.sign_packet for u in uploads[1:]]


VALUES = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.text(), st.binary(), st.lists(st.integers()))
ARRAYS = st.builds(
    Array,
    st.sampled_from(["float32", "float64", "uint8", "object", "rubbish"]),
    st.lists(st.integers(-2, 2**40), max_size=3).map(tuple),
    st.sampled_from([records.RAW, "numpy.ndarray", ""]),
    st.binary(max_size=64),
)
RECORDS = st.one_of(
    st.dictionaries(st.sampled_from(["round", "devices", "samples"]), VALUES).map(ConfigRecord),
    st.dictionaries(st.sampled_from(["numbers", "means", "output_bias", "sign_packet"]), ARRAYS).map(ArrayRecord),
    st.just(MetricRecord({"round": 1})),
)


@given(st.dictionaries(st.sampled_from(["report", "side", "packets", "upload", "hello", "grant"]), RECORDS))
def test_rubbish_is_refused_with_a_packet_error_and_nothing_else(reported, records):
    world, uploads = reported
    content = RecordDict(records)
    for read in (
        lambda: protocol.read_report(content, 1, range(4), world),
        lambda: protocol.read_packets(content, uploads, world),
        lambda: protocol.check_upload(content, 1, range(4)),
        lambda: protocol.read_task(content, world),
    ):
        with pytest.raises(PacketError):
            read()


# --- settings --------------------------------------------------------------------------------------------------


def test_a_run_config_reads_back(small_config):
    config = small_config(
        data={"cohort_size": 3}, channel={"gains_db": [-90.0, -91.5, -92.0, -93.0, -94.0, -95.0]}, scheme={"rho": 0.3}
    )
    settings = settings_of(config, one_exchange=True, out="runs/x")
    flat = to_run_config(settings)
    assert read_run_config(flat) == settings
    assert read_run_config(flat).experiment == config
    assert flat["channel.tau_s"] == ""  # listed, so that --run-config may set it
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flower.timeout": 3}, r"unknown config key 'flower.timeout' \(did you mean 'timeout_s'\?\)"),
        ({"flower.timeout_s": 0}, "flower.timeout_s: input should be greater than 0, got 0"),
        ({"data.device": 3}, r"unknown config key 'data.device' \(did you mean 'devices'\?\)"),
        ({"seed": 1, "seed.x": 1}, "seed.x: 'seed' is a value, not a section"),
    ],
)
def test_a_bad_run_config_is_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        read_run_config(values)


def test_a_server_without_a_run_folder_says_so(small_config):
    settings = settings_of(small_config())
    with pytest.raises(ConfigError, match=r"flower\.out must name the run folder"):
        run_on(InProcessGrid(app, to_run_config(settings), 1), settings.experiment, settings.flower)


def test_asynchronous_rounds_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"asynchronous\.rule must be none on Flower, got fedbuff"):
        read_run_config({"device.cycles_per_sample": 1e6, "asynchronous.rule": "fedbuff"})
