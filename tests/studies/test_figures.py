"""Figures and tables of studies: what they show and claim, read back from what is drawn and written."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from scipy import stats

from spfl.cli import commands as cli
from spfl.errors import ConfigError, RunFolderError
from spfl.figures.drawing import band, band_kind, half_width
from spfl.studies.figures import Drawing, forest_figure, make_figures, panels_figure
from spfl.studies.panels import axis_panels, curve_panels
from spfl.studies.points import load_points
from spfl.studies.runner import sweep
from spfl.studies.statistics import choose_reference, paired, paired_table, score_table, target_table
from spfl.studies.study import Study, read_study, title
from spfl.studies.tables import write_tables

SCHEMES = {"error_free": 0.9, "single_packet": 0.5, "sp_fl": 0.6}
ROUNDS = [2, 4, 6, 8]


def point(scheme, seed, accuracy, **settings):
    """A row of results.jsonl whose curve rises to `accuracy` in a straight line."""
    key = json.dumps([scheme, seed, settings])
    row = {"key": key, "scheme": scheme, "seed": seed, "validation": False, "status": "done", "error": None}
    row["settings"] = {"scheme.name": scheme, "seed": seed} | {k.replace("__", "."): v for k, v in settings.items()}
    row |= {"accuracy_last": accuracy, "accuracy_final": accuracy, "mean_q_s": 0.5, "wall_s": 1.0}
    row |= {"payload_bits_per_round": 1e6, "uplink_s_per_round": 0.5, "seconds_per_round": {"gradients": 0.1}}
    row |= {"curve_round": ROUNDS, "curve_accuracy": [accuracy * r / 8 for r in ROUNDS]}
    return row | {"curve_payload_bits": [10**6 * r for r in ROUNDS]}


def study_of(rows, tmp_path):
    write_tables(tmp_path, rows)
    return read_study(tmp_path)


@pytest.fixture
def study(tmp_path):
    """Three schemes, three seeds, two SNRs and three distributions, in grids one key at a time."""
    rows = []
    for snr, partition, alpha in [(-3.0, "dirichlet", 0.3), (3.0, "dirichlet", 0.3), (-3.0, "dirichlet", 0.1),
                                  (-3.0, "iid", 0.3)]:  # fmt: skip
        world = {"channel__median_snr_db": snr, "data__partition": partition, "data__dirichlet_alpha": alpha}
        rows += [
            point(scheme, seed, level + 0.01 * seed + 0.01 * snr + 0.1 * alpha, **world)
            for seed in range(3)
            for scheme, level in SCHEMES.items()
        ]
    return study_of(rows, tmp_path)


# --- series, slices, axes -----------------------------------------------------------------------------------


def test_slices_and_axes_with_iid_as_the_limit(study):
    assert [title(setting) for setting in study.slices()] == [
        "−3 dB, α = 0.1",
        "−3 dB, α = 0.3",
        "−3 dB, IID",
        "3 dB, α = 0.3",
    ]
    assert study.axes() == ["channel.median_snr_db", "data.dirichlet_alpha"]
    assert study.values("data.dirichlet_alpha") == [0.1, 0.3, math.inf]
    assert {len(rows) for rows in study.slices().values()} == {9}
    assert list(study.series(study.rows)) == list(SCHEMES)


def test_series_tell_what_varies_within_a_scheme_and_nothing_else(tmp_path):
    rows = [point("single_packet", 0, 0.5, training__rate=0.1, scheme__shrink=None)]
    rows += [point("sp_fl", 0, 0.5, training__rate=0.2, scheme__shrink=shrink) for shrink in (0.25, 1.0)]
    study = study_of(rows, tmp_path)
    assert list(study.series(study.rows)) == ["single_packet", "sp_fl (shrink = 0.25)", "sp_fl (shrink = 1)"]
    assert list(study.slices()) == [()]
    assert study.axes() == ["scheme.shrink"]  # the rate belongs to the scheme: nothing is seen along it
    assert list(study.series(study.rows, "scheme.shrink")) == ["single_packet", "sp_fl"]


def test_a_rate_that_each_setting_has_of_its_own_makes_no_series(tmp_path):
    def rows(rates):
        worlds = zip((-3.0, 3.0, 9.0), rates, strict=True)
        return [point("sp_fl", 0, 0.5, channel__median_snr_db=snr, training__rate=rate) for snr, rate in worlds]

    tuned = study_of(rows((0.1, 0.3, 0.3)), tmp_path)
    assert list(tuned.series(tuned.rows)) == ["sp_fl"]
    assert tuned.axes() == ["channel.median_snr_db"]
    several = study_of(rows((0.1, 0.3, 0.3)) + rows((0.2, 0.2, 0.2)), tmp_path)
    assert list(several.series(several.rows)) == ["sp_fl (rate = 0.1)", "sp_fl (rate = 0.3)", "sp_fl (rate = 0.2)"]


def test_what_is_text_is_a_slice_and_no_axis(tmp_path):
    rows = [point("sp_fl", 0, 0.5, channel__fading=fading, training__flip=flip) for fading in ("block", "independent")
            for flip in (False, True)]  # fmt: skip
    study = study_of(rows, tmp_path)
    assert study.axes() == []
    assert title(next(iter(study.slices()))) == "fading = block, flip = False"


def test_folders_that_hold_no_study(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no results.parquet"):
        read_study(tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(RunFolderError, match=r"results.parquet cannot be read"):
        read_study(tmp_path)
    row = point("sp_fl", 0, 0.5)
    del row["uplink_s_per_round"]
    write_tables(tmp_path, [row])
    with pytest.raises(RunFolderError, match="no column uplink_s_per_round"):
        read_study(tmp_path)


# --- numbers ------------------------------------------------------------------------------------------------


def test_half_width_is_the_t_interval():
    values = [0.41, 0.44, 0.39, 0.47]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width([0.4]) is None


def test_score_table(study):
    rows = score_table(study)
    assert len(rows) == 12
    (row,) = [r for r in rows if r["series"] == "sp_fl" and r["slice"]["channel.median_snr_db"] == 3.0]
    assert row["mean"] == pytest.approx(0.6 + 0.01 + 0.03 + 0.03)
    assert row["std"] == pytest.approx(0.01)
    assert row["n"] == 3


def test_pairs_are_by_seed(tmp_path):
    """Seeds that differ by far more than the schemes: only a paired test can see it. The second scheme lacks a seed."""
    noise = np.random.default_rng(0).normal(0, 0.001, 6)
    rows = [point("sp_fl", seed, 0.5 + 0.05 * seed + noise[seed]) for seed in range(6)]
    rows += [point("single_packet", seed, 0.48 + 0.05 * seed) for seed in (5, 3, 1, 0, 2)]
    rows += [point("error_free", seed, 0.9 + 0.05 * seed) for seed in (7, 8)]
    (row,) = paired_table(study_of(rows, tmp_path), "sp_fl")
    both = [0, 1, 2, 3, 5]
    expected = stats.ttest_rel([rows[seed]["accuracy_last"] for seed in both], [0.48 + 0.05 * seed for seed in both])
    assert (row["series"], row["n"], row["verdict"]) == ("single_packet", 5, "better")
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["difference"] == pytest.approx(0.02 + noise[both].mean())
    interval = expected.confidence_interval(0.95)
    assert row["half_width"] == pytest.approx((interval.high - interval.low) / 2)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.02, 0.021, 0.022, 0.02, 0.019], "better"),
        ([-0.02, -0.021, -0.022, -0.02, -0.019], "worse"),
        ([0.02, 0.021, 0.022, 0.02], "not shown"),  # four seeds
        ([0.02, 0.03, -0.01, 0.02, 0.03], "not shown"),  # p is 0.07
        ([0.02, 0.01, 0.03, 0.005, 0.035], "not shown"),  # p is 0.03
        ([0.02] * 5, "not shown"),  # no spread, so no test
        ([0.0] * 5, "not shown"),
        ([0.02], "not shown"),
    ],
)
def test_claims_need_five_seeds_and_one_per_cent(differences, verdict):
    assert paired(differences)["verdict"] == verdict


def test_reference(study, tmp_path):
    assert choose_reference(study, None) == "sp_fl"
    assert choose_reference(study, "error_free") == "error_free"
    with pytest.raises(ConfigError, match=r"no series 'sp_fi' \(did you mean 'sp_fl'\?\)"):
        choose_reference(study, "sp_fi")
    variants = Study([{**r, "key": str(i), "scheme": "sp_fl", "scheme.name": "sp_fl", "scheme.shrink": i}
                      for i, r in enumerate(study.rows[:2])], ["scheme.name", "seed", "scheme.shrink"])  # fmt: skip
    assert choose_reference(variants, None) is None
    assert choose_reference(variants, "sp_fl (shrink = 1)") == "sp_fl (shrink = 1)"
    more = Study([*variants.rows, {**variants.rows[1], "key": "2", "seed": 9}], variants.swept)
    assert choose_reference(more, None) == "sp_fl (shrink = 1)"  # the one of more runs
    with pytest.raises(ConfigError, match=r"not unique; name one of: sp_fl \(shrink = 0\); sp_fl \(shrink = 1\)"):
        choose_reference(variants, "sp_fl")


def test_cost_to_a_target(tmp_path):
    rows = [point("sp_fl", seed, accuracy) for seed, accuracy in enumerate([0.4, 0.8, 0.8])]
    rows += [point("single_packet", seed, accuracy) for seed, accuracy in enumerate([0.39, 0.39, 0.8])]
    study = study_of(rows, tmp_path)
    first, second = target_table(study, 0.4)
    assert (first["rounds"], first["payload_bits"], first["uplink_s"], first["reached"]) == (4, 4e6, 2.0, 3)
    assert (second["rounds"], second["reached"], second["n"]) == (math.inf, 1, 3)
    for reference, target in [("sp_fl", 0.9 * 2.0 / 3), ("single_packet", 0.9 * 1.58 / 3), (None, 0.9 * 2.0 / 3)]:
        assert [row["target"] for row in target_table(study, None, reference)] == pytest.approx([target] * 2)


# --- what is drawn ------------------------------------------------------------------------------------------


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_the_data(study):
    figure = panels_figure(Drawing(study), curve_panels(study, "payload", "Mbit"))
    assert labels(figure) == list(SCHEMES)
    assert [axes.get_title() for axes in figure.axes] == [title(setting) for setting in study.slices()]
    for axes, rows in zip(figure.axes, study.slices().values(), strict=True):
        for line, band_, members in zip(axes.lines, axes.collections, study.series(rows).values(), strict=True):
            x, accuracy = study.curves(members, "payload_bits")
            np.testing.assert_allclose(line.get_xdata(), 1e-6 * x)
            np.testing.assert_allclose(line.get_ydata(), accuracy.mean(0))
            top = max(column.mean() + half_width(column.tolist()) for column in accuracy.T)
            assert band_.get_paths()[0].vertices[:, 1].max() == pytest.approx(top)
        low, high = axes.get_ylim()
        assert low <= min(line.get_ydata().min() for line in figure.axes[0].lines)
        assert high >= max(line.get_ydata().max() for a in figure.axes for line in a.lines)


def test_axis_figures_hold_the_slices_that_vary_along_them(study):
    snr = panels_figure(Drawing(study), axis_panels(study, "channel.median_snr_db"))
    assert [axes.get_title() for axes in snr.axes] == ["α = 0.3"]
    assert [line.get_xdata().tolist() for line in snr.axes[0].lines] == [[-3.0, 3.0]] * 3
    np.testing.assert_allclose(snr.axes[0].lines[1].get_ydata(), [0.5 + 0.01 - 0.03 + 0.03, 0.5 + 0.01 + 0.03 + 0.03])
    assert snr.axes[0].get_xlabel() == "Median SNR (dB)"
    alpha = panels_figure(Drawing(study), axis_panels(study, "data.dirichlet_alpha"))
    assert [axes.get_title() for axes in alpha.axes] == ["−3 dB"]
    assert [text.get_text() for text in alpha.axes[0].get_xticklabels()] == ["0.1", "0.3", "IID"]
    assert alpha.axes[0].get_xscale() == "log"


def test_many_slices_make_several_figures(tmp_path):
    rows = [point("sp_fl", 0, 0.5, data__devices=n, codec__bits=b) for n in range(1, 6) for b in (1, 2)]
    study = study_of(rows, tmp_path)
    pages = list(curve_panels(study, "rounds", "Round").pages())
    assert [len(panels_figure(Drawing(study), page).axes) for page in pages] == [9, 1]
    names = sorted(path.name for path in make_figures(tmp_path))
    assert names == [
        "accuracy_vs_bits.png",
        "accuracy_vs_devices.png",
        "accuracy_vs_payload_1.png",
        "accuracy_vs_payload_2.png",
        "accuracy_vs_rounds_1.png",
        "accuracy_vs_rounds_2.png",
        "table.json",
        "table.md",
    ]


def test_bands_say_what_they_are():
    values = np.array([[0.1], [0.2], [0.4]])
    assert band_kind([3, 5]) == "mean and its 95 % confidence interval, n = 3 to 5"
    assert band_kind([2, 2]) == "mean, lowest and highest, n = 2"
    assert band_kind([1, 1]) == "n = 1"
    low, high = band(values, band_kind([3]))
    assert (low[0], high[0]) == pytest.approx(stats.t.interval(0.95, 2, values.mean(), stats.sem(values.ravel())))
    assert [edge[0] for edge in band(values[:2], band_kind([2]))] == [0.1, 0.2]
    assert band(values[:1], "") is None


def test_forest(study):
    table = paired_table(study, "sp_fl")
    figure = forest_figure(table, "sp_fl", Drawing(study))
    assert [axes.get_title() for axes in figure.axes] == ["error_free", "single_packet"]
    for axes in figure.axes:
        mine = [row for row in table if row["series"] == axes.get_title()]
        drawn = [bar.lines[0].get_xydata()[0] for bar in axes.containers]
        np.testing.assert_allclose(drawn, [(100 * row["difference"], y) for y, row in enumerate(mine)])
        assert {bar.lines[0].get_markerfacecolor() for bar in axes.containers} == {"white"}  # three seeds: no claim
    one_slice = forest_figure(table[:2], "sp_fl", Drawing(study))
    assert len(one_slice.axes) == 1


# --- from a sweep to its figures ----------------------------------------------------------------------------


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.toml").write_text(
        'base.data.devices = 4\nbase.model.name = "softmax"\nbase.training.rounds = 4\nbase.training.eval_every = 2\n'
        '[[grid]]\nseed = [0, 1]\ncodec.bits = [1, 4]\nscheme.name = ["single_packet", "sp_fl"]\n'
    )
    rows = sweep(load_points(tmp_path / "sweep.toml"), tmp_path / "out", processes=1)
    command = ["spfl", "figures", str(tmp_path / "out"), "--out", str(tmp_path / "f"), "--format", "svg"]
    monkeypatch.setattr(sys, "argv", [*command, "--reference", "single_packet", "--target", "0.01"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(path) for path in (tmp_path / "f").iterdir())
    assert {path.rpartition("/")[2] for path in printed} >= {"accuracy_vs_bits.svg", "paired_differences.svg"}
    tables = json.loads((tmp_path / "f" / "table.json").read_text())
    assert tables["reference"] == "single_packet"
    accuracy = {(r["settings"]["codec.bits"], r["scheme"], r["seed"]): r["accuracy_last"] for r in rows}
    for row in tables["paired"]:
        bits = row["slice"]["codec.bits"]
        differences = [accuracy[bits, "single_packet", s] - accuracy[bits, "sp_fl", s] for s in (0, 1)]
        assert row["difference"] == pytest.approx(np.mean(differences))
    assert {row["rounds"] for row in tables["target"]} == {2.0}
    text = (tmp_path / "f" / "table.md").read_text()
    assert "| bits | scheme | difference | ± | p | n | verdict |" in text
    assert text.count("not shown") == 2
