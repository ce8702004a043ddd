"""`spfl verify`: a run folder is what its configuration gives, and every alteration is found where it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from small_runs import make_config, snapshot, stopped_run
from spfl.cli import verify as cli_verify
from spfl.errors import RunFolderError
from spfl.runs.experiment import run_experiment
from spfl.runs.verification import verify


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_experiment(make_config(training__rounds=6, channel__median_snr_db=9.0), digits, folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def edit_round(folder, round_, **changes):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[round_ - 1] = json.dumps(json.loads(lines[round_ - 1]) | changes)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("workers", [1, 3])
def test_an_untouched_run_is_the_same_and_left_alone(whole, digits, workers):
    before, rounds = snapshot(whole), []
    verdict = verify(whole, digits, workers=workers, progress=lambda values: rounds.append(values["round"]))
    assert (verdict.rounds, verdict.finished, verdict.difference) == (6, True, None)
    assert rounds == [1, 2, 3, 4, 5, 6]
    assert snapshot(whole) == before


@pytest.mark.parametrize("key", ["loss", "objective", "payload_bits", "signs_received", "test_accuracy"])
def test_an_altered_metric_is_named_with_its_round(copy, digits, key):
    edit_round(copy, 4, **{key: 0.125})
    verdict = verify(copy, digits)
    assert verdict.rounds == 3
    assert verdict.difference.startswith(f"round 4: {key} is 0.125, again ")


def test_wall_clock_is_not_compared(copy, digits):
    edit_round(copy, 4, seconds={"total": 1.0})
    assert verify(copy, digits).difference == "metrics.jsonl was changed after it was written"  # not: has other seconds


def test_an_altered_allocation_is_named_with_its_device(copy, digits):
    table = pq.read_table(copy / "allocation.parquet")
    beta = table["beta"].to_numpy().copy()
    beta[6 * 2 + 1] += 1e-12
    place = table.column_names.index("beta")
    pq.write_table(table.set_column(place, "beta", pa.array(beta)), copy / "allocation.parquet")
    assert verify(copy, digits).difference.startswith("round 3: beta of device 1 is ")
    assert verify(copy, digits, tolerance=1e-6).difference == "allocation.parquet was changed after it was written"


def test_an_altered_weight_is_named(copy, digits):
    weights = load_file(copy / "weights.safetensors")
    weights["1.bias"][3] = np.nextafter(weights["1.bias"][3], np.float32(9))
    save_file(weights, copy / "weights.safetensors")
    assert "1 of 10 values of 1.bias differ, by at most" in verify(copy, digits).difference
    assert verify(copy, digits, tolerance=1e-5).difference == "weights.safetensors was changed after it was written"
    (copy / "weights.safetensors").write_bytes(b"torn")
    assert "weights.safetensors cannot be read" in verify(copy, digits).difference


def test_an_altered_digest_or_length(copy, digits):
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"digest": "0"}))
    assert verify(copy, digits).difference == "digest in summary.json is not that of metrics.jsonl"
    path = copy / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert verify(copy, digits).difference == "metrics.jsonl ends at round 4 of 6"


def test_another_configuration_differs(copy, digits):
    path = copy / "config.toml"
    path.write_text(path.read_text().replace("momentum = 0.5", "momentum = 0.25"))
    assert verify(copy, digits).difference.startswith("round 3: loss is")  # the first step to feel it is the second


def test_a_run_under_way_is_compared_as_far_as_it_is(digits, tmp_path):
    stopped_run(digits, tmp_path, at=5)
    verdict = verify(tmp_path, digits)
    assert (verdict.rounds, verdict.finished, verdict.difference) == (5, False, None)


def test_what_cannot_be_verified(copy, digits, tmp_path):
    with pytest.raises(RunFolderError, match=r"it holds no config\.toml"):
        verify(tmp_path, digits)
    with pytest.raises(RunFolderError, match="its data are"):
        verify(copy, replace(digits, test_labels=digits.test_labels.flip(0)))
    environment = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps(environment | {"custom": {"module": "Mine"}}))
    with pytest.raises(RunFolderError, match="parts of its caller's own"):
        verify(copy, digits)


def test_command(copy, capsys):
    cli_verify.verify_command(copy)
    assert capsys.readouterr().out == f"{copy}: 6 rounds, the same bits\n"
    edit_round(copy, 2, loss=1.0)
    with pytest.raises(cli_verify.typer.Exit) as stop:
        cli_verify.verify_command(copy)
    assert stop.value.exit_code == 1
    assert f"{copy} differs: round 2: loss is 1.0, again " in capsys.readouterr().out
    with pytest.raises(cli_verify.typer.Exit):
        cli_verify.verify_command(copy, as_json=True)
    assert json.loads(capsys.readouterr().out)["same"] is False
