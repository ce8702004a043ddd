"""The report: its numbers are those of the run folders, and a browser shows it without a complaint or a network."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import numpy as np
import pyarrow.parquet as pq
import pytest

from spfl.config.files import dotted, load_config, to_toml
from spfl.errors import RunFolderError
from spfl.figures.interactive import score_figure
from spfl.report import figures as report_figures
from spfl.report.page import write_report
from spfl.runs.comparison import compare
from spfl.runs.metrics import ALLOCATION, DEVICES
from spfl.runs.results import progress, read_groups
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCHEMES = ("error_free", "single_packet", "sp_fl_plus")


@pytest.fixture(scope="module")
def compared(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "compared"
    config = small_config(training={"rounds": 6, "eval_every": 2})
    rows = compare(config, SCHEMES, [0, 1], digits, folder)
    return folder, rows


@pytest.fixture(scope="module")
def page(compared):
    return write_report(compared[0]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "sweep.toml").write_text(
        'base.model.name = "softmax"\nbase.training.rounds = 2\nbase.training.eval_every = 1\nbase.data.devices = 4\n'
        '[[grid]]\nseed = [0, 1]\n"channel.median_snr_db" = [0.0, 6.0]\n"scheme.name" = ["single_packet", "sp_fl"]\n'
    )
    points = load_points(folder / "sweep.toml")
    sweep(points, folder / "study", source=folder / "sweep.toml", processes=1)
    return folder / "study"


def figures_of(page):
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)]


def rows_of(page):
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL).group(1)
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in body.split("</tr>")[:-1]]


def test_headline_is_that_of_the_comparison(compared, page):
    """The best first, and the numbers of table.json, which `comparison.tabulate` made."""
    expected = sorted(compared[1], key=lambda row: -row["accuracy_last"])
    found = rows_of(page)
    assert [row[0] for row in found] == [row["scheme"] for row in expected]
    for cells, row in zip(found, expected, strict=True):
        assert cells[1] == f"{100 * row['accuracy_last']:.1f}"
        assert cells[2] == f"{100 * row['accuracy_std']:.1f}"
        assert cells[3] == "2"
        assert cells[5] == f"{row['mean_q_s']:.3f}"
        assert cells[8] == f"{row['bits_per_round'] / 1e6:.3f}"


def test_curves_are_means_over_seeds(compared):
    groups = read_groups(compared[0])
    figure, kind = score_figure([progress(group) for group in groups])
    assert kind == "mean, lowest and highest, n = 2"
    for group in groups:
        lines = [trace for trace in figure.data if trace.name == group.label]
        every = [[r["test_accuracy"] for r in run.rounds if r["test_accuracy"] is not None] for run in group.runs]
        np.testing.assert_allclose(lines[0].y, 100 * np.mean(every, axis=0))
        assert list(lines[0].x) == [2, 4, 6]
        spent = np.mean([np.cumsum([r["payload_bits"] for r in run.rounds]) for run in group.runs], axis=0)
        np.testing.assert_allclose(lines[1].x, 1e-6 * spent[[1, 3, 5]])


def test_cell_shows_what_devices_got(compared):
    (group,) = [group for group in read_groups(compared[0]) if group.scheme == "sp_fl_plus"]
    run = group.runs[0]
    table = pq.read_table(run.folder / ALLOCATION).to_pandas()
    means = table.groupby("device")[["beta", "alpha", "q_s", "sign"]].mean()
    points = report_figures.cell_figure(run).data[0]
    distance = pq.read_table(run.folder / DEVICES)["distance_m"].to_numpy()
    np.testing.assert_allclose(np.hypot(points.x, points.y), distance)
    np.testing.assert_allclose(points.customdata[:, 3], means["beta"])
    np.testing.assert_allclose(points.customdata[:, 5], means["q_s"])
    bars = report_figures.devices_figure(run).data
    order = np.argsort(distance)
    np.testing.assert_allclose(bars[0].y + bars[1].y, means["beta"].to_numpy()[order])
    np.testing.assert_allclose(bars[3].y, means["sign"].to_numpy()[order])


def test_every_section_has_what_it_promises(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Results",
        "Accuracy",
        "The cell",
        "Who matters and who is received",
        "Packets round by round",
        "Training loss",
        "Allocation certificate",
        "Where the time goes",
        "Configuration",
        "Do it again",
    ]
    assert "spfl compare" in page
    assert "versions.torch" in page
    assert all(figure["data"] for figure in figures_of(page))


def test_smoothing_is_a_running_mean():
    values = np.random.default_rng(0).normal(size=31)
    slow = [values[max(0, i - 2) : i + 3].mean() for i in range(31)]
    np.testing.assert_allclose(report_figures.smooth(values, 5), slow)
    assert [report_figures.window(n) for n in (1, 59, 60, 200)] == [1, 1, 3, 7]


def test_a_single_run_and_a_running_one(compared, tmp_path):
    whole = compared[0] / "sp_fl_plus-0"
    assert "spfl run" in write_report(whole, tmp_path / "one.html").read_text()
    running = tmp_path / "running"
    shutil.copytree(whole, running)
    for name in ("summary.json", "allocation.parquet", "devices.parquet", "weights.safetensors"):
        (running / name).unlink()
    lines = (running / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (running / "metrics.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    page = write_report(running).read_text()
    assert "Unfinished runs" in page
    assert "The cell" not in re.findall(r"<h2>(.*?)</h2>", page)


def test_a_sweep(swept):
    page = write_report(swept).read_text()
    found = {(row[0], row[4]): row for row in rows_of(page)}
    assert found.keys() == {(scheme, snr) for scheme in ("single_packet", "sp_fl") for snr in ("0.0", "6.0")}
    table = pq.read_table(swept / "results.parquet").to_pandas()
    means = table.groupby(["scheme", "channel.median_snr_db"])["accuracy_last"].mean()
    for (scheme, snr), row in found.items():
        assert row[1] == f"{100 * means[scheme, float(snr)]:.1f}"
    assert "What was swept" in page
    assert "spfl sweep" in page


def test_text_is_escaped(compared, tmp_path):
    """A name with markup in it stays text, in the tables and inside the figures' JSON."""
    evil = "</script><b>evil"
    run = tmp_path / "run"
    shutil.copytree(compared[0] / "sp_fl_plus-0", run)
    config = load_config(run / "config.toml")
    scheme = config.scheme.model_copy(update={"name": evil})
    (run / "config.toml").write_text(to_toml(config.model_copy(update={"scheme": scheme})))
    page = write_report(run).read_text()
    assert evil not in page
    shown = "&lt;/script><b>evil"  # plotly reads a little HTML of its own
    assert any(trace.get("name") == shown for figure in figures_of(page) for trace in figure["data"])


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_nothing_to_report(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_text("")
    with pytest.raises(RunFolderError, match="is not a folder" if kind != "empty" else "holds no run"):
        write_report(path)


def test_dotted():
    assert dotted({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", ["compared", "swept"])
def test_a_browser_shows_it(kind, width, request):
    """No console message, no request, no sideways scrolling; every tab draws its figures, text is readable."""
    sync_api = pytest.importorskip("playwright.sync_api")
    folder = request.getfixturevalue(kind)
    path = write_report(folder[0] if kind == "compared" else folder)
    said, asked = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 900})
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda asks: asked.append(asks.url))
        view.goto(path.as_uri())
        view.wait_for_selector("html[data-ready=true]")
        for tab in view.query_selector_all(".tabs button"):
            tab.click()
            assert tab.get_attribute("aria-selected") == "true"
        empty = view.evaluate(
            "[...document.querySelectorAll('.figure')].filter(f => !f.querySelector('.main-svg')).length"
        )
        widest = view.evaluate("document.documentElement.scrollWidth")
        spill = view.evaluate(
            "[...document.querySelectorAll('.panel:not([hidden]) .figure .main-svg')]"
            ".filter(f => f.getBoundingClientRect().right > innerWidth).length"
        )
        smallest = view.evaluate(
            "Math.min(...[...document.querySelectorAll('h1, h2, p, td, th, dd, dt, button, pre, .legendtext')]"
            ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        hidden = view.evaluate("document.querySelectorAll('.panel:not([hidden])').length")
        sections = view.evaluate("document.querySelectorAll('section').length")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert (empty, spill) == (0, 0)
    assert widest == width
    assert smallest >= 9
    assert hidden == sections


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_at_night_on_paper_and_under_the_pointer(compared, tmp_path):
    """Dark where the system is, light on paper with every tab drawn; the tool bar covers no plot; its file is saved."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = write_report(compared[0], tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="dark")
        view.goto(path.as_uri())
        view.wait_for_selector("html[data-ready=true]")

        def brightness(selector, name):
            return view.evaluate(
                f"getComputedStyle(document.querySelector('{selector}')).{name}.match(/\\d+/g).slice(0, 3)"
                ".reduce((sum, part) => sum + Number(part), 0) / 765"
            )

        assert brightness("body", "backgroundColor") < 0.2
        assert brightness(".xtick text", "fill") > 0.8
        view.hover(".figure .nsewdrag")
        covered = view.evaluate(
            "[...document.querySelectorAll('.figure .main-svg')].filter(svg => {"
            " const bar = svg.parentElement.parentElement.querySelector('.modebar-group');"
            " const plot = svg.querySelector('.plot');"
            " const bottom = bar && bar.getBoundingClientRect().bottom;"
            " return bar && plot && bottom > plot.getBoundingClientRect().top + 1; }).length"
        )
        with view.expect_download() as saved:
            view.click("header a[download]")
        assert load_config(saved.value.path()) == load_config(compared[0] / "config.toml")
        view.evaluate("dispatchEvent(new Event('beforeprint'))")
        undrawn = view.evaluate("[...document.querySelectorAll('.figure')].filter(f => !f.firstChild).length")
        ink = brightness(".xtick text", "fill")
        widest = view.evaluate(
            "Math.max(...[...document.querySelectorAll('.main-svg')].map(f => f.getAttribute('width')))"
        )
        paper = view.pdf(prefer_css_page_size=True)
        browser.close()
    assert covered == 0
    assert (undrawn, widest <= 680, ink < 0.3) == (0, True, True)
    assert re.search(rb"/MediaBox ?\[0 0 59\d(\.\d+)? 84\d", paper)  # A4


def test_do_it_again_says_what_works(compared, swept, tmp_path):
    """A comparison, a run, a sweep by its plan; and what no command can do."""
    assert "spfl compare" in write_report(compared[0], tmp_path / "a.html").read_text()
    text = write_report(swept, tmp_path / "b.html").read_text()
    assert f"spfl sweep {swept / 'plan.toml'} --out runs/again" in text
    assert f"spfl verify {swept}" in text
    old = tmp_path / "old"
    shutil.copytree(swept, old)
    (old / "plan.toml").unlink()
    assert "No command runs this again: an older version wrote it" in write_report(old).read_text()
    own = tmp_path / "own"
    shutil.copytree(compared[0] / "sp_fl_plus-0", own)
    environment = json.loads((own / "environment.json").read_text())
    (own / "environment.json").write_text(json.dumps(environment | {"custom": {"module": "Net"}}))
    text = write_report(own).read_text()
    assert "No command runs this again: it has parts of its caller&#39;s own (module = Net)" in text
    assert "module: Net" in re.search(r"<dl>.*?</dl>", text, re.DOTALL).group()


def test_solvers_without_a_bound_are_called_that(page):
    table = unescape(page.partition("Allocation certificate</h2>")[2].partition("</table>")[0])
    rows = {row[0]: row for row in rows_of(table)}
    assert rows["single_packet"][2] == "none: shares are fixed, nothing is optimised"
    assert float(rows["sp_fl_plus"][2]) >= 0
    assert "no proof" not in page


def test_what_is_wrong_stands_in_a_list(digits, small_config, swept, tmp_path):
    config = small_config(channel={"median_snr_db": -60.0}, training={"rounds": 2, "eval_every": 1})
    compare(config, ["single_packet"], [0, 1], digits, tmp_path / "silent")
    (told,) = re.findall(r'<ul class="findings">(.*?)</ul>', write_report(tmp_path / "silent").read_text("utf-8"))
    assert told.startswith("<li>single_packet, seed 0: nobody was received in 2 of 2 rounds")
    folder = shutil.copytree(swept, tmp_path / "study")
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        row["health"] = {"silence": "<nobody> was received"} if row is rows[0] else {}
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (told,) = re.findall(r'<ul class="findings">(.*?)</ul>', write_report(folder).read_text("utf-8"))
    settings = ", ".join(f"{key} = {value}" for key, value in rows[0]["settings"].items() if key != "scheme.name")
    assert told == f"<li>{rows[0]['scheme']}, {settings}: &lt;nobody&gt; was received</li>"
