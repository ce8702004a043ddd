"""Studies whose score is not accuracy: named after it, tuned and judged in its own direction."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from spfl.data.sources import load_dataset
from spfl.errors import ConfigError, RunFolderError
from spfl.report.study import study_sections
from spfl.runs.experiment import run_experiment
from spfl.studies.archive import archive
from spfl.studies.export import export
from spfl.studies.figures import make_figures
from spfl.studies.latex.tables import summary_tex
from spfl.studies.points import load_points
from spfl.studies.recorded import read_any_study
from spfl.studies.runner import measure, sweep
from spfl.studies.statistics import paired_table, score_table, target_table
from spfl.studies.study import Study, read_study
from spfl.studies.tuning import rates_text, tune

BASE = """
[base]
data.name = "diabetes"
data.partition = "iid"
data.devices = 4
data.validation_fraction = 0.2
model.name = "softmax"
training.rounds = 4
training.eval_every = 1
training.rate = 0.02
channel.median_snr_db = 10.0
scheme.name = "single_packet"
"""
ERROR = """
def absolute_error(outputs, targets):
    return (outputs - targets).abs().mean()
absolute_error.higher_is_better = False
metric = absolute_error
"""


@pytest.fixture
def swept(tmp_path):
    """Runs a sweep of diabetes with two rates and two schemes, and returns (folder, rows)."""

    def swept(
        more="", grid='"scheme.name" = ["single_packet", "error_free"]\n"training.rate" = [0.02, 0.1]\nseed = [0, 1]\n'
    ):
        (tmp_path / "sweep.toml").write_text(f"{BASE}{more}[[grid]]\n{grid}")
        points = load_points(tmp_path / "sweep.toml")
        return tmp_path / "out", sweep(points, tmp_path / "out", source=tmp_path / "sweep.toml", processes=1)

    return swept


def test_a_regression_is_swept_tuned_drawn_and_exported_under_its_own_name(swept):
    folder, rows = swept()
    assert {row["error"] for row in rows} == {None}
    table = pq.read_table(folder / "results.parquet")
    assert {"r2_last", "r2_final", "r2_best", "curve_r2"} <= set(table.column_names)
    assert not [name for name in table.column_names if "accuracy" in name or name == "lower_is_better"]
    assert "r2" in pq.read_table(folder / "curves.parquet").column_names
    header = (folder / "summary.md").read_text().splitlines()[0]
    assert header.startswith("| scheme | training.rate | r2 | ± std | n | final |")
    for one in tune(rows):
        assert one.scores[one.best] == max(one.scores.values())
    first = next(iter(tune(rows)[0].scores.items()))
    assert f"{first[0]:g}: {first[1]:.3f}" in rates_text(tune(rows))
    drawn = {path.name for path in make_figures(folder)}
    assert {"r2_vs_rounds.png", "r2_vs_payload.png", "table.md"} <= drawn
    assert len(json.loads((folder / "figures" / "table.json").read_text())["r2"]) == 4
    assert "## Validation r2" in (folder / "figures" / "table.md").read_text()
    written = export(folder, "csv")
    assert written[0].read_text().splitlines()[0].startswith('"series","scheme"')
    assert '"r2","r2_std","r2_half_width"' in written[0].read_text()
    tex = {path.stem: path.read_text() for path in export(folder, "tex")}
    assert "Scheme & R2 & " in tex["summary"]
    assert "ylabel={Validation r2}" in tex["r2_vs_rounds"]
    assert r"\%)" not in tex["r2_vs_rounds"]
    (results, curves, *_) = study_sections(folder)
    assert results.panels[0].tables[0].header[1] == "r2"
    assert curves.title == "R2 against rounds"
    assert archive(folder, folder.parent / "archived").is_dir()


def test_less_of_an_error_is_better(swept, tmp_path):
    (tmp_path / "own.py").write_text(ERROR)
    folder, rows = swept(f'plugin.path = "{tmp_path}/own.py"\n')
    assert {row["lower_is_better"] for row in rows} == {True}
    for row in rows:
        assert row["absolute_error_best"] == min(row["curve_absolute_error"])
    for one in tune(rows):
        assert one.scores[one.best] == min(one.scores.values())
    study = read_study(folder)
    by_label = {row["series"]: row["mean"] for row in score_table(study)}
    for row in target_table(study, None):
        assert row["target"] == pytest.approx(min(by_label.values()) / 0.9)
    best = min(by_label, key=by_label.__getitem__)
    assert next(row for row in target_table(study, None) if row["series"] == best)["reached"] > 0
    assert "The lowest mean is bold" in export(folder, "tex")[0].read_text()


@pytest.mark.parametrize(("lower", "verdict", "bold"), [(False, "better", "sp_fl"), (True, "worse", "drive")])
def test_the_direction_of_a_score_decides_verdicts_and_bold_numbers(lower, verdict, bold):
    rows = [
        {
            "key": f"{scheme}{seed}",
            "scheme": scheme,
            "seed": seed,
            "scheme.name": scheme,
            "validation": False,
            "error_last": value + 0.001 * seed * (scheme == "drive"),
            "uplink_s_per_round": 1.0,
            "curve_round": [1],
            "curve_error": [value],
            "curve_payload_bits": [8],
            "rounds": 1,
            "lower_is_better": lower,
        }
        for scheme, value in (("sp_fl", 3.0), ("drive", 2.0))
        for seed in range(5)
    ]
    study = Study(rows, ["scheme.name", "seed"])
    assert [row["verdict"] for row in paired_table(study, "sp_fl")] == [verdict]
    reached = {row["series"]: row["reached"] for row in target_table(study, 2.5)}
    assert reached == ({"sp_fl": 0, "drive": 5} if lower else {"sp_fl": 5, "drive": 0})
    table = [
        {"series": row["series"], "scheme": row["series"], "n": 5, "error": row["mean"], "error_half_width": None}
        for row in score_table(study)
    ]
    (line,) = [line for line in summary_tex(table, score=study.score).splitlines() if "mathbf" in line]
    assert line.startswith(bold.replace("_", r"\_").replace("fl", "f{}l"))


def test_a_run_folder_with_another_score_is_a_study_and_two_scores_are_none(tmp_path):
    for name, data in (("a", "diabetes"), ("b", "wine")):
        (tmp_path / "s.toml").write_text(f'{BASE}[[grid]]\ndata.name = "{data}"\nseed = 0\n')
        (point,) = load_points(tmp_path / "s.toml")
        run_experiment(point.config, load_dataset(point.config.data), tmp_path / "runs" / name)
    study = read_any_study(tmp_path / "runs" / "a")
    assert study.score.metric == "r2"
    assert len(study.rows) == 1
    with pytest.raises(RunFolderError, match="different scores make no study: accuracy, r2"):
        read_any_study(tmp_path / "runs")


def test_a_sweep_has_one_score(swept):
    with pytest.raises(ConfigError, match=r"a sweep has one score, got r2 \(diabetes\) and accuracy \(wine\)"):
        swept(grid='data.name = ["diabetes", "wine"]\n')


def test_a_target_outside_of_a_share_is_refused(swept):
    folder, _ = swept(grid="seed = [0, 1]\n")
    assert make_figures(folder, target=-3.0)
    with pytest.raises(ConfigError, match="--target must be finite, got nan"):
        make_figures(folder, target=float("nan"))


def test_what_a_study_keeps_of_accuracy_has_the_names_of_stored_results():
    values = {"round": 1, "loss": 1.0, "test_loss": 1.0, "test_accuracy": 0.5, "mean_q_s": 1.0, "mean_r_m": None}
    values |= {"signs_received": 1, "moduli_received": 1, "payload_bits": 8, "side_bits": 0, "rejected": 0}
    row = measure([values | {"seconds": {}}])
    assert {"accuracy_last", "accuracy_final", "accuracy_best", "curve_accuracy"} <= row.keys()
    assert "lower_is_better" not in row
