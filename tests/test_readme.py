"""The README is true: its commands run, its tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from spfl.cli import commands as cli
from spfl.config.schema import Config
from spfl.schemes import SCHEMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_DIR = os.environ.get("SPFL_DATA_DIR")


def shell_lines(marker):
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.startswith(marker)]


COMMANDS = shell_lines("spfl ")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder that holds configs/; returns (exit code, stdout)."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
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
    commands = [command for command in COMMANDS if "DIR" not in command]
    assert len(commands) >= 8
    for command in commands:
        code, out = call(cut(command))
        assert (code, bool(out)) == (0, True), command


@pytest.mark.slow
@pytest.mark.skipif(not DATA_DIR, reason="SPFL_DATA_DIR is not set")
@pytest.mark.parametrize("command", [c for c in COMMANDS if "DIR" in c])
def test_commands_on_cifar10(command, call):
    assert call(cut(command.replace(" DIR", f" {DATA_DIR}").replace("0-4", "0")))[0] == 0


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines("make "):
        assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def sections():
    for name, field in Config.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        yield (f"`[{name}]`", list(nested.model_fields)) if is_section else ("(top)", [name])


@pytest.mark.parametrize(("section", "keys"), list(sections()))
def test_every_key_is_listed_in_its_section(section, keys):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {section} |")]
    assert [key for key in keys if f"`{key}`" not in row] == []


def test_every_scheme_named_exists():
    text = README.partition("## Schemes")[2].partition("## ")[0]
    named = re.findall(r"^\* `(\w+)`", text, re.MULTILINE)
    assert named
    assert set(named) <= SCHEMES.keys()


def test_every_command_is_in_the_table():
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert [name for name in names if f"| `spfl {name} " not in README and f"| `spfl {name}`" not in README] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
