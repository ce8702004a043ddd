"""Every scheme from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spfl.cli import commands as cli
from spfl.schemes import SCHEMES


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_runs_from_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (f"scheme.name={name}", "training.rounds=1", "data.devices=5", "model.name=softmax")
    settings = [part for key in keys for part in ("--set", key)]
    monkeypatch.setattr(sys, "argv", ["spfl", "run", *settings, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"{name}, seed 0: test accuracy")


def test_info_lists_all_schemes_with_their_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["spfl", "info", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    for scheme in SCHEMES.values():
        assert f'"{scheme.name}"' in out
        assert scheme.source in out
        assert len(scheme.summary) <= 100
