"""A past that is not the past is found: by resume, which says where it goes back to, and by verify."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from small_runs import assert_same_run, make_config, snapshot, stopped_run
from spfl.errors import RunFolderError
from spfl.runs.damage import damage
from spfl.runs.experiment import read_json, run_experiment
from spfl.runs.verification import verify


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("past") / "whole"
    run_experiment(make_config(), digits, folder, checkpoint_every=2)
    return folder


@pytest.fixture(scope="module")
def stopped(digits, tmp_path_factory):
    """Stopped after round 9: checkpoints of rounds 6 and 8, parts of two rounds each."""
    folder = tmp_path_factory.mktemp("past") / "stopped"
    stopped_run(digits, folder, at=9)
    return folder


@pytest.fixture
def damaged(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def edit_lines(folder, edit):
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))


def test_each_line_carries_the_digest_of_what_precedes_it(whole):
    lines = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    before = (whole / "config.toml").read_bytes()
    for line in lines:
        assert json.loads(line)["past"] == hashlib.sha256(before).hexdigest()
        before += line


def test_damage_is_told_of_runs_and_of_those_below_and_of_nothing_else(whole, damaged, tmp_path):
    assert damage(whole) is None
    assert damage(damaged.parent) is None
    assert damage(tmp_path / "nowhere") is None
    edit_lines(damaged, swap)
    told = f"{damaged} is damaged: metrics.jsonl has round 4 where round 3 must be"
    assert damage(damaged) == damage(damaged.parent) == told
    shutil.copytree(whole, tmp_path / "other")
    (tmp_path / "other" / "summary.json").write_text("[1]")
    assert damage(tmp_path / "other") == f"{tmp_path / 'other'} is damaged: summary.json is not of a run"


def swap(lines):
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def change(lines):
    return [*lines[:7], lines[7].replace(b'"joules": ', b'"joules": 1'), *lines[8:]]


DAMAGE = {
    "missing": (lambda lines: lines[:2] + lines[3:], "metrics.jsonl has round 4 where round 3 must be", 0),
    "twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "has round 3 where round 4 must be", 0),
    "swapped": (swap, "has round 4 where round 3 must be", 0),
    "changed in round 8": (change, "metrics.jsonl or config.toml is not that of the checkpoint of round 8", 6),
    "cut": (lambda lines: lines[:7], "metrics.jsonl ends at round 7, the checkpoint is of round 8", 6),
    "no JSON": (lambda lines: [*lines[:6], b"{\n", *lines[7:]], "line 7 of metrics.jsonl is damaged", 6),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_metrics_cost_the_rounds_since_the_last_good_checkpoint(damaged, whole, digits, name):
    edit, message, back = DAMAGE[name]
    edit_lines(damaged, edit)
    rounds = []
    place = f"going back to round {back}" if back else "going back to the beginning"
    with pytest.warns(UserWarning, match=place) as told:
        run_experiment(make_config(), digits, damaged, existing="resume", progress=lambda m: rounds.append(m["round"]))
    assert any(message in str(warning.message) for warning in told)
    assert rounds == list(range(back + 1, 13))
    assert_same_run(damaged, whole)


def test_a_part_of_the_allocation_table_that_is_gone_or_changed(damaged, whole, digits):
    (damaged / "allocation-00000007-00000008.parquet").unlink()
    with pytest.warns(UserWarning, match=r"allocation-00000007-00000008\.parquet is missing; going back to round 6"):
        run_experiment(make_config(), digits, damaged, existing="resume")
    assert_same_run(damaged, whole)


def test_a_changed_part_of_the_allocation_table(damaged, whole, digits):
    shutil.copy(damaged / "allocation-00000001-00000002.parquet", damaged / "allocation-00000003-00000004.parquet")
    with pytest.warns(UserWarning, match=r"was changed after it was written; going back to the beginning"):
        run_experiment(make_config(), digits, damaged, existing="resume")
    assert_same_run(damaged, whole)


def test_a_part_that_no_checkpoint_knows_is_not_joined(damaged, whole, digits):
    shutil.copy(damaged / "allocation-00000001-00000002.parquet", damaged / "allocation-00000001-00000001.parquet")
    run_experiment(make_config(), digits, damaged, existing="resume")
    assert_same_run(damaged, whole)


@pytest.mark.parametrize("other", [{"seed": 7}, {"model__name": "mlp"}])
def test_a_checkpoint_of_another_run_is_passed_over(damaged, whole, digits, tmp_path, other):
    stopped_run(digits, tmp_path / "other", at=9, **other)
    shutil.copy(tmp_path / "other" / "checkpoint-00000008.safetensors", damaged)
    with pytest.warns(UserWarning, match="is not that of the checkpoint of round 8; going back to round 6"):
        run_experiment(make_config(), digits, damaged, existing="resume")
    assert_same_run(damaged, whole)


# --- finished folders -----------------------------------------------------------------------------------------


@pytest.fixture
def finished(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


FILES = ("config.toml", "environment.json", "devices.parquet", "metrics.jsonl", "allocation.parquet")


def test_the_summary_names_every_other_file(finished):
    files = read_json(finished / "summary.json")["files"]
    assert set(files) == {path.name for path in finished.iterdir()} - {"summary.json"}
    for name, digest in files.items():
        assert hashlib.sha256((finished / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", [*FILES[2:], "weights.safetensors"])
def test_a_finished_folder_with_a_changed_file_is_not_told_again(finished, digits, name):
    path = finished / name
    path.write_bytes(path.read_bytes() + b"\n")
    before = snapshot(finished)
    with pytest.raises(RunFolderError, match=f"{name} was changed after it was written; run it anew with --overwrite"):
        run_experiment(make_config(), digits, finished, existing="resume")
    assert snapshot(finished) == before


def test_a_finished_folder_without_one_of_its_files(finished, digits):
    (finished / "allocation.parquet").unlink()
    with pytest.raises(RunFolderError, match=r"allocation\.parquet is missing"):
        run_experiment(make_config(), digits, finished, existing="resume")
    assert verify(finished, digits).difference == "allocation.parquet is missing"


def refit(folder):
    """Make the checksums fit again, as whoever tampers with care would."""
    summary = read_json(folder / "summary.json")
    for name in summary["files"]:
        summary["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("key", ["joules", "round_s", "rejected", "mean_q_s", "test_loss", "side_bits"])
def test_verify_finds_a_changed_value_of_a_round(finished, digits, key):
    def edit(lines):
        return [*lines[:2], json.dumps(json.loads(lines[2]) | {key: 0.25}).encode() + b"\n", *lines[3:]]

    edit_lines(finished, edit)
    refit(finished)
    assert verify(finished, digits).difference.startswith(f"round 3: {key} is 0.25, again ")


@pytest.mark.parametrize("key", ["joules", "round_s", "solver", "test_accuracy"])
def test_verify_finds_a_removed_value_of_a_round(finished, digits, key):
    def edit(lines):
        kept = {name: value for name, value in json.loads(lines[2]).items() if name != key}
        return [*lines[:2], json.dumps(kept).encode() + b"\n", *lines[3:]]

    edit_lines(finished, edit)
    refit(finished)
    assert verify(finished, digits).difference.startswith(f"round 3: {key} is missing, again ")


@pytest.mark.parametrize(
    "key", ["accuracy_final", "accuracy_last", "accuracy_best", "joules", "round_s", "rounds", "payload_bits", "seed"]
)
def test_verify_finds_a_changed_or_removed_value_of_the_summary(finished, digits, key):
    summary = read_json(finished / "summary.json")
    for forged in (summary | {key: 0.5}, {name: value for name, value in summary.items() if name != key}):
        (finished / "summary.json").write_text(json.dumps(forged))
        assert verify(finished, digits).difference.startswith(f"{key} in summary.json is ")


def test_verify_finds_rounds_behind_the_end(finished, digits):
    edit_lines(finished, lambda lines: [*lines, lines[-1].replace(b'"round": 12', b'"round": 13')])
    refit(finished)
    assert verify(finished, digits).difference == "metrics.jsonl has 13 rounds, the run 12"


def test_verify_finds_rows_behind_the_end_and_columns_that_are_gone(finished, digits):
    path = finished / "allocation.parquet"
    table = pq.read_table(path)
    later = table.slice(0, 6).set_column(0, "round", pa.array(np.full(6, 13, np.int32)))
    pq.write_table(pa.concat_tables([table, later]), path)
    refit(finished)
    assert verify(finished, digits).difference == "allocation.parquet goes on after round 12"
    pq.write_table(table.drop_columns(["joules"]), path)
    refit(finished)
    assert verify(finished, digits).difference == "round 1: joules is missing in allocation.parquet"


@pytest.mark.parametrize("column", ["distance_m", "gain", "samples"])
def test_verify_finds_a_changed_table_of_devices(finished, digits, column):
    path = finished / "devices.parquet"
    table = pq.read_table(path)
    values = table[column].to_numpy().copy()
    values[2] += 1
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
    refit(finished)
    assert verify(finished, digits).difference == f"{column} in devices.parquet is not as it is again"


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_a_file_that_is_not_that_of_the_summary(finished, digits, name):
    """Also where nothing in it that can be compared has changed: a blank, a second, a machine."""
    path = finished / name
    if name.endswith("parquet"):
        pq.write_table(pq.read_table(path), path, compression="gzip")
    else:
        path.write_bytes(
            path.read_bytes() + b"\n" if name != "metrics.jsonl" else path.read_bytes().replace(b"e-", b"e-0")
        )
    assert verify(finished, digits).difference == f"{name} was changed after it was written"


def test_verify_follows_the_chain_of_a_run_that_is_not_finished(damaged, digits):
    assert verify(damaged, digits).difference is None
    edit_lines(damaged, lambda lines: [*lines[:3], lines[3].replace(b'"solver": ', b'"solver":  '), *lines[4:]])
    assert verify(damaged, digits).difference == "metrics.jsonl was changed before round 5"
