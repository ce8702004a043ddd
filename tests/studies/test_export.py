"""Exported tables: their numbers are those of the folders, in every format."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from scipy.io import loadmat

import spfl
from spfl.errors import ConfigError, RunFolderError
from spfl.runs.comparison import compare
from spfl.runs.results import Run
from spfl.studies import export as exporting
from spfl.studies.export import export
from spfl.studies.figures import make_figures
from spfl.studies.recorded import read_any_study

SCHEMES = ("error_free", "single_packet", "sp_fl")


@pytest.fixture(scope="module")
def compared(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "compared"
    rows = compare(small_config(training={"rounds": 4, "eval_every": 2}), SCHEMES, [0, 1], digits, folder)
    return folder, rows


# --- a folder of runs is a study ----------------------------------------------------------------------------


def test_a_comparison_is_a_study(compared):
    study = read_any_study(compared[0])
    assert study.swept == ["scheme.name", "seed"]
    means = {label: np.mean([r["accuracy_last"] for r in rows]) for label, rows in study.series(study.rows).items()}
    assert means == pytest.approx({row["scheme"]: row["accuracy_last"] for row in compared[1]})


def test_figures_of_a_comparison(compared, tmp_path):
    names = {path.name for path in make_figures(compared[0], tmp_path, suffix="svg")}
    assert names >= {"accuracy_vs_rounds.svg", "accuracy_vs_payload.svg", "paired_differences.svg", "table.md"}


def test_folders_without_results(tmp_path):
    with pytest.raises(RunFolderError, match="is not a folder"):
        export(tmp_path / "none", "csv")
    with pytest.raises(RunFolderError, match=r"holds no results\.parquet"):
        export(tmp_path, "csv")


# --- formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_are_those_of_the_runs(compared, tmp_path, form):
    paths = {path.stem: path for path in export(compared[0], form, tmp_path)}
    assert list(paths) == ["summary", "points", "curves", "rounds", "allocation", "devices"]
    read = {name: (csv.read_csv if form == "csv" else pq.read_table)(path) for name, path in paths.items()}
    runs = [Run.load(compared[0] / f"{scheme}-{seed}") for scheme in SCHEMES for seed in (0, 1)]
    assert len(read["rounds"]) == 4 * len(runs)
    assert len(read["allocation"]) == sum(len(run.allocation) for run in runs)
    assert len(read["devices"]) == 6 * len(runs)
    for run in runs:
        frame = read["curves"].to_pandas()
        mine = frame[(frame["scheme"] == run.config.scheme.name) & (frame["seed"] == run.config.seed)]
        spent = np.cumsum([r["payload_bits"] for r in run.rounds])
        assert mine["round"].tolist() == [2, 4]
        assert mine["payload_bits"].tolist() == spent[[1, 3]].tolist()
        np.testing.assert_allclose(mine["energy_j"], np.cumsum([r["joules"] for r in run.rounds])[[1, 3]])
    summary = read["summary"].to_pandas().set_index("series")
    for one in compared[1]:
        assert summary.loc[one["scheme"], "accuracy"] == pytest.approx(one["accuracy_last"])
        assert summary.loc[one["scheme"], "payload_bits_per_round"] == pytest.approx(one["bits_per_round"])


def test_matlab_reads_numbers_and_text(compared, tmp_path):
    (path,) = export(compared[0], "mat", tmp_path)
    tables = loadmat(path, squeeze_me=True, simplify_cells=True)
    assert sorted(set(tables["points"]["scheme"])) == sorted(SCHEMES)
    accuracy = dict(zip(tables["summary"]["series"], tables["summary"]["accuracy"], strict=True))
    assert accuracy == pytest.approx({row["scheme"]: row["accuracy_last"] for row in compared[1]})
    assert np.isnan(tables["rounds"]["test_accuracy"]).sum() == len(tables["rounds"]["round"]) / 2  # every other round


def test_a_workbook_has_a_sheet_a_table_and_no_formula(compared, tmp_path, monkeypatch):
    openpyxl = pytest.importorskip("openpyxl")
    (path,) = export(compared[0], "xlsx", tmp_path)
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["summary", "points", "curves", "rounds", "allocation", "devices"]
    header, *rows = book["summary"].iter_rows(values_only=True)
    accuracy = {row[header.index("series")]: row[header.index("accuracy")] for row in rows}
    assert accuracy == pytest.approx({row["scheme"]: row["accuracy_last"] for row in compared[1]})
    evil = exporting.pa.table({"name": ["=1+1", "x"], "value": [float("nan"), float("inf")]})
    (path,) = exporting._xlsx({"evil": evil}, tmp_path / "..")
    sheet = openpyxl.load_workbook(path)["evil"]
    shown = [sheet["A2"].data_type, sheet["A2"].value, sheet["B2"].value, sheet["B3"].value]
    assert shown == ["s", "=1+1", None, "inf"]
    monkeypatch.setattr(exporting, "SHEET_ROWS", 1)
    with pytest.raises(RunFolderError, match="the table evil has 2 rows, a sheet holds 1: take --format parquet"):
        exporting._xlsx({"evil": evil}, tmp_path)


def test_a_missing_extra_and_an_unknown_format_are_one_line(compared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ConfigError, match=r"needs openpyxl: pip install 'spfl\[tables\]'"):
        export(compared[0], "xlsx", tmp_path)
    with pytest.raises(ConfigError, match=r"unknown format 'tax' \(did you mean 'tex'\?\)"):
        export(compared[0], "tax", tmp_path)


# --- from Python --------------------------------------------------------------------------------------------


def test_tables_from_python_are_of_one_type_and_long(small_config):
    config = small_config(training={"rounds": 2})
    found = spfl.compare(config, ["single_packet", "sp_fl"], seeds=[0, 1])
    frame = found.to_pandas()
    assert frame.groupby(["scheme", "seed"])["round"].max().to_dict() == {
        (scheme, seed): 2 for scheme in ("single_packet", "sp_fl") for seed in (0, 1)
    }
    run = found.groups[0].runs[0]
    assert {type(table) for table in (run.metrics, run.allocation, run.devices)} == {exporting.pa.Table}
    for shown in (run, found):
        page = shown._repr_html_()
        assert page.startswith("<table")
        assert "single_packet" in page
