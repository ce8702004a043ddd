"""Exported tables: their numbers are those of the folders, in every format; LaTeX says what the tests say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from scipy.io import loadmat

import spfl
from spfl.errors import ConfigError, RunFolderError
from spfl.figures.style import FigureStyle
from spfl.runs.comparison import compare
from spfl.runs.results import Run
from spfl.studies import export as exporting
from spfl.studies.export import export
from spfl.studies.figures import make_figures
from spfl.studies.latex import summary_tex
from spfl.studies.pgfplots import curves_tex
from spfl.studies.recorded import read_any_study

SCHEMES = ("error_free", "single_packet", "sp_fl")


@pytest.fixture(scope="module")
def compared(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "compared"
    rows = compare(small_config(training={"rounds": 4, "eval_every": 2}), SCHEMES, [0, 1], digits, folder)
    return folder, rows


def row(series, mean, setting=None, verdict=None, half=0.011):
    about = {"series": series, "scheme": series, "n": 5, "accuracy": mean, "accuracy_half_width": half}
    about |= {} if setting is None else {"channel.median_snr_db": setting}
    return about | {"energy_j_per_round": 0.00345, "reference": "sp_fl", "verdict": verdict}


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


# --- LaTeX --------------------------------------------------------------------------------------------------


def test_the_best_is_bold_the_bound_is_not_and_marks_are_told():
    rows = [row("error_free", 0.95), row("sp_fl", 0.90), row("single_packet", 0.80, verdict="better")]
    text = summary_tex(rows, style=FigureStyle(labels={"sp_fl": "SP-FL"}))
    assert r"error\_free & $95.00 \pm 1.10$ & 5" in text
    assert r"SP-FL & $\mathbf{90.00 \pm 1.10}$ & 5" in text
    assert r"single\_packet & $80.00 \pm 1.10^{\dagger}$ & 5 & 3.45" in text
    assert r"$^{\dagger}$: SP-FL is better (paired $t$ test, $p < 0.01$, $n \geq 5$)" in text
    assert "(mJ/round)" in text
    assert "Payload" not in text  # nobody measured it
    assert r"\ddagger" not in text


def test_each_setting_has_its_own_best_and_stands_once():
    rows = [row("sp_fl", 0.9, -3.0), row("drive", 0.8, -3.0), row("sp_fl", 0.7, 6.0), row("drive", 0.8, 6.0)]
    lines = summary_tex(rows).splitlines()
    assert [line.partition(" &")[0] for line in lines if "pm" in line and "&" in line] == [
        r"\ensuremath{-}3", "", "6", "",
    ]  # fmt: skip
    assert [r"\mathbf" in line for line in lines if "&" in line and r"\pm" in line] == [True, False, False, True]


def test_one_seed_has_no_interval():
    text = summary_tex([row("sp_fl", 0.9, half=None), row("drive", 0.8, half=None)])
    assert r"\pm" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_latex_takes_the_table_and_the_curves(compared, tmp_path):
    paths = export(compared[0], "tex", tmp_path)
    assert [path.name for path in paths] == ["summary.tex", "curves.tex"]
    packages = r"\usepackage{booktabs,pgfplots}\usepgfplotslibrary{groupplots}\pgfplotsset{compat=1.16}"
    body = "".join(f"\\input{{{path}}}" for path in paths)
    (tmp_path / "t.tex").write_text(f"\\documentclass{{article}}{packages}\\begin{{document}}{body}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-500:]


def test_curves_in_latex_have_the_numbers_and_the_looks_of_the_figures(compared):
    study = read_any_study(compared[0])
    style = FigureStyle(labels={"sp_fl": "SP-FL"}, colours={"sp_fl": "red"}, order=("sp_fl",))
    text = curves_tex(study, style)
    drawn = re.findall(r"\\addplot\[(spfl\d), ([a-z]+), mark=([a-z*]+)[^{]*{[^{]*{\n(.*?)\n}", text, re.DOTALL)
    entries = re.findall(r"\\addlegendentry{(.*)}", text)
    assert entries == ["SP-FL", r"single\_packet", r"error\_free"]
    assert [line[:3] for line in drawn] == [
        ("spfl0", "solid", "*"),
        ("spfl1", "dashed", "square*"),
        ("spfl2", "dashed", "x"),
    ]
    assert r"\definecolor{spfl0}{HTML}{FF0000}" in text
    for (*_, told), name in zip(drawn, ("sp_fl", "single_packet", "error_free"), strict=True):
        rounds, accuracy = np.array([line.split() for line in told.splitlines()], float).T
        x, wanted = study.curves(study.series(study.rows)[name], "round")
        np.testing.assert_allclose(rounds, x)
        np.testing.assert_allclose(accuracy, 100 * wanted.mean(0), rtol=1e-5)
    assert text.count("fill opacity") == 3  # a band each: two seeds


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
