"""Ladders whose packets are cut into segments: any of them make a sketch of the whole vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spfl import training
from spfl.errors import ConfigError
from spfl.fleet.threads import ThreadFleet
from spfl.packets import ladder
from spfl.packets.layout import Layout
from spfl.packets.rotation import Packing
from spfl.uplink.reception import Arrived, aggregation_weights, decode_device, shares_received, start_of_weights
from spfl.uplink.upload import describe
from spfl.world.world import World

CHANNEL = {"fading": "independent", "segment_bits": 512, "recovery": "segment", "median_snr_db": 3.0}


def arrived_in(world: World) -> Arrived:
    """The first round as the server sees it."""
    record = next(training.train(world))
    with ThreadFleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    return Arrived(1, uploads, record.outcome, record.allocation)


@pytest.mark.parametrize("bits", [40, 64, 150])
def test_a_segment_has_every_nth_coordinate_of_each_block(bits: int) -> None:
    rng = np.random.default_rng(0)
    vector, came = rng.standard_normal(64).astype(np.float32), np.array([True, False, True])
    estimate = ladder.decode(ladder.encode(vector, 16, 4), ladder.deviations(vector, 16), 16, bits)
    left = ladder.thinned(estimate, came, 16)
    inside = [i % 16 % 3 != 1 for i in range(64)]
    assert left.tolist() == [x if here else 0.0 for x, here in zip(estimate.tolist(), inside, strict=True)]
    order = [b * 16 + i for i in range(16) for b in range(4)][: min(bits, 64)]
    assert ladder.share_received(came, 64, 16, bits) == pytest.approx(np.mean([inside[i] for i in order]))
    assert ladder.share_received(came, 64, 16, 0) == 0.0


@pytest.mark.parametrize(("bits", "planes"), [(2048, 1), (4096, 1), (8192, 2)])
def test_what_segments_leave_is_unbiased_with_the_noise_that_weights_count(bits: int, planes: int) -> None:
    """(1 + v) / s - 1 of the squared norm, averaged over rotations and over which segments came."""
    size, rng = 4096, np.random.default_rng(1)
    packing = Packing(Layout(("w",), ((size,),)), rotated=True, output_biases=0)
    vector = rng.standard_normal(size).astype(np.float32) * np.geomspace(0.1, 3.0, size).astype(np.float32)
    block, estimates = packing.packets.sizes[0], []
    for turn in range(300):
        rotated = packing.pack(vector, np.random.default_rng(turn))
        whole = ladder.decode(ladder.encode(rotated, block, 4), ladder.deviations(rotated, block, planes), block, bits)
        came = np.isin(np.arange(8), rng.choice(8, 3, replace=False))
        share = ladder.share_received(came, size, block, bits)
        left = ladder.thinned(whole, came, block) / np.float32(share)
        estimates.append(packing.unpack(left, np.zeros(0, np.float32), np.random.default_rng(turn)))
    stacked, norm2 = np.array(estimates, np.float64), float(vector @ vector)
    expected = (1.0 + float(ladder.noise(bits, size))) / (3 / 8) - 1.0
    assert ((stacked - vector) ** 2).sum(1).mean() / norm2 == pytest.approx(expected, rel=0.05)
    assert ((stacked.mean(0) - vector) ** 2).sum() / norm2 == pytest.approx(expected / 300, rel=0.3)


@pytest.mark.parametrize("name", ["drive", "sp_fl_plus"])
def test_the_weights_count_what_came(name: str, small_config: Any, digits: Any) -> None:
    world = World.build(small_config(channel=CHANNEL, scheme={"name": name}), digits)
    arrived = arrived_in(world)
    form, share = world.format, shares_received(world.format, arrived)
    part = (share > 0) & (share < 1)
    assert part.any()
    for k in np.flatnonzero(share):
        found = decode_device(form, arrived, int(k), {})
        assert found is not None
        assert found.share == pytest.approx(share[k] if name == "drive" else 1.0)
    if name == "sp_fl_plus":
        w = describe(arrived.uploads).weight
        start = start_of_weights(form, arrived, w)
        assert start is not None
        for k in np.flatnonzero(share):
            v = float(ladder.noise(arrived.allocation.bits[k], form.packets.size))
            assert start[k] == pytest.approx(w[k] / (1.0 + ((1.0 + v) / share[k] - 1.0)))
        assert np.isfinite(aggregation_weights(form, arrived, {})).all()


@pytest.mark.parametrize("name", ["drive", "drive_calibrated", "eden_adaptive", "sp_fl_plus"])
def test_whole_segments_are_the_whole_packet(name: str, small_config: Any, digits: Any) -> None:
    """When every segment arrives, recovery by segment gives the weights of the packet as a whole."""
    loud = {"fading": "independent", "median_snr_db": 60.0, "symbols_per_parameter": 40.0}
    ends = [
        list(training.run(small_config(channel=loud | more, scheme={"name": name}), digits))[-1]
        for more in ({}, {"segment_bits": 1000}, {"segment_bits": 1000, "recovery": "segment"})
    ]
    assert ends[2].outcome.sign_segments.shape[1] > 1
    for cut in ends[1:]:
        assert cut.server.weights == pytest.approx(ends[0].server.weights, abs=1e-6)
        assert cut.payload_bits > ends[0].payload_bits
        assert cut.received_bits == cut.payload_bits


def test_each_segment_that_is_of_use_alone_carries_the_side_information(small_config: Any, digits: Any) -> None:
    for name in ("drive", "sign_mean"):
        alone, together = (
            World.build(small_config(channel=CHANNEL | {"recovery": recovery}, scheme={"name": name}), digits).format
            for recovery in ("segment", "all")
        )
        more = alone.packet_bits[0] - together.packet_bits[0]
        assert alone.segments[0] > 1
        assert more == (alone.segments[0] - 1) * alone._side_bits


@pytest.mark.parametrize(("key", "value", "only"), [("device_csi", "instantaneous", "mean"), ("sign_parity", 2, "0")])
def test_what_a_granted_length_does_not_allow_is_refused(
    key: str, value: Any, only: str, small_config: Any, digits: Any
) -> None:
    for fixed in ({}, {"bits_per_value": 1.0}):  # with one rung the bandwidth alone is granted, by the same allocator
        config = small_config(scheme={"name": "sp_fl_plus"} | fixed, channel=CHANNEL | {key: value})
        with pytest.raises(
            ConfigError, match=rf"channel.{key} must be {only} with channel.segment_bits and sp_fl_plus"
        ):
            World.build(config, digits)
