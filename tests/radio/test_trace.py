"""Recorded links: what a trace says is what a run receives, success is its shares, and a bad file is one line."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from spfl import training
from spfl.cli import commands as cli
from spfl.errors import ConfigError, RunFolderError
from spfl.own_code import source_digest
from spfl.radio.trace import read_trace
from spfl.runs.experiment import run_experiment
from spfl.runs.link_traces import gains_table, outcomes_table, write_trace
from spfl.world.world import World
from stats import assert_proportion

ROUNDS = 30


def write(path, **columns):
    write_trace(path, pa.table(columns))
    return str(path)


def every(rounds, devices):
    return {
        "round": np.repeat(np.arange(1, rounds + 1), devices).tolist(),
        "device": list(range(devices)) * rounds,
    }


def traced(small_config, path, channel=None, end="refuse", **sections):
    channel = {"model": "trace", "median_snr_db": None} | (channel or {})
    return small_config(channel=channel, trace={"path": str(path), "end": end}, **sections)


def outcomes(config, digits):
    records = list(training.run(config, digits))
    return records, np.array([[r.outcome.sign, r.outcome.modulus] for r in records])


# --- a trace drives a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("scheme", ["sp_fl_plus_1", "sp_fl_normalized", "single_packet", "majority_vote"])
def test_a_trace_of_a_run_drives_a_run_to_the_same_outcomes(scheme, suffix, tmp_path, small_config, digits):
    config = small_config(training={"rounds": ROUNDS}, scheme={"name": scheme})
    run_experiment(config, digits, tmp_path / "run")
    write_trace(tmp_path / f"t.{suffix}", outcomes_table(tmp_path / "run"))
    path = tmp_path / f"t.{suffix}"
    _, before = outcomes(config, digits)
    assert 0.1 < before.mean() < 0.95
    records, again = outcomes(traced(small_config, path, training={"rounds": ROUNDS}, scheme={"name": scheme}), digits)
    assert (again == before).all()
    granted = records[0].allocation.beta > 0
    assert records[0].allocation.q_s[granted] == pytest.approx(before[:, 0].mean(0)[granted])
    _, other = outcomes(
        traced(small_config, path, training={"rounds": ROUNDS}, scheme={"name": scheme}, seed=7), digits
    )
    assert (other == before).all()  # whatever the seed


@pytest.mark.parametrize("fading", ["block", "rician"])
def test_gains_of_a_configuration_drive_a_run_to_the_same_outcomes(fading, tmp_path, small_config, digits):
    """Equal shares, which do not depend on what the allocator believes of the mean gains."""
    sections = {"training": {"rounds": ROUNDS}, "scheme": {"name": "sp_fl_uniform"}}
    config = small_config(channel={"fading": fading}, **sections)
    write_trace(tmp_path / "gains.csv", gains_table(World.build(config, digits)))
    _, before = outcomes(config, digits)
    records, again = outcomes(traced(small_config, tmp_path / "gains.csv", **sections), digits)
    assert (again == before).all()
    assert records[0].allocation.q_s == pytest.approx(before[:, 0].mean(0))  # the shares of the trace
    assert records[0].allocation.q_s * records[0].allocation.r_m == pytest.approx(before[:, 1].mean(0))


def test_loss_rates_lose_packets_by_chance(tmp_path, small_config, digits):
    loss, second = [0.0, 0.1, 0.3, 0.5, 0.8, 1.0], [0.5] * 6
    path = write(tmp_path / "loss.csv", device=list(range(6)), sign_loss=loss, modulus_loss=second)
    config = traced(small_config, path, training={"rounds": 400, "eval_every": 400}, scheme={"name": "sp_fl_uniform"})
    records, found = outcomes(config, digits)
    assert_proportion(found[:, 0], 1.0 - np.array(loss))
    assert_proportion(found[:, 1], 0.5 * (1.0 - np.array(loss)))
    with pytest.raises(AssertionError):
        assert_proportion(found[:, 0], np.clip(0.9 - np.array(loss), 0.0, 1.0))
    assert records[0].allocation.q_s == pytest.approx(1.0 - np.array(loss))


def test_the_allocator_knows_the_rates_by_gains(tmp_path, small_config, digits):
    """On an equal share the closed form has the recorded rate."""
    rate = np.array([0.9, 0.2, 0.5, 0.7, 0.4, 0.6])
    path = write(tmp_path / "l.csv", device=list(range(6)), sign_loss=(1 - rate).tolist(), modulus_loss=[0.5] * 6)
    from spfl.radio.outage import success

    radio = World.build(traced(small_config, path, scheme={"name": "sp_fl_plus_1"}), digits).radio
    link = radio.link(range(6), 1)
    assert success(link, 1 / 6, link.split).q_s == pytest.approx(rate)
    assert (np.diff(radio.cell(1).gain[np.argsort(rate)]) > 0).all()


@pytest.mark.parametrize("scheme", ["sp_fl", "sp_fl_plus_1", "error_free", "top_k", "schedule_channel", "retransmit"])
def test_schemes_learn_over_recorded_gains(scheme, tmp_path, small_config, digits):
    rng = np.random.default_rng(0)
    gains = (-115 + 4 * rng.standard_normal(8 * 6)).tolist()
    path = write(tmp_path / "g.parquet", **every(8, 6), gain_db=gains)
    channel = {"median_snr_db": 10.0}
    records, _ = outcomes(traced(small_config, path, channel, training={"rounds": 8}, scheme={"name": scheme}), digits)
    assert np.isfinite(records[-1].test_loss)


def test_after_its_end_a_trace_is_refused_or_begins_again(tmp_path, small_config, digits):
    rng = np.random.default_rng(1)
    sign = rng.integers(0, 2, 3 * 6)
    path = write(tmp_path / "t.csv", **every(3, 6), sign_received=sign.tolist(), modulus_received=sign.tolist())
    with pytest.raises(ConfigError, match=r"training.rounds must be <= 3, the rounds of trace .*, got 7"):
        list(training.run(traced(small_config, path, training={"rounds": 7}), digits))
    config = traced(small_config, path, end="repeat", training={"rounds": 7}, scheme={"name": "sp_fl_uniform"})
    _, found = outcomes(config, digits)
    assert (found[:, 0] == sign.reshape(3, 6)[[0, 1, 2, 0, 1, 2, 0]]).all()


def test_a_cohort_needs_its_own_rows_only(tmp_path, small_config, digits):
    sections = {"training": {"rounds": 5}, "data": {"cohort_size": 3}, "scheme": {"name": "sp_fl_uniform"}}
    config = small_config(**sections)
    run_experiment(config, digits, tmp_path / "run")
    table = outcomes_table(tmp_path / "run")
    assert table.num_rows == 15
    write_trace(tmp_path / "t.csv", table)
    _, before = outcomes(config, digits)
    _, again = outcomes(traced(small_config, tmp_path / "t.csv", **sections), digits)
    assert (again == before).all()
    write_trace(tmp_path / "t.csv", table.slice(1))
    with pytest.raises(ConfigError, match=r"has no row of device \d in round 1"):
        list(training.run(traced(small_config, tmp_path / "t.csv", **sections), digits))


# --- bad files -------------------------------------------------------------------------------------------------------

GOOD = every(2, 2) | {"gain_db": [-90.0, -91.0, -92.0, -93.0]}
BAD = {
    "columns": ({"round": [1], "device": [0], "gain": [1.0]}, "must have the columns"),
    "missing round": (GOOD | {"round": [1, 1, 3, 3]}, r"round 2 is missing; rounds must be 1\.\.3 without a gap"),
    "round zero": (GOOD | {"round": [0, 0, 1, 1]}, "round must be a whole number .* got 0 in row 1"),
    "twice": (GOOD | {"device": [0, 0, 0, 1]}, "round 1, device 0 is there twice"),
    "unknown device": (GOOD | {"device": [0, 1, 0, 2]}, r"device must be .* 0\.\.1 .* got 2 in row 4"),
    "half a device": (GOOD | {"device": [0, 0.5, 0, 1]}, "device must be a whole number"),
    "nan": (GOOD | {"gain_db": [1.0, np.nan, 1.0, 1.0]}, "gain_db is missing or not finite in row 2"),
    "null": (GOOD | {"gain_db": [1.0, 1.0, None, 1.0]}, "gain_db is missing or not finite in row 3"),
    "beyond": (GOOD | {"gain_db": [1.0, 1.0, 1.0, 1e9]}, r"gain_db must be in \[-400, 400\], got 1e\+09 in row 4"),
    "words": (GOOD | {"gain_db": ["a", "b", "c", "d"]}, "gain_db must be numbers, got string"),
    "a third outcome": (
        every(1, 2) | {"sign_received": [1, 2], "modulus_received": [0, 1]}, "sign_received must be 0 or 1, got 2"
    ),
    "loss above one": ({"device": [0, 1], "sign_loss": [0.1, 1.1], "modulus_loss": [0, 0]}, "sign_loss must be in"),
    "device twice": ({"device": [0, 0], "sign_loss": [0.1, 0.1], "modulus_loss": [0, 0]}, "device 0 is there twice"),
    "no rows": ({"round": [], "device": [], "gain_db": []}, "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_one_line(name, suffix, tmp_path):
    columns, message = BAD[name]
    path = tmp_path / f"bad.{suffix}"
    (csv.write_csv if suffix == "csv" else parquet.write_table)(pa.table(columns), path)
    with pytest.raises(ConfigError, match=message) as error:
        read_trace(str(path), source_digest(str(path)), 2)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"round,device\n1", b"PAR1PAR1"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_is_no_table_is_one_line(content, suffix, tmp_path):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="trace") as error:
        read_trace(str(path), source_digest(str(path)), 2)
    assert "\n" not in str(error.value)


def test_a_trace_that_changes_under_a_run_is_found(tmp_path, small_config, digits):
    path = write(tmp_path / "t.csv", **every(2, 6), gain_db=[-90.0] * 12)
    config = traced(small_config, path)
    write(tmp_path / "t.csv", **every(2, 6), gain_db=[-91.0] * 12)
    with pytest.raises(ConfigError, match="was changed: its SHA-256 is"):
        list(training.run(config, digits))


@pytest.mark.parametrize(
    ("channel", "scheme", "message"),
    [
        ({"fading": "independent"}, "sp_fl", "fading must be block with model = trace"),
        ({"gains_db": [0.0] * 6}, "sp_fl", "gains_db must be absent"),
        ({"drop": "per_round"}, "sp_fl", "drop must be fixed"),
        ({"segment_bits": 512}, "sp_fl", "segment_bits must be absent"),
        ({"link": "bler"}, "sp_fl", "link must be outage or gap"),
        ({"model": "macro"}, "sp_fl", "go together"),
        ({}, "over_the_air", "is not for over_the_air"),
        ({}, "harq", "is not for harq"),
    ],
)
def test_what_a_trace_cannot_serve_is_refused(channel, scheme, message, tmp_path, small_config, digits):
    path = write(tmp_path / "t.csv", **every(2, 6), gain_db=[-90.0] * 12)
    with pytest.raises(ConfigError, match=message):
        list(training.run(traced(small_config, path, channel, scheme={"name": scheme}), digits))


def test_a_trace_without_a_file_and_a_file_that_is_not_there(small_config, tmp_path):
    with pytest.raises(ConfigError, match=r"channel.model = trace and trace.path go together"):
        small_config(channel={"model": "trace"})
    with pytest.raises(ConfigError, match="cannot be read"):
        traced(small_config, tmp_path / "none.csv")
    (tmp_path / "t.txt").write_text("round,device,gain_db\n1,0,0\n")
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.parquet"):
        traced(small_config, tmp_path / "t.txt")


def test_outcomes_know_no_snr_and_no_fades(tmp_path, small_config, digits):
    path = write(tmp_path / "t.csv", **every(2, 6), sign_received=[1] * 12, modulus_received=[1] * 12)
    with pytest.raises(ConfigError, match="median_snr_db must be absent"):
        list(training.run(traced(small_config, path, {"median_snr_db": 3.0}), digits))
    with pytest.raises(ConfigError, match="a trace of outcomes is not for"):
        list(training.run(traced(small_config, path, scheme={"name": "schedule_channel"}), digits))


# --- the command -----------------------------------------------------------------------------------------------------


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["spfl", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "radio", "trace", "--out", "t.txt") == 2
    assert command(monkeypatch, "radio", "trace", "--from", "nowhere", "--out", "t.csv") == 2
    assert command(monkeypatch, "radio", "trace", "--set", "channel.fading=independent") == 2
    assert command(monkeypatch, "radio", "trace", "--from", "nowhere", "--set", "seed=1") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_has_a_trace_too(tmp_path, small_config, digits):
    from small_runs import stopped_run

    stopped_run(digits, tmp_path / "run", 7)
    table = outcomes_table(tmp_path / "run")
    assert set(table.column("round").to_pylist()) == {1, 2, 3, 4, 5, 6}
    with pytest.raises(RunFolderError, match="no round was written"):
        outcomes_table(tmp_path)
