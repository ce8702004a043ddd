"""Side information in a packet of its own: its outage, its cost, and what the server does without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from oracles import last_told, outage_exponent, side_packet_arrives
from rounds import format_of
from spfl import training
from spfl.config.schema import build_config
from spfl.errors import ConfigError
from spfl.packets.container import HEADER_BITS
from spfl.packets.layout import Layout
from spfl.radio.outage import Outcome
from spfl.schemes import SCHEMES
from spfl.uplink.reception import Arrived, receive
from spfl.uplink.side import heard_uploads, keep_side, known_uploads, side_key
from spfl.uplink.upload import Origin, encode
from spfl.world.link_budget import link_budget
from spfl.world.world import World

LAYOUT = Layout(("conv", "bias"), ((20, 20), (10,)))
LOSSY = {"median_snr_db": 3.0, "side_information": "lossy"}


def form_of(name):
    return replace(format_of(SCHEMES[name], LAYOUT), side="lossy")


def uploads(form, round_=1, devices=3):
    rng = np.random.default_rng(round_)
    return [
        encode(form, rng.standard_normal(LAYOUT.size).astype(np.float32), {}, Origin(k, round_, 10 + k, 1.0))
        for k in range(devices)
    ]


# --- the packet ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fading", "power_dbm"), [("block", None), ("block", 4.0), ("nakagami", 13.0), ("rician", None)]
)
def test_packets_arrive_as_often_as_the_closed_form_says(fading, power_dbm, small_config, digits):
    channel = LOSSY | {"fading": fading, "side_share": 0.3, "snr_gap_db": 1.0}
    channel |= {} if power_dbm is None else {"side_power_dbm": power_dbm}
    world = World.build(small_config(scheme={"name": "sp_fl"}, channel=channel), digits)
    rounds, cohort = 4000, tuple(range(6))
    link, side = world.radio.link(cohort, 1), world.radio.side_channel
    samples = [1] * 6
    came = np.array([world.radio.told(link, world.radio.fades(cohort, t), samples) for t in range(1, rounds + 1)])
    chance = side.success(link)
    assert ((chance > 0.02) & (chance < 0.98)).sum() >= 2
    np.testing.assert_allclose(came.mean(0), chance, atol=4 * 0.5 / np.sqrt(rounds))


def test_each_packet_agrees_with_shannons_formula(small_config, digits):
    channel = LOSSY | {"side_share": 0.3, "side_power_dbm": 5.0, "snr_gap_db": 2.0}
    world = World.build(small_config(scheme={"name": "sp_fl"}, channel=channel), digits)
    radio, cohort = world.radio, tuple(range(6))
    link, seconds = radio.link(cohort, 1), 0.3 * radio.tau_s
    cell = {"bandwidth_hz": link.bandwidth_hz, "devices": 6, "power_w": 10**0.5 / 1e3, "gain": link.gain}
    cell |= {"noise": link.noise_w_per_hz, "gap": 10**0.2, "time_s": seconds}
    arrived = 0
    for t in range(1, 60):
        fades = radio.fades(cohort, t)
        wanted = [side_packet_arrives(world.format.side_bits, k, fades[0][k], cell) for k in cohort]
        assert radio.told(link, fades, [1] * 6).tolist() == wanted
        arrived += sum(wanted)
    assert 0 < arrived < 59 * 6
    load = world.format.side_bits / (link.bandwidth_hz * seconds)
    noise = 10**0.2 * link.bandwidth_hz * link.noise_w_per_hz / (10**0.5 / 1e3 * link.gain)
    wanted = [outage_exponent(load, 1 / 6, 1.0, one) for one in noise]
    np.testing.assert_allclose(radio.side_channel.exponent(link), wanted, rtol=1e-9)


def test_bits_time_and_energy_are_counted(small_config, digits):
    device = {"cycles_per_sample": 0.0}
    configs = [
        small_config(scheme={"name": "sp_fl_uniform"}, device=device, channel=LOSSY | more)
        for more in ({"side_share": 0.25, "side_power_dbm": 20.0}, {"side_information": "reliable"})
    ]
    (lossy, *_), (reliable, *_) = (list(training.run(config, digits)) for config in configs)
    world = World.build(configs[0], digits)
    tau_s, power_w = world.radio.tau_s, 1e-2
    assert lossy.side_bits == reliable.side_bits + 6 * HEADER_BITS
    assert lossy.payload_bits == reliable.payload_bits
    assert 0 <= lossy.side_received <= 6
    assert reliable.side_received is None
    np.testing.assert_allclose(world.radio.link(range(6), 1).tau_s, 0.75 * tau_s)
    np.testing.assert_allclose(reliable.spent.joules, power_w * tau_s)
    np.testing.assert_allclose(lossy.spent.joules, power_w * 0.75 * tau_s + 0.1 * 0.25 * tau_s)
    assert lossy.spent.round_s == pytest.approx(reliable.spent.round_s) == pytest.approx(tau_s)
    np.testing.assert_allclose(link_budget(world).joules, lossy.spent.joules)


# --- without it ---------------------------------------------------------------------------------------------


def test_the_server_knows_what_each_device_told_last(small_config, digits):
    """Over a run: the floats that the allocator takes, against a twin that keeps a dictionary."""
    config = small_config(scheme={"name": "sp_fl"}, channel=LOSSY | {"side_share": 0.3}, training={"rounds": 12})
    world, rounds, lost = World.build(config, digits), [], 0
    server = world.start()
    with training.open_fleet(world) as fleet:
        for t in range(1, 13):
            sent, _ = fleet.uploads(server, world.cohort(t), t)
            plan = training.prepare(world, server, sent, t, training.Stopwatch())
            rounds.append({u.device: u.v2 if came else None for u, came in zip(sent, plan.told, strict=True)})
            known, lost = last_told(rounds), lost + int((~plan.told).sum())
            others = np.mean(list(known.values())) if known else 1.0
            wanted = [known.get(u.device, others) for u in sent]
            np.testing.assert_allclose(plan.devices.v2, wanted, rtol=1e-6)
            server = training.complete(world, server, plan, training.Stopwatch()).server
    assert 0 < lost < 12 * 6


def test_a_sign_without_its_scale_is_taken_at_the_last_one_or_not_at_all():
    form = form_of("sign_mean")
    first, second = uploads(form, 1), uploads(form, 2)
    state = keep_side(form, 1, first, np.array([True, False, True]), {})
    told = np.array([False, False, True])
    heard = heard_uploads(form, second, told, state)
    np.testing.assert_array_equal(heard[0].tensor_means, first[0].tensor_means)
    assert np.isnan(heard[1].tensor_means).all()
    np.testing.assert_array_equal(heard[2].tensor_means, second[2].tensor_means)
    everyone = np.ones(3, bool)

    class Allocation:
        q_s, r_m, bits = np.ones(3), np.ones(3), None

    def update(arrived, told):
        return receive(form, Arrived(2, arrived, Outcome(everyone, ~everyone), Allocation(), told), state)

    found = update(heard, told)
    assert found.rejected == 1
    assert np.isfinite(found.gradient).all()
    without = [replace(u, samples=u.samples) for u in heard]
    without[1] = replace(heard[1], tensor_means=second[1].tensor_means)
    assert update(without, told).rejected == 0


def test_what_was_lost_is_not_looked_at():
    """Forged floats of a device that did not tell leave allocation and update as they are."""
    form = form_of("sp_fl_plus_1")
    first, second = uploads(form, 1), uploads(form, 2)
    state = keep_side(form, 1, first, np.ones(3, bool), {})
    told = np.array([True, False, True])
    forged = list(second)
    forged[1] = replace(
        second[1], v2=9.0, tensor_means=9 * second[1].tensor_means, output_bias=9 * second[1].output_bias
    )
    a, b = (known_uploads(form, sent, state, told) for sent in (second, forged))
    assert [u.v2 for u in a] == [u.v2 for u in b]
    a, b = (heard_uploads(form, sent, told, state) for sent in (second, forged))
    for u, v in zip(a, b, strict=True):
        np.testing.assert_array_equal(u.tensor_means, v.tensor_means)
        np.testing.assert_array_equal(u.output_bias, v.output_bias)
    kept = keep_side(form, 2, second, told, state)
    assert kept[side_key(1)][0] == 1
    assert kept[side_key(0)][0] == 2


@pytest.mark.parametrize(
    "name",
    ["sp_fl", "sp_fl_plus_1", "sp_fl_plus", "majority_vote", "drive", "single_packet", "error_free", "analog_mean"],
)
def test_runs_learn_continue_and_do_not_depend_on_workers(name, small_config, digits):
    sections = {"scheme": {"name": name}, "channel": LOSSY | {"side_share": 0.3}, "training": {"rounds": 6}}
    config = small_config(**sections)
    world = World.build(config, digits)
    records = list(training.train(world))
    again = list(training.train(world, records[2].server))
    np.testing.assert_array_equal(records[-1].server.weights, again[-1].server.weights)
    threads = list(training.run(small_config(workers=2, **sections), digits))
    np.testing.assert_array_equal(records[-1].server.weights, threads[-1].server.weights)
    received = [record.side_received for record in records]
    if name in ("error_free", "analog_mean"):
        assert set(received) == {None}
    else:
        assert 0 < sum(received) < 6 * 6


def test_processes_give_the_same_weights(small_config, digits):
    config = small_config(scheme={"name": "sp_fl_plus_1"}, channel=LOSSY)
    several = build_config(config.model_dump() | {"processes": 2, "workers": 2})
    one, two = (list(training.run(c, digits))[-1].server.weights for c in (config, several))
    np.testing.assert_array_equal(one, two)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"channel": {"side_share": 0.1}}, "side_share needs side_information = lossy, got 0.1"),
        ({"channel": {"side_power_dbm": 3}}, "side_power_dbm needs side_information = lossy, got 3"),
        ({"channel": LOSSY | {"fading": "independent"}}, "fading must be block, rician, nakagami or lognormal"),
        ({"channel": LOSSY | {"fading": "selective"}}, "fading must be block, rician, nakagami or lognormal"),
        ({"channel": LOSSY | {"link": "bler"}}, "link must be outage or gap with side_information = lossy, got bler"),
        ({"channel": LOSSY | {"link": "uncoded"}}, "link must be outage or gap with side_information = lossy"),
        ({"channel": LOSSY | {"model": "trace"}}, "model must have no recorded links with side_information = lossy"),
        ({"channel": LOSSY | {"side_share": 1.0}}, "side_share"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(sections, message):
    with pytest.raises(ConfigError, match=message) as refused:
        build_config(sections)
    assert "\n" not in str(refused.value)
