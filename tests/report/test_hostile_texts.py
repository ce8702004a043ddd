"""Texts of a folder of somebody else in the report: shown, and not trusted."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape

import pytest

from spfl.report.page import write_report
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

EVIL = (
    '<img src="https://evil.example/x">',
    '<a href="https://evil.example">here</a>',
    "</script><script>fetch('https://evil.example')</script>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "</code></pre><iframe src=https://evil.example>",
)
SHELL = "$(touch owned); `touch owned` | sh && rm -rf ~ #"


@pytest.fixture(scope="module")
def run(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "run"
    run_experiment(small_config(training={"rounds": 2, "eval_every": 1}), digits, folder)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "s.toml").write_text(
        'base.model.name = "softmax"\nbase.training.rounds = 2\nbase.training.eval_every = 1\nbase.data.devices = 4\n'
        '[[grid]]\nseed = [0, 1]\n"channel.median_snr_db" = [0.0, 6.0]\n"scheme.name" = ["single_packet", "sp_fl"]\n'
    )
    sweep(load_points(folder / "s.toml"), folder / "study", processes=1)
    return folder / "study"


def assert_harmless(page):
    """What is text in the page stays text: no tag of the attacker's outside of the page's own."""
    shown = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)  # plotly itself, and figures as JSON
    for tag in re.findall(r"<[a-zA-Z][^>]*>", shown):
        assert "evil" not in tag, tag
        assert "onload" not in tag, tag
    assert not re.search(r"<(img|iframe|svg|a)\b[^>]*evil", shown)
    for figure in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        for text in texts(json.loads(figure)):
            assert not re.search(r"<(?!/?(br|b|i|sub|sup|extra)>)", text), text
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy.group(1)


def texts(value):
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(item)


@pytest.mark.parametrize("text", [*EVIL, SHELL, "\x1b]0;title\x07\x1b[2J"])
def test_texts_of_a_run_folder_are_text(text, run, tmp_path):
    folder = tmp_path / f"run {text.replace('/', '_')}"[:60]
    shutil.copytree(run, folder)
    environment = json.loads((folder / "environment.json").read_text())
    environment |= {"commit": text, "dataset": {"name": text, "crc32": text}, "custom": {text: text}}
    environment["versions"] = dict.fromkeys(environment["versions"], text)
    (folder / "environment.json").write_text(json.dumps(environment))
    page = write_report(folder).read_text(encoding="utf-8")
    assert_harmless(page)


@pytest.mark.parametrize("text", EVIL)
def test_texts_of_a_study_are_text(text, swept, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(swept, folder)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        if row["scheme"] == "sp_fl":
            row["scheme"] = row["settings"]["scheme.name"] = text
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from spfl.studies.tables import write_tables

    write_tables(folder, rows)
    assert_harmless(write_report(folder).read_text(encoding="utf-8"))


def test_do_it_again_quotes_what_comes_of_the_folder(run, tmp_path):
    folder = tmp_path / SHELL.replace("/", "_")
    shutil.copytree(run, folder)
    environment = json.loads((folder / "environment.json").read_text())
    environment |= {"commit": SHELL, "versions": dict.fromkeys(environment["versions"], SHELL)}
    (folder / "environment.json").write_text(json.dumps(environment))
    page = write_report(folder).read_text(encoding="utf-8")
    lines = [unescape(re.sub(r"<[^>]*>", "", line)) for line in page.splitlines()]  # a text has no tag of its own
    commands = [line for line in lines if line.startswith(("spfl run", "spfl verify", "spfl sweep", "pip ", "git "))]
    assert commands
    for line in commands:
        for word in shlex.split(line):
            assert "touch owned" not in word or word.endswith(("config.toml", folder.name)), line
