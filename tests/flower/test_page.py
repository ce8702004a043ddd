"""docs/deploy.md is true: its files and the commands that need no second host, as they are written."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from pathlib import Path

import pytest

from spfl.cli import commands as cli
from spfl.flower import client_app

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
FILES = {title: body for _, title, body in BLOCKS if title}
SCRIPTS = [body for kind, title, body in BLOCKS if kind == "python" and not title]


def spfl(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0, command


def test_own_data_and_an_own_network_as_the_page_has_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("bars", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    client_app._site.cache_clear()
    exec(compile(SCRIPTS[0], "deploy.md", "exec"), {})
    for name, body in FILES.items():
        Path(name).write_text(body)
    commands = re.findall(r"^spfl flower (?:run|init) .*mine.*$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        if "--engine deploy" not in command:  # the slow tests start processes
            spfl(command, monkeypatch)
    assert "test accuracy" in capsys.readouterr().out
    assert (tmp_path / "my-own-app" / "spfl_app" / "own.py").read_text() == Path("mine.py").read_text()


def test_tables_of_nodes_as_the_page_has_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    client_app._site.cache_clear()
    Path("clinics.toml").write_text(FILES["clinics.toml"])
    exec(compile(SCRIPTS[1], "deploy.md", "exec"), {})
    (command,) = re.findall(r"^spfl flower run clinics.toml.*$", PAGE, re.MULTILINE)
    spfl(command, monkeypatch)
    accuracy = re.search(r"sp_fl, seed 0: test accuracy (\d+\.\d+)%", capsys.readouterr().out)
    assert accuracy is not None
    assert float(accuracy[1]) > 75  # most are healthy or ill by age and tobacco


def test_packets_as_datagrams_as_the_page_has_them(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    logging.getLogger("flwr").setLevel(logging.INFO)
    logging.getLogger("flwr").addHandler(caplog.handler)
    client_app._site.cache_clear()
    Path("udp.toml").write_text(FILES["udp.toml"])
    (command,) = re.findall(r"^spfl flower run udp.toml.*$", PAGE, re.MULTILINE)
    spfl(command, monkeypatch)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "test accuracy" in capsys.readouterr().out
    heard = [line for line in set(caplog.messages) if "datagrams {'received'" in line]
    assert len(heard) == 3  # a line a round at the server
    assert len([line for line in set(caplog.messages) if "datagrams sent to 127.0.0.1:9790" in line]) >= 3
