"""The README is true: its commands run, and what comes first stands first."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from spfl.cli import commands as cli
from spfl.presets import write_project

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines(marker):
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.startswith(marker)]


COMMANDS = shell_lines("spfl ")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder that holds what `spfl init .` writes; returns (exit code, stdout)."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(command):
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().out

    return run


def cut(command):
    """The same command with few rounds, where it trains."""
    trains = re.match("spfl (run|compare|sweep)", command) and not re.match("spfl run.*--resume", command)
    return f"{command} --set training.rounds=3" if trains else command


def test_commands(call):
    """All in order and in one folder, as a reader would type them: later ones read what earlier ones wrote."""
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        code, out = call(cut(command))
        assert (code, bool(out)) == (0, True), command


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines("make "):
        assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_it_is_short_and_says_the_first_things_first():
    assert len(README.splitlines()) <= 95
    first = README.index("examples/paper_round.py")
    assert README.index("known to us by its abstract") < first < README.index("## Install")
    assert min(match.start() for match in re.finditer(r"\]\(examples/", README)) < README.index("## Install")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
