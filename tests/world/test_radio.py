"""TR 38.901 drops, missed broadcasts, measured links: against formulas by hand, twins and Sionna itself."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from spfl.cli import commands as cli
from spfl.errors import ConfigError
from spfl.radio import sionna as door
from spfl.radio import tr38901 as drops
from spfl.radio.coded import block_error_rate, calibrate, fit, gap_table, measured_curves, simulate
from spfl.radio.downlink import PREFIX, Broadcast, LastHeard, keep_models, misses
from spfl.radio.nr_blocks import SNR_DB, _abstraction, transport_curves
from spfl.radio.outage import outage_exponent
from spfl.radio.selective import Packet, RadioLaw
from spfl.radio.tr38901 import CellSite, drop_gains
from spfl.training import run
from spfl.world.world import World
from stats import assert_mean, assert_proportion

SITE = CellSite("umi", 3.5e9, None, 1.5, 0.0)

# --- noise -----------------------------------------------------------------------------------------------------------


def world_of(digits, small_config, **channel):
    return World.build(small_config(channel=channel), digits)


def test_the_noise_figure_raises_the_noise_of_the_uplink(digits, small_config):
    quiet, loud = (world_of(digits, small_config, median_snr_db=None, noise_figure_db=f) for f in (0.0, 7.0))
    np.testing.assert_allclose(
        loud.radio.link(range(6), 1).noise_w_per_hz, 10**0.7 * quiet.radio.link(range(6), 1).noise_w_per_hz
    )
    np.testing.assert_array_equal(loud.radio.cell(1).gain, quiet.radio.cell(1).gain)


def test_a_median_snr_is_behind_the_receiver(digits, small_config):
    """The gains make up for its noise figure, so the uplink stays as it was."""
    quiet, loud = (world_of(digits, small_config, median_snr_db=3.0, noise_figure_db=f) for f in (0.0, 7.0))
    for world in (quiet, loud):
        snr = (
            world.radio.link(range(6), 1).gain
            * world.radio.link(range(6), 1).power_w
            / world.radio.link(range(6), 1).noise_w_per_hz
        )
        assert np.median(snr) / (10e6 / 6) == pytest.approx(10**0.3)


def test_the_noise_figure_of_devices_is_that_of_the_broadcast(digits, small_config):
    """Seven decibel of noise are seven decibel of power less."""
    start = world_of(digits, small_config).start()

    def received(**channel):
        world = world_of(digits, small_config, downlink="sit_out", **channel)
        return [[m is not None for m in world.models(start, range(6), round_)] for round_ in range(1, 9)]

    loud = received(downlink_power_dbm=12.0, downlink_noise_figure_db=7.0)
    assert loud == received(downlink_power_dbm=5.0)
    assert loud != received(downlink_power_dbm=12.0)


# --- drops -----------------------------------------------------------------------------------------------------------


def umi_loss_db(distance_2d, sight, carrier_ghz=3.5, bs=10.0, ut=1.5):
    """Table 7.4.1-1 of TR 38.901, UMi street canyon."""
    d3 = math.hypot(distance_2d, bs - ut)
    corner = 4 * (bs - 1) * (ut - 1) * carrier_ghz * 1e9 / 299792458.0
    near = 32.4 + 21 * math.log10(d3) + 20 * math.log10(carrier_ghz)
    far = 32.4 + 40 * math.log10(d3) + 20 * math.log10(carrier_ghz) - 9.5 * math.log10(corner**2 + (bs - ut) ** 2)
    los = near if distance_2d < corner else far
    return los if sight else max(los, 22.4 + 35.3 * math.log10(d3) + 21.3 * math.log10(carrier_ghz))


def test_umi_gains_have_the_mean_of_the_standard():
    """8 drops of 60 devices at 100 m: path loss by the table, sight by its probability, shadowing of mean 0.

    Shadowing is correlated over some 10 m, a ring has 628 m: hence the tolerance.
    """
    distance = np.full(60, 100.0)
    loss_db = np.concatenate([-10 * np.log10(drop_gains(SITE, distance, s, 1)) for s in range(8)])
    sight = 18 / 100 + math.exp(-100 / 36) * (1 - 18 / 100)
    expected = sight * umi_loss_db(100, True) + (1 - sight) * umi_loss_db(100, False)
    assert loss_db.mean() == pytest.approx(expected, abs=2.0)
    assert 4.0 < loss_db.std() < 16.0


def test_umi_path_loss_is_that_of_the_table(monkeypatch):
    """With the shadowing taken out, every device has the loss of one of the two states, to 0.01 dB."""
    real = drops._channel

    def without_shadowing(model, carrier_hz):
        channel = real(model, carrier_hz)
        sample = channel.sample_lsp

        def lsp():
            drawn = sample()
            drawn.sf = drawn.sf * 0 + 1
            return drawn

        channel.sample_lsp = lsp
        return channel

    monkeypatch.setattr(drops, "_channel", without_shadowing)
    distance = np.linspace(30.5, 480.5, 120)
    loss_db = -10 * np.log10(drop_gains(SITE, distance, 77, 1))
    table = np.array([[umi_loss_db(d, sight) for sight in (True, False)] for d in distance])
    off = np.abs(loss_db[:, None] - table)
    assert off.min(1).max() < 0.01
    in_sight = off.argmin(1) == 0
    chance = np.where(distance <= 18, 1.0, 18 / distance + np.exp(-distance / 36) * (1 - 18 / distance))
    assert abs(in_sight.sum() - chance.sum()) < 5 * math.sqrt((chance * (1 - chance)).sum())


@pytest.mark.parametrize("model", ["umi", "uma", "rma"])
def test_drops_are_functions_of_seed_and_round(model):
    site, distance = replace(SITE, model=model), np.linspace(40, 400, 10)
    first = drop_gains(site, distance, 0, 1)
    drop_gains(site, distance, 0, 2)
    from spfl.radio.tr38901 import _drop

    _drop.cache_clear()
    assert drop_gains(site, distance, 0, 1).tolist() == first.tolist()
    assert drop_gains(site, distance, 0, 2).tolist() != first.tolist()


def test_indoors_is_worse():
    distance = np.linspace(40, 400, 60)
    out, indoors = (drop_gains(replace(SITE, model="uma", indoor_share=s), distance, 0, 1) for s in (0.0, 1.0))
    assert np.median(10 * np.log10(out / indoors)) > 8.0


def test_a_run_in_a_standard_cell(small_config, digits):
    config = small_config(channel={"model": "umi", "indoor_share": 0.5, "median_snr_db": 6.0})
    worlds = [World.build(config, digits) for _ in range(2)]
    assert worlds[0].radio.cell(1).gain.tolist() == worlds[1].radio.cell(1).gain.tolist()
    assert (
        worlds[0].radio.cell(1).distance_m.tolist()
        == World.build(small_config(), digits).radio.cell(1).distance_m.tolist()
    )
    assert len(list(run(config, digits))) == 2


def test_without_sionna_one_clear_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sionna", None)
    monkeypatch.setitem(sys.modules, "sionna.phy", None)
    monkeypatch.setattr(door.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"spfl\[sionna\]"):
        drop_gains(SITE, np.array([77.7]), 0, 1)
    with pytest.raises(ConfigError, match=r"spfl\[sionna\]"):
        transport_curves(12345)
    monkeypatch.setattr(sys, "argv", ["spfl", "radio", "calibrate", "--out", str(tmp_path / "t.json")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "spfl[sionna]" in error


def absent(name):
    raise ModuleNotFoundError(f"No module named '{name}'", name=name)


# --- the broadcast ---------------------------------------------------------------------------------------------------

CELL = Broadcast(bits=1e6, bandwidth_hz=1e6, tau_s=1.0, power_w=1.0, noise_w_per_hz=1e-18)


def test_broadcasts_are_missed_as_often_as_the_outage_says():
    gain = np.array([1e-12, 3e-12, 1e-10])
    found = np.array([misses(CELL, gain, 0, t) for t in range(1, 4001)])
    x = outage_exponent(1.0, 1.0, 1.0, 1e-12 / gain)
    assert_proportion(found, -np.expm1(-x))
    with pytest.raises(AssertionError):
        assert_proportion(found, -np.expm1(-1.2 * x))


def test_last_heard_and_the_models_that_are_kept():
    missed = {2: [0, 1, 0], 3: [1, 1, 0], 4: [0, 1, 1], 5: [1, 0, 1]}
    last = LastHeard(3, lambda t: np.array(missed[t], bool))
    expected = {1: [1, 1, 1], 2: [2, 1, 2], 3: [2, 1, 3], 4: [4, 1, 3], 5: [4, 5, 3]}
    assert {t: last.at(t).tolist() for t in (5, 2, 4, 1, 3)} == {t: expected[t] for t in (5, 2, 4, 1, 3)}
    memory, vector = {"other": np.zeros(1)}, lambda t: np.full(2, t, np.float32)
    for t in range(1, 6):
        memory = keep_models(memory, last.at(t), t, vector(t))
    assert sorted(memory) == [f"{PREFIX}{t}" for t in (3, 4, 5)] + ["other"]
    assert memory[f"{PREFIX}3"].tolist() == [3, 3]


def lossy(downlink):
    """Power of the base station at which about half of the broadcasts are missed."""
    return {"downlink": downlink, "downlink_power_dbm": 12.0, "fading": "block"}


@pytest.mark.parametrize("downlink", ["stale", "sit_out"])
def test_missed_broadcasts_resume_to_the_same_bits(downlink, small_config, digits):
    config = small_config(channel=lossy(downlink), training={"rounds": 5})
    whole = list(run(config, digits))
    assert list(run(config, digits, start=whole[2].server))[-1].server.weights.tobytes() == (
        whole[-1].server.weights.tobytes()
    )
    world = World.build(config, digits)
    missed = [np.mean(world._last_heard.at(t) < t) for t in range(2, 6)]
    assert 0.1 < np.mean(missed) < 0.95
    perfect = list(run(small_config(training={"rounds": 5}), digits))
    assert perfect[-1].server.weights.tobytes() != whole[-1].server.weights.tobytes()


def test_a_stale_device_trains_on_the_model_it_heard(small_config, digits):
    world = World.build(small_config(channel=lossy("stale"), training={"rounds": 5}), digits)
    starts = {1: world.start()} | {r.round_ + 1: r.server for r in run(world.config, digits)}
    for t in range(1, 6):
        models = world.models(starts[t], range(6), t)
        for k, model in enumerate(models):
            assert model.tolist() == starts[int(world._last_heard.at(t)[k])].weights.tolist()


def test_a_device_that_sits_out_is_not_heard(small_config, digits):
    config = small_config(channel=lossy("sit_out") | {"median_snr_db": 60.0}, training={"rounds": 4})
    config = config.model_copy(update={"channel": config.channel.model_copy(update={"downlink_power_dbm": -45.0})})
    world, seen = World.build(config, digits), 0
    for record in run(config, digits):
        last = world._last_heard.at(record.round_)
        assert ((record.allocation.cost > 0) == (last == record.round_)).all()  # no weight, so no cost
        seen += int((last < record.round_).sum())
    assert seen > 0


# --- measured links --------------------------------------------------------------------------------------------------


def test_the_committed_table():
    """Gaps in the range that the literature gives for such codes, known well enough, near the fit."""
    table, curves = gap_table(), measured_curves()
    rates = sorted(row["rate"] for row in table["curves"])
    assert rates == pytest.approx([curve.rate for curve in curves], abs=1e-3)
    for row, curve in zip(sorted(table["curves"], key=lambda r: r["rate"]), curves, strict=True):
        assert 10 * np.log10(curve.gap) == pytest.approx(row["gap_db"], abs=5e-3)
        assert 0.5 < row["gap_db"] < 4.0
        assert row["gap_db_standard_error"] < 0.15
        assert (curve.bler[0], curve.bler[-1]) == (1.0, 0.0)
    assert fit(list(curves)) == pytest.approx((table["snr_gap"], table["gap_slope"]), rel=1e-3)
    residual = [10 * np.log10(c.gap) - 10 * np.log10(table["snr_gap"] * np.exp(table["gap_slope"] * c.rate))
                for c in curves]  # fmt: skip
    assert np.abs(residual).max() < 1.0


@pytest.mark.slow
def test_a_simulated_point_lies_on_the_committed_curve():
    """A few blocks of QPSK 1/2, with another seed."""
    again = simulate(2, 0.5, info_bits=500, blocks=60, iterations=20, seed=7)
    stored = block_error_rate(np.full(again.snr.size, 1.0), again.snr)
    error = np.sqrt(np.maximum(stored * (1 - stored), 0.02) * (1 / 60 + 1 / 200))
    assert (np.abs(again.bler - stored) <= 5 * error + 0.02).all()


def test_block_error_rates_take_the_least_scheme_that_carries_the_rate():
    curves = measured_curves()
    snr = curves[2].snr
    assert block_error_rate(np.full(snr.size, curves[2].rate), snr) == pytest.approx(curves[2].bler)
    assert block_error_rate(np.full(snr.size, curves[2].rate - 1e-9), snr) == pytest.approx(curves[2].bler)
    assert block_error_rate(np.array([curves[-1].rate + 1e-6]), np.array([1e9])).tolist() == [1.0]
    assert block_error_rate(np.array([0.01]), np.array([0.0, 1e9])).tolist() == [1.0, 0.0]


def test_the_gap_is_the_high_snr_outage_of_the_measured_curve():
    """E[BLER(S g)] over g ~ Exp(1) against 1 - exp(-Gamma (2^R - 1) / S)."""
    law = RadioLaw(curves=(block_error_rate, block_error_rate))
    for curve in measured_curves():
        snr = 20.0 * (2**curve.rate - 1)
        failed = 1.0 - law.segment_success(Packet(np.array([curve.rate]), np.array([snr]), block_error_rate))[0]
        assert failed == pytest.approx(-math.expm1(-curve.gap * (2**curve.rate - 1) / snr), rel=0.02)


@pytest.mark.parametrize("bits", [30, 700, 2000, 34138])
def test_transport_blocks_fail_as_often_as_sionna_says(bits):
    """Against a full call of `PHYAbstraction`, which takes coded bits and an effective SINR."""
    import torch

    curves, phy = transport_curves(bits), _abstraction()
    schemes = sorted(phy.bler_table["category"][0]["index"][1]["MCS"])
    order, code_rate = door.sionna("nr.utils").decode_mcs_index(torch.tensor(schemes), 1, is_pusch=True)
    elements = torch.ceil(bits / code_rate / order).int()
    seen = np.zeros(len(schemes), bool)
    for level_db in np.arange(-4.9, 29.0, 1.3):
        level = torch.full((len(schemes),), 10.0 ** (level_db / 10.0))
        tbler = phy(torch.tensor(schemes).int(), sinr_eff=level, num_allocated_re=elements)[3].double().numpy()
        own = np.array([np.interp(level_db, SNR_DB, row) for row in curves.tbler])
        ascending = np.argsort((order * code_rate).numpy(), kind="stable")
        assert own == pytest.approx(np.minimum(tbler[ascending], 1.0), abs=1e-6)
        seen |= (tbler > 0.01) & (tbler < 0.99)
    assert seen.mean() > 0.5  # not only where all or nothing arrives


def test_a_packet_takes_the_least_mcs_that_carries_its_rate():
    curves = transport_curves(2000)
    assert (np.diff(curves.rates) >= 0).all()
    for scheme in (0, 4, 24):
        assert curves(curves.rates[scheme] - 1e-6, 10.0 ** (SNR_DB / 10)) == pytest.approx(curves.tbler[scheme])
    assert curves(np.array([curves.rates[-1] + 1e-6, 0.1]), np.array([1e9, 0.0])).tolist() == [1.0, 1.0]


def test_longer_packets_have_more_blocks_to_lose():
    short, long = (transport_curves(bits).tbler for bits in (2000, 100000))
    assert (long >= short - 1e-9).all()
    assert (long > short + 0.1).any()


@pytest.mark.parametrize("fading", ["block", "independent", "selective", "sionna"])
def test_bler_draws_have_the_probabilities_told(fading, small_config, digits):
    option = {"bler_curves": "sionna"} if fading == "sionna" else {"fading": fading}
    config = small_config(channel={"link": "bler"} | option, scheme={"name": "sp_fl_uniform"})
    world, record = World.build(config, digits), next(run(config, digits))
    a, link = record.allocation, world.radio.link(record.cohort, 1)
    shares, rng = (a.beta, a.alpha, a.rho), np.random.default_rng(0)
    outcomes = [
        world.radio.law.transmit(link, shares, world.radio.fades(world.cohort(t), t), rng) for t in range(1, 3001)
    ]
    assert_proportion(np.array([o.sign for o in outcomes]), a.q_s)
    assert_proportion(np.array([o.modulus for o in outcomes]), a.q_s * a.r_m)


def test_gap_links_allocate_with_the_measured_gap(small_config, digits):
    gap, ideal = (
        next(run(small_config(channel={"link": link}, scheme={"name": "sp_fl_uniform"}), digits))
        for link in ("gap", "outage")
    )
    rate = World.build(small_config(), digits).radio.link(range(6), 1).sign_load * 6
    table = gap_table()
    ratio = np.log(gap.allocation.q_s) / np.log(ideal.allocation.q_s)
    split = World.build(small_config(), digits).radio.link(range(6), 1).split
    assert ratio == pytest.approx(table["snr_gap"] * np.exp(table["gap_slope"] * rate / split))


def test_calibrate_writes_its_command(monkeypatch):
    from spfl.radio import coded as module

    monkeypatch.setattr(module, "SCHEMES", ((2, 0.5),))
    monkeypatch.setattr(module, "STEP_DB", 2.0)
    table = calibrate(100, 10, 5, 3)
    assert json.dumps(table)
    assert table["command"] == "spfl radio calibrate --info-bits 100 --blocks 10 --iterations 5 --seed 3"
    assert 0.0 < table["curves"][0]["gap_db"] < 6.0


def test_mean_of_sit_outs_is_not_biased_by_the_fade(small_config, digits):
    """Uplink and downlink fades are independent."""
    world = World.build(small_config(channel=lossy("stale")), digits)
    up = np.array([world.radio.fades(world.cohort(t), t)[0] for t in range(2, 2002)])
    down = np.array([world._last_heard.at(t) == t for t in range(2, 2002)])
    assert_mean(((up - 1.0) * (down - down.mean(0))), 0.0)
