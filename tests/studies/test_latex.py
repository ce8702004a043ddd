"""What LaTeX prints of a study: the numbers and looks of the figures, the tables of the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from spfl.cli import commands as cli
from spfl.errors import ConfigError
from spfl.figures.style import FigureStyle
from spfl.runs.comparison import compare
from spfl.runs.results import Run
from spfl.studies.export import export
from spfl.studies.latex.devices import _got
from spfl.studies.latex.document import Printed, latex_files
from spfl.studies.latex.pens import DASHES, MARKS, OWN, TURNED, declared, pens
from spfl.studies.latex.pictures import panels_tex
from spfl.studies.latex.tables import paired_tex, summary_tex, target_tex, three_digits
from spfl.studies.panels import axis_panels, curve_panels, study_panels
from spfl.studies.recorded import read_any_study
from spfl.studies.statistics import paired_table, target_table
from spfl.studies.study import Study

SCHEMES = ("error_free", "single_packet", "sp_fl")


@pytest.fixture(scope="module")
def compared(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latex") / "compared"
    compare(small_config(training={"rounds": 4, "eval_every": 2}), SCHEMES, [0, 1], digits, folder)
    return folder


@pytest.fixture(scope="module")
def study():
    """Three schemes and six seeds at three SNRs; the first scheme is surely better than the second at two of them."""
    rng, rows = np.random.default_rng(0), []
    for snr, gap in ((-3.0, 0.0), (3.0, 0.05), (9.0, 0.1)):
        for seed in range(6):
            for scheme, score in (("sp_fl", 0.6 + gap), ("drive", 0.6), ("error_free", 0.9)):
                curve = (np.array([0.3, 0.8, 1.0]) * (score + rng.normal(0, 0.001))).tolist()
                about = {"key": str(len(rows)), "scheme": scheme, "scheme.name": scheme, "seed": seed}
                about |= {"channel.median_snr_db": snr, "validation": False, "uplink_s_per_round": 0.5}
                about |= {"curve_round": [1, 5, 9], "curve_payload_bits": [1e6, 5e6, 9e6], "curve_accuracy": curve}
                rows.append(about | {"accuracy_last": curve[-1], "payload_bits_per_round": 1e6})
    return Study(rows, ["scheme.name", "seed", "channel.median_snr_db"])


def row(series, mean, setting=None, verdict=None, half=0.011):
    about = {"series": series, "scheme": series, "n": 5, "accuracy": mean, "accuracy_half_width": half}
    about |= {} if setting is None else {"channel.median_snr_db": setting}
    return about | {"energy_j_per_round": 0.00345, "reference": "sp_fl", "verdict": verdict}


def cells(text):
    """The rows of a table, each a list of cells."""
    return [
        [cell.strip() for cell in line.removesuffix(r" \\").split("&")] for line in text.splitlines() if "&" in line
    ]


# --- tables -------------------------------------------------------------------------------------------------


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


def test_a_long_heading_stands_in_several_lines():
    key = "channel.symbols_per_parameter"
    text = summary_tex([row("sp_fl", 0.9) | {key: 1.0}, row("sp_fl", 0.9) | {key: 2.0}])
    assert r"\shortstack[r]{Complex symbols \\ per parameter \\ and device}" in text


def test_paired_differences_are_those_of_the_tests(study):
    table = paired_table(study, "sp_fl")
    text = paired_tex(table, "sp_fl", style=FigureStyle(labels={"sp_fl": "SP-FL"}))
    told = [line for line in cells(text) if line[1] == "drive"]
    wanted = [one for one in table if one["series"] == "drive"]
    assert [line[2].partition(r" \pm")[0].strip("$") for line in told] == [
        f"{100 * one['difference']:+.2f}" for one in wanted
    ]
    assert [r"\dagger" in line[2] for line in told] == [False, True, True]
    assert [line[3] for line in told] == [f"{one['p']:.2g}" for one in wanted]
    assert r"$^{\dagger}$: SP-FL is better" in text
    assert r"$^{\ddagger}$: SP-FL is worse" in text  # than the scheme without losses
    assert "not corrected for the 6 comparisons" in text


def test_the_least_cost_to_a_target_is_bold_and_what_is_not_reached_is_no_number(study):
    text = target_tex(target_table(study, 0.55, "sp_fl"))
    last = [line for line in cells(text) if len(line) == 7 and line[1] in (r"sp\_f{}l", "drive", r"error\_free")][-3:]
    assert [line[4:] for line in last] == [
        [r"\textbf{5}", r"\textbf{5}", r"\textbf{2.5}"],
        ["9", "9", "4.5"],
        ["5", "5", "2.5"],  # a bound is in no race
    ]
    assert [line[4:] for line in cells(target_tex(target_table(study, 0.99)))[-3:]] == [["--"] * 3] * 3
    assert r"\textbf" not in target_tex(target_table(study, 0.99))
    alone = [row for row in target_table(study, 0.55) if row["series"] == "sp_fl"]
    assert r"\textbf" not in target_tex(alone)  # there is nobody to be better than


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "--"),
        (float("inf"), "--"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (1234.0, "1234"),
        (2e-5, r"$2.00\times 10^{-5}$"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert three_digits(value) == text


def test_what_devices_got_is_that_of_the_run(compared):
    run = Run.load(compared / "single_packet-0")
    frame, gains = run.allocation.to_pandas(), run.devices.to_pandas().sort_values("gain", ascending=False)
    got = _got(run)
    for place, device in enumerate(gains["device"]):
        mine = frame[frame["device"] == device]
        assert got.share[place] == pytest.approx(mine["beta"].mean())
        assert got.signs[place] == pytest.approx(mine["sign"].mean())
        assert got.moduli[place] == pytest.approx((mine["modulus"] & mine["sign"]).mean())
    texts = {path.stem: path.read_text() for path in export(compared, "tex", compared / "tex")}
    lines = cells(texts["allocation"])
    heads = [(int(n), name) for n, name in re.findall(r"\\multicolumn{(\d)}{c}{(.*?)}(?: &| \\)", texts["allocation"])]
    assert sorted(heads) == [(3, r"error\_free"), (3, r"single\_packet"), (4, r"sp\_f{}l")]
    assert [line[0] for line in lines[3:]] == [str(i + 1) for i in range(6)]  # of six devices
    before = sum(n for n, _ in heads[: [name for _, name in heads].index(r"error\_free")])
    assert {line[3 + before] for line in lines[3:]} == {"100"}  # nothing is lost
    assert [line[4 + before] for line in lines[1:3]] == ["Energy", "(mJ)"]
    spent = np.mean([_got(Run.load(compared / f"error_free-{seed}")).energy_j for seed in (0, 1)], axis=0)
    assert [line[4 + before] for line in lines[3:]] == [three_digits(1e3 * float(x)) for x in spent]


def test_devices_are_ranked_by_gain_and_means_are_of_the_rounds_in_which_they_took_part():
    run = SimpleNamespace(
        rounds=[{}, {}],
        devices=pa.table({"device": [0, 1, 2], "gain": [1e-3, 1e-1, 1e-2]}),
        allocation=pa.table(
            {
                "device": [0, 1, 1, 7],  # 7 is in no table of devices
                "beta": [0.25, 0.5, 1.0, 0.25],
                "sign": [True, True, False, True],
                "modulus": [False, True, True, True],
                "joules": [1.0, 2.0, 4.0, 8.0],
            }
        ),
    )
    got = _got(run)
    np.testing.assert_allclose(got.gain_db, [-10, -20, -30])
    np.testing.assert_allclose(got.share, [0.75, 0, 0.25])
    np.testing.assert_allclose(got.signs, [0.5, 0, 1])
    np.testing.assert_allclose(got.moduli, [0.5, 0, 0])
    np.testing.assert_allclose(got.energy_j, [3, 0, 0.5])


# --- pictures -----------------------------------------------------------------------------------------------


def lines_of(text):
    """(colour, dash, marker, [(x, y), ...]) of every line in a picture."""
    found = re.findall(r"\\addplot\[(spfl\d+), ([a-z ]+), mark=([a-z* ]+)[^{]*{[^{]*{\n(.*?)\n}", text, re.DOTALL)
    return [(*looks, np.array([line.split() for line in told.splitlines()], float)) for *looks, told in found]


def test_curves_have_the_numbers_and_the_looks_of_the_figures(compared):
    study = read_any_study(compared)
    style = FigureStyle(labels={"sp_fl": "SP-FL"}, colours={"sp_fl": "red"}, order=("sp_fl",))
    text = panels_tex(study, curve_panels(study, "rounds", "Communication round"), style)
    assert re.findall(r"\\addlegendentry{(.*)}", text) == ["SP-FL", r"single\_packet", r"error\_free"]
    assert [line[:3] for line in lines_of(text)] == [
        ("spfl0", "solid", "*"),
        ("spfl1", "dashed", "square*"),
        ("spfl2", "dashed", "spfl plus"),
    ]
    assert r"\definecolor{spfl0}{HTML}{FF0000}" in text
    for (*_, told), name in zip(lines_of(text), ("sp_fl", "single_packet", "error_free"), strict=True):
        x, wanted = study.curves(study.series(study.rows)[name], "round")
        np.testing.assert_allclose(told[:, 0], x)
        np.testing.assert_allclose(told[:, 1], 100 * wanted.mean(0), rtol=1e-5)
    assert text.count("fill opacity") == 3  # a band each: two seeds


def test_a_swept_number_has_its_values_for_ticks(study):
    text = panels_tex(study, axis_panels(study, "channel.median_snr_db"))
    assert r"xtick={-3, 3, 9}, xticklabels={{\ensuremath{-}3}, {3}, {9}}" in text
    by_scheme = dict(zip(re.findall(r"\\addlegendentry{(.*)}", text), lines_of(text), strict=True))
    wanted = [np.mean([r["accuracy_last"] for r in study.rows if r["scheme"] == "drive" and
                       r["channel.median_snr_db"] == snr]) for snr in (-3.0, 3.0, 9.0)]  # fmt: skip
    np.testing.assert_allclose(by_scheme["drive"][3][:, 1], 100 * np.array(wanted), rtol=1e-5)
    assert r"\caption{Test accuracy against median SNR. Mean and its 95 \% confidence interval, n = 6.}" in text


def test_all_panels_have_common_limits(study):
    text = panels_tex(study, curve_panels(study, "rounds", "Round"))
    assert text.count(r"\nextgroupplot") == 3
    (low,), (high,) = (re.findall(rf"{end}=([-\d.]+)", text) for end in ("ymin", "ymax"))
    every = np.concatenate([line[3][:, 1] for line in lines_of(text)])
    assert float(low) < every.min() < every.max() < float(high) <= 100


def sending(study, payloads):
    """The study with the payloads (Mbit, evaluation) that each scheme sent."""
    told = {name: [1e6 * x for x in sent] for name, sent in payloads.items()}
    return replace(study, rows=[r | {"curve_payload_bits": told[r["scheme"]]} for r in study.rows])


def test_who_sends_nothing_or_nothing_at_first_has_a_place_on_the_axis(study):
    """A logarithm has none for 0."""
    late = sending(study, {"sp_fl": [0, 5, 9], "drive": [1, 5, 9], "error_free": [10, 50, 90]})
    page = curve_panels(late, "payload", "Payload sent (Mbit)")
    (xmin,) = re.findall(r"xmode=log.* xmin=([^,]+),", panels_tex(late, page))
    assert 0 < float(xmin) < 1
    never = sending(study, {"sp_fl": [0, 0, 0], "drive": [1, 5, 9], "error_free": [10, 50, 90]})
    assert "xmode=log" not in panels_tex(never, curve_panels(never, "payload", "Payload sent (Mbit)"))


def test_every_marker_has_a_sign_of_its_own_in_latex():
    drawn = {(OWN.get(name) or MARKS[name], TURNED.get(name, 0)) for name in {**MARKS, **OWN}}
    assert len(drawn) == len({**MARKS, **OWN})
    assert set(MARKS) | set(OWN) == set(cli_markers())
    assert len(set(DASHES.values())) == len(DASHES)
    assert declared(pens(["error_free"], FigureStyle()).values()).count("pgfdeclareplotmark") == 1


def cli_markers():
    from spfl.figures.looks import MARKERS

    return MARKERS


def test_differences_are_full_where_the_test_shows_them(study):
    text = latex_files(Printed(study, "sp_fl"))["paired_differences"]
    hollow, full = (re.findall(rf"\\addplot\[only marks, spfl\d, {mark}", text) for mark in
                    (r"[^}]*fill=white", r"[^}]*rotate=\d+}"))  # fmt: skip
    assert (len(hollow), len(full)) == (1, 2)  # drive at the least SNR; the rest of it, and the bound
    assert text.count(r"\nextgroupplot") == 2


# --- documents ----------------------------------------------------------------------------------------------


def test_there_is_a_picture_for_each_figure(study):
    names = list(latex_files(Printed(study, "sp_fl")))
    pages = [page.name for panels in study_panels(study) for page in panels.pages()]
    assert names == ["summary", "paired", "target", *pages, "paired_differences", "preview"]
    assert pages == ["accuracy_vs_rounds", "accuracy_vs_payload", "accuracy_vs_median_snr_db"]
    assert "paired" not in latex_files(Printed(study))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_latex_takes_all_of_it(compared, study, tmp_path):
    paths = export(compared, "tex", tmp_path)
    (tmp_path / "study").mkdir()
    for name, text in latex_files(Printed(study, "sp_fl")).items():
        (tmp_path / "study" / f"{name}.tex").write_text(text)
    assert paths[-1].name == "preview.tex"
    for folder in (tmp_path, tmp_path / "study"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "preview.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-500:]


def test_options_that_tables_know_nothing_of_are_refused(compared, capsys, monkeypatch):
    given = ["export", str(compared), "--format", "csv", "--labels", "sp_fl=x", "--target", "0.5"]
    monkeypatch.setattr("sys.argv", ["spfl", *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--target, --labels: no effect with --format csv, only with tex" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--target must be in \[0, 1\], got 7"):
        export(compared, "tex", target=7.0)
