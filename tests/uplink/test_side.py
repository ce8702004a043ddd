"""Side information that may be lost: its bits are in the packet, and the server works with what it last received."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rounds import format_of
from spfl import training
from spfl.packets.layout import Layout
from spfl.schemes import SCHEMES
from spfl.uplink.format import Format
from spfl.uplink.side import SHRINK, auxiliary, keep_side, known_uploads
from spfl.uplink.upload import Origin, encode
from spfl.world.world import World

LAYOUT = Layout(("conv", "bias"), ((20, 20), (10,)))
FORM: Format = replace(format_of(SCHEMES["drive_calibrated"], LAYOUT), side="in_packet")


def uploads(round_: int = 1, devices: int = 3):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(round_)
    return [
        encode(FORM, rng.standard_normal(LAYOUT.size).astype(np.float32), {}, Origin(k, round_, 10 + k, 1.0))
        for k in range(devices)
    ]


@pytest.mark.parametrize("name", ["sp_fl", "sp_fl_plus_1", "drive", "single_packet", "top_k", "qsgd"])
def test_bits_move_from_the_side_channel_into_the_packet(name: str) -> None:
    reliable = format_of(SCHEMES[name], LAYOUT)
    within = replace(reliable, side="in_packet")
    assert within.side_bits == 0
    assert within.link_bits == (reliable.link_bits[0] + reliable.side_bits, reliable.link_bits[1])


def test_the_allocator_knows_what_it_last_received() -> None:
    first, second = uploads(1), uploads(2)
    state = keep_side(FORM, 1, first, np.array([True, False, False]), {})
    known = known_uploads(FORM, second, state)
    assert known[0].v2 == pytest.approx(first[0].v2)
    assert known[1].v2 == pytest.approx(first[0].v2)  # never received: the mean of the others
    assert known[0].sign_packet == second[0].sign_packet
    assert [u.samples for u in known] == [10, 11, 12]


def test_an_old_auxiliary_vector_is_drawn_to_the_mean_of_the_received() -> None:
    first, later = uploads(1), uploads(5)
    state = keep_side(FORM, 1, first, np.array([False, True, False]), {})
    told = auxiliary(FORM, later, np.array([True, False, False]), 5, state)
    np.testing.assert_allclose(told[0], later[0].output_bias, rtol=1e-6)
    trust = SHRINK**4
    np.testing.assert_allclose(told[1], trust * first[1].output_bias + (1 - trust) * later[0].output_bias, rtol=1e-5)
    np.testing.assert_allclose(told[2], later[0].output_bias, rtol=1e-6)


def test_label_shares_are_known_whoever_is_received() -> None:
    shares = np.eye(3, 10)
    form = replace(FORM, scheme=replace(FORM.scheme, auxiliary="labels"), classes=shares)
    np.testing.assert_array_equal(auxiliary(form, uploads(), np.array([True, False, False]), 1, {}), shares)


@pytest.mark.parametrize("name", ["sp_fl", "sp_fl_plus_1", "sp_fl_plus", "majority_vote", "single_packet_unbiased"])
def test_a_run_in_packets_learns_and_continues_where_it_was_stopped(name, small_config, digits) -> None:  # type: ignore[no-untyped-def]
    channel = {"median_snr_db": 6.0, "side_information": "in_packet"}
    config = small_config(scheme={"name": name}, channel=channel, training={"rounds": 6, "eval_every": 1})
    world = World.build(config, digits)
    records = list(training.train(world))
    again = list(training.train(world, records[2].server))
    np.testing.assert_array_equal(records[-1].server.weights, again[-1].server.weights)
    assert all(record.side_bits == 0 for record in records)
    assert sum(int(record.outcome.sign.sum()) for record in records) > 0


def test_what_was_lost_is_not_looked_at(small_config, digits) -> None:  # type: ignore[no-untyped-def]
    """Side information of a device whose packet was lost leaves the update as it is."""
    from spfl.uplink.reception import Arrived, receive

    config = small_config(scheme={"name": "sp_fl_plus"}, channel={"side_information": "in_packet"})
    world = World.build(config, digits)
    (record, *_) = training.train(world)
    lost = ~record.outcome.sign
    assert lost.any() or record.outcome.sign.any()
    from spfl.fleet.threads import ThreadFleet

    with ThreadFleet(world) as fleet:
        sent, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    forged = [
        replace(u, output_bias=9 * u.output_bias, v2=9.0) if gone else u for u, gone in zip(sent, lost, strict=True)
    ]
    a, b = (
        receive(world.format, Arrived(1, x, record.outcome, record.allocation), {}).gradient for x in (sent, forged)
    )
    np.testing.assert_array_equal(a, b)
