"""Run folders: contents, reproducibility, refusal, and going on after a stop at any moment."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from small_runs import StoppedError, assert_same_run, make_config, snapshot, stop_at, stopped_run
from spfl import training
from spfl.config.files import load_config
from spfl.errors import ConfigError, DataError, RunFolderError
from spfl.runs import checkpoint
from spfl.runs.checkpoint import Checkpoint, checkpoint_files, read_checkpoints, save_checkpoint
from spfl.runs.comparison import compare, parse_seeds
from spfl.runs.experiment import read_json, run_experiment
from spfl.runs.folders import write_atomically
from spfl.runs.jsons import dump_json
from spfl.runs.metrics import TOLD, RoundLog, read_metrics, summarise
from spfl.runs.past import file_digests, read_past


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_experiment(make_config(), digits, folder)


# --- what a folder holds ------------------------------------------------------------------------------------


def test_folder_contents(whole):
    folder, summary = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "allocation.parquet",
        "config.toml",
        "devices.parquet",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "weights.safetensors",
    ]
    assert load_config(folder / "config.toml") == make_config()
    assert read_json(folder / "environment.json")["dataset"]["train"] == 1437
    assert read_json(folder / "summary.json") == summary


def test_metrics_agree_with_the_records_of_training(whole, digits):
    folder, _ = whole
    lines = list(read_metrics(folder))
    records = list(training.run(make_config(), digits))
    assert [line["round"] for line in lines] == list(range(1, 13))
    for line, record in zip(lines, records, strict=True):
        assert line["loss"] == record.loss
        assert line["test_accuracy"] == record.test_accuracy
        assert line["mean_q_s"] == pytest.approx(record.allocation.q_s.mean())
        assert line["signs_received"] == record.outcome.sign.sum()
        assert line["payload_bits"] == record.payload_bits
        assert line["seconds"]["total"] > 0
    assert [line["round"] for line in lines if line["test_accuracy"] is not None] == [3, 6, 9, 12]
    weights = np.concatenate([t.ravel() for t in load_file(folder / "weights.safetensors").values()])
    np.testing.assert_array_equal(np.sort(weights), np.sort(records[-1].server.weights))


def test_weights_have_the_names_and_shapes_of_the_network(whole):
    shapes = {name: tensor.shape for name, tensor in load_file(whole[0] / "weights.safetensors").items()}
    assert shapes == {"1.weight": (10, 64), "1.bias": (10,)}


def test_allocation_rows(whole, digits):
    table = pq.read_table(whole[0] / "allocation.parquet").to_pydict()
    record = next(training.run(make_config(), digits))
    assert table["round"] == [r for r in range(1, 13) for _ in range(6)]
    assert table["device"] == list(range(6)) * 12
    for name in ("beta", "alpha", "rho", "q_s", "r_m", "cost"):
        np.testing.assert_array_equal(table[name][:6], getattr(record.allocation, name))
    np.testing.assert_array_equal(table["sign"][:6], record.outcome.sign)
    np.testing.assert_array_equal(table["modulus"][:6], record.outcome.modulus)


def test_summary_is_recomputable_from_the_metrics(whole):
    folder, summary = whole
    lines = list(read_metrics(folder))
    accuracy = {line["round"]: line["test_accuracy"] for line in lines if line["test_accuracy"] is not None}
    assert summary["accuracy_final"] == accuracy[12]
    assert summary["accuracy_best"] == max(accuracy.values())
    assert summary["accuracy_last"] == accuracy[12]  # the only evaluation after round 9, three quarters of the way
    assert summary["payload_bits"] == sum(line["payload_bits"] for line in lines)
    assert summary["seconds"]["total"] == pytest.approx(sum(line["seconds"]["total"] for line in lines))


def test_last_accuracy_is_the_mean_over_the_last_quarter(whole):
    line = next(read_metrics(whole[0]))
    lines = [
        line | {"round": r, "test_accuracy": r / 100 if r % 2 == 0 else None, "test_loss": 1.0} for r in range(1, 17)
    ]
    summary = summarise(lines)
    assert summary["accuracy_last"] == pytest.approx((0.14 + 0.16) / 2)  # rounds 13 to 16
    assert (summary["accuracy_final"], summary["accuracy_best"]) == (0.16, 0.16)
    assert summarise(lines[:1])["accuracy_last"] is None


def test_digest_ignores_wall_clock_and_costs_and_nothing_else(whole):
    lines = list(read_metrics(whole[0]))
    digest = summarise(lines)["digest"]
    assert summarise([line | {"seconds": {"total": 1.0}} for line in lines])["digest"] == digest
    for key in set(lines[3]) - {"seconds", "solver", "round", "past", *TOLD}:
        changed = [*lines[:3], lines[3] | {key: 0.125}, *lines[4:]]
        assert summarise(changed)["digest"] != digest


def test_numbers_that_are_not_finite_become_null():
    text = dump_json({"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_metrics_of_a_hopeless_cell_are_valid_json(digits, tmp_path):
    config = make_config(channel__median_snr_db=-200.0, training__rounds=2)
    run_experiment(config, digits, tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


# --- same seed, same bits -----------------------------------------------------------------------------------


def without_seconds(folder):
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    return [line.partition(b', "seconds"')[0] for line in lines]


def test_same_seed_gives_the_same_bytes_whatever_the_workers(whole, digits, tmp_path):
    for workers in (1, 3):
        run_experiment(make_config(workers=workers), digits, tmp_path / str(workers))
        assert without_seconds(tmp_path / str(workers)) == without_seconds(whole[0])
        assert_same_run(tmp_path / str(workers), whole[0])


def test_another_seed_gives_other_metrics(whole, digits, tmp_path):
    summary = run_experiment(make_config(seed=1), digits, tmp_path / "other")
    assert summary["digest"] != whole[1]["digest"]


# --- whose folder is it -------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_and_left_alone(whole, digits):
    before = snapshot(whole[0])
    with pytest.raises(RunFolderError, match="is not empty"):
        run_experiment(make_config(), digits, whole[0])
    assert snapshot(whole[0]) == before


def test_a_file_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="not a folder"):
        run_experiment(make_config(), digits, tmp_path / "file", existing="overwrite")


def test_overwrite_replaces_a_run_and_keeps_other_files(digits, tmp_path):
    folder = tmp_path / "run"
    run_experiment(make_config(training__rounds=2, seed=5), digits, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "sub").mkdir()
    (folder / "sub" / "metrics.jsonl").write_text("mine too")
    run_experiment(make_config(training__rounds=1), digits, folder, existing="overwrite")
    assert [m["round"] for m in read_metrics(folder)] == [1]
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "sub" / "metrics.jsonl").read_text() == "mine too"


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "metrics.jsonl"])
def test_overwrite_never_touches_a_file_that_no_run_wrote(digits, tmp_path, name):
    (tmp_path / name).write_text("mine")
    for existing in ("overwrite", "resume"):
        with pytest.raises(RunFolderError, match="not of a run"):
            run_experiment(make_config(), digits, tmp_path, existing=existing)
    assert snapshot(tmp_path) == {name: b"mine"}


def test_bad_input_leaves_an_earlier_run_alone(whole, digits):
    before = snapshot(whole[0])
    with pytest.raises(DataError):
        run_experiment(make_config(data__devices=5000), digits, whole[0], existing="overwrite")
    assert snapshot(whole[0]) == before


def test_resume_refuses_another_configuration_or_other_data(whole, digits):
    with pytest.raises(RunFolderError, match=r"training\.rate is 0\.1, got 0\.3"):
        run_experiment(make_config(training__rate=0.3), digits, whole[0], existing="resume")
    altered = replace(digits, test_labels=digits.test_labels.flip(0))
    with pytest.raises(RunFolderError, match="its data are"):
        run_experiment(make_config(), altered, whole[0], existing="resume")


def test_resume_of_a_finished_run_changes_nothing(whole, digits):
    before, rounds = snapshot(whole[0]), []
    config = make_config(workers=2)  # may differ: it never changes a result
    summary = run_experiment(config, digits, whole[0], existing="resume", progress=lambda m: rounds.append(m["round"]))
    assert summary == whole[1]
    assert snapshot(whole[0]) == before
    assert rounds == list(range(1, 13))


def test_resume_under_other_versions_warns(whole, digits, tmp_path):
    stopped_run(digits, tmp_path, at=5)
    environment = read_json(tmp_path / "environment.json")
    environment["versions"]["torch"] = "1.0"
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    with pytest.warns(UserWarning, match="bits may differ"):
        run_experiment(make_config(), digits, tmp_path, existing="resume")


def test_overwrite_leaves_nothing_of_the_old_run_to_resume_from(whole, digits, tmp_path):
    stopped_run(digits, tmp_path, at=9, seed=5)
    with pytest.raises(StoppedError):
        run_experiment(make_config(), digits, tmp_path, existing="overwrite", progress=stop_at(1))
    run_experiment(make_config(), digits, tmp_path, existing="resume")
    assert_same_run(tmp_path, whole[0])


def test_resume_of_nothing_is_a_beginning(whole, digits, tmp_path):
    run_experiment(make_config(), digits, tmp_path / "new", existing="resume")
    assert_same_run(tmp_path / "new", whole[0])


# --- stopped and resumed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_interrupted_and_resumed(whole, digits, tmp_path, stop_at):
    def interrupt(values):
        if values["round"] == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(make_config(), digits, tmp_path / "run", progress=interrupt)
    first = []
    run_experiment(
        make_config(), digits, tmp_path / "run", existing="resume", progress=lambda m: first.append(m["round"])
    )
    assert first[0] == stop_at + 1  # Ctrl-C loses no full round
    assert_same_run(tmp_path / "run", whole[0])


def test_torn_checkpoint_falls_back_to_the_older_one(whole, digits, tmp_path):
    stopped_run(digits, tmp_path, at=9)
    newest, older = checkpoint_files(tmp_path)
    assert (newest.name, older.name) == ("checkpoint-00000008.safetensors", "checkpoint-00000006.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    rounds = []
    with pytest.warns(UserWarning, match="checkpoint-00000008.safetensors is damaged"):
        run_experiment(make_config(), digits, tmp_path, existing="resume", progress=lambda m: rounds.append(m["round"]))
    assert rounds[0] == 7
    assert_same_run(tmp_path, whole[0])


def test_without_a_whole_checkpoint_the_run_begins_anew(whole, digits, tmp_path):
    stopped_run(digits, tmp_path, at=5)
    for path in checkpoint_files(tmp_path):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        run_experiment(make_config(), digits, tmp_path, existing="resume")
    assert_same_run(tmp_path, whole[0])


def test_every_flipped_byte_of_a_checkpoint_is_noticed(digits, tmp_path):
    stopped_run(digits, tmp_path, at=3, training__rounds=3)
    path = checkpoint_files(tmp_path)[0]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*range(8), *rng.integers(8, len(content), 60)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DAMAGE):
            checkpoint._read(path)


def test_a_checkpoint_of_another_version_is_refused_and_left_alone(digits, tmp_path, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr(checkpoint, "VERSION", "3")
        stopped_run(digits, tmp_path, at=5)
    before = snapshot(tmp_path)
    with pytest.raises(RunFolderError, match="is of version 3, this spfl reads 2; left as it is"):
        run_experiment(make_config(), digits, tmp_path, existing="resume")
    assert snapshot(tmp_path) == before


def test_resume_refuses_a_configuration_that_was_altered_in_the_folder(digits, tmp_path):
    """`spfl run --resume --out DIR` reads the configuration there: the checkpoint must be of the same one."""
    stopped_run(digits, tmp_path, at=5)
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace("momentum = 0.5", "momentum = 0.9"))
    with pytest.raises(RunFolderError, match=r"its config\.toml was altered after the run began"):
        run_experiment(load_config(path), digits, tmp_path, existing="resume")


@pytest.mark.parametrize("leftover", [["environment.json.tmp"], ["environment.json"], [".lock"], []])
def test_killed_before_the_folder_was_marked(whole, digits, tmp_path, leftover):
    """A kill in the very first moments leaves any of these; --resume then begins."""
    for name in leftover:
        (tmp_path / name).write_bytes((whole[0] / "environment.json").read_bytes() if name.endswith("json") else b"{")
    run_experiment(make_config(), digits, tmp_path, existing="resume")
    assert_same_run(tmp_path, whole[0])


def test_killed_between_the_summary_and_the_clearing(whole, digits, tmp_path):
    run_experiment(make_config(), digits, tmp_path)
    for name in ("checkpoint-00000010.safetensors", "allocation-00000001-00000010.parquet", "metrics.jsonl.tmp"):
        (tmp_path / name).write_bytes(b"")
    run_experiment(make_config(), digits, tmp_path, existing="resume")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(path.name for path in whole[0].iterdir()), "metrics.jsonl.tmp"]
    )  # and no file of another


def names_of_parts(folder):
    return [path.name for path in folder.glob("allocation-*-*.parquet")]


def test_resume_from_the_last_round_only_finishes(whole, digits, tmp_path):
    stopped_run(digits, tmp_path, at=12, every=1)
    (tmp_path / "summary.json").unlink(missing_ok=True)
    server, past = list(training.run(make_config(), digits))[-1].server, read_past(tmp_path)
    save_checkpoint(tmp_path, Checkpoint(server, past.digests[12], file_digests(tmp_path, names_of_parts(tmp_path))))
    rounds = []
    run_experiment(make_config(), digits, tmp_path, existing="resume", progress=lambda m: rounds.append(m["round"]))
    assert rounds == []
    assert read_json(tmp_path / "summary.json")["digest"] == whole[1]["digest"]


def test_checkpoint_round_trip_is_exact(digits, tmp_path):
    config = make_config(scheme__compensation="last", scheme__error_feedback=True, training__rounds=2)
    server = list(training.run(config, digits))[-1].server
    assert server.memory
    save_checkpoint(tmp_path, Checkpoint(server, "digest", {"part": "another"}))
    (found,) = read_checkpoints(tmp_path)
    assert (found.past, found.parts) == ("digest", {"part": "another"})
    again = found.server
    assert again.round_ == 2
    np.testing.assert_array_equal(again.weights, server.weights)
    np.testing.assert_array_equal(again.velocity, server.velocity)
    assert again.memory.keys() == server.memory.keys()
    for name, array in server.memory.items():
        assert again.memory[name].dtype == array.dtype
        np.testing.assert_array_equal(again.memory[name], array)
    for name in ("beta", "alpha", "rho", "q_s", "hopeless"):
        np.testing.assert_array_equal(getattr(again.allocation, name), getattr(server.allocation, name))
    assert again.allocation.history == server.allocation.history
    assert again.allocation.status is server.allocation.status


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(_):
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_at_most_two_checkpoints_are_kept(digits, tmp_path):
    stopped_run(digits, tmp_path, at=7, every=1)
    assert [found.server.round_ for found in read_checkpoints(tmp_path)] == [7, 6]


def test_allocation_rows_are_written_in_bounded_groups(whole, digits, tmp_path, monkeypatch):
    """Memory does not grow with the rounds: rows leave it every GROUP_ROWS rows, checkpoint or not."""
    monkeypatch.setattr("spfl.runs.metrics.GROUP_ROWS", 12)
    held = []
    add = RoundLog.add

    def watched(self, record):
        values = add(self, record)
        held.append(sum(len(rows) for _, rows in self._pending))
        return values

    monkeypatch.setattr(RoundLog, "add", watched)
    run_experiment(make_config(), digits, tmp_path, checkpoint_every=1000)
    assert max(held) < 12
    assert_same_run(tmp_path, whole[0])
    assert pq.ParquetFile(tmp_path / "allocation.parquet").num_row_groups == 6


def test_checkpoint_every_must_be_positive(digits, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_every must be >= 1, got 0"):
        run_experiment(make_config(), digits, tmp_path, checkpoint_every=0)


# --- comparisons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("1,1,0-1", [1, 0])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "1.5", "0,,1", "0--2"])
def test_bad_seeds(text):
    with pytest.raises(ConfigError, match="seeds must look like"):
        parse_seeds(text)


def test_comparison(digits, tmp_path):
    config = make_config(training__rounds=4, training__eval_every=1)
    rows = compare(config, ["error_free", "single_packet"], [0, 1, 2], digits, tmp_path / "c")
    for row in rows:
        accuracy = [
            read_json(tmp_path / "c" / f"{row['scheme']}-{s}" / "summary.json")["accuracy_last"] for s in range(3)
        ]
        assert row["n"] == 3
        assert row["accuracy_last"] == pytest.approx(np.mean(accuracy))
        assert row["accuracy_std"] == pytest.approx(np.std(accuracy, ddof=1))
    assert json.loads((tmp_path / "c" / "table.json").read_text()) == rows
    assert (tmp_path / "c" / "table.md").read_text().startswith("| scheme |")
    assert (tmp_path / "c" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_comparison_uses_common_random_numbers(digits, tmp_path):
    """In round 1 all schemes have the same weights and batches, so the same loss."""
    config = make_config(training__rounds=1)
    compare(config, ["error_free", "single_packet", "sp_fl"], [3], digits, tmp_path)
    losses = {next(read_metrics(tmp_path / f"{s}-3"))["loss"] for s in ("error_free", "single_packet", "sp_fl")}
    assert len(losses) == 1


def test_comparison_resumes_and_grows(digits, tmp_path):
    config = make_config(training__rounds=2)
    rows = compare(config, ["single_packet"], [0], digits, tmp_path / "c")
    before = snapshot(tmp_path / "c" / "single_packet-0")
    with pytest.raises(RunFolderError, match="is not empty"):
        compare(config, ["single_packet"], [0], digits, tmp_path / "c")
    more = compare(config, ["single_packet"], [0, 1], digits, tmp_path / "c", existing="resume")
    assert snapshot(tmp_path / "c" / "single_packet-0") == before
    assert more[0]["runs"][0] == rows[0]["runs"][0]
    assert more[0]["n"] == 2


def test_comparison_names_an_unknown_scheme_before_it_starts(digits, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'sp_fl'"):
        compare(make_config(), ["error_free", "sp_fll"], [0], digits, tmp_path / "c")
    assert not (tmp_path / "c").exists()
