"""A folder of somebody else, with links, special files and other contents at every name that a command reads or writes.

Whatever the command says of it: nothing outside the folder is written or made, nothing outside is copied into it, the
command ends, in one line and with an exit code of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from itertools import product
from pathlib import Path

import pytest

from spfl.cli import commands as cli
from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.runs.comparison import compare
from spfl.runs.experiment import run_experiment
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")

SMALL = ["data.devices=4", "training.rounds=2", "training.eval_every=1", "workers=1", "model.name=softmax"]
SECRET = "SECRET-OF-THE-USER"
GRID = '[base]\n"data.devices" = 4\n"model.name" = "softmax"\n"training.rounds" = 2\n[[grid]]\nseed = [0, 1]\n'

RUN_FILES = ("config.toml", "environment.json", "metrics.jsonl", "devices.parquet", "allocation.parquet",
             "weights.safetensors", "summary.json")  # fmt: skip
WRITTEN = (".lock", "report.html", "accuracy.png")
PARTIAL = ("checkpoint-00000002.safetensors", "allocation-00000001-00000002.parquet")
SWEEP_FILES = ("environment.json", "results.jsonl", "results.parquet", "summary.md", "sweep.toml", "rates.toml")
NAMES = {
    "run": (*RUN_FILES, *PARTIAL, *WRITTEN),
    "comparison": ("config.toml", "environment.json", "table.json", "table.md", *WRITTEN, "sp_fl-0",
                   "sp_fl-0/metrics.jsonl", "sp_fl-0/.lock", "sp_fl-0/summary.json"),
    "sweep": (*SWEEP_FILES, *WRITTEN, "runs"),
}  # fmt: skip
SETS = [part for value in SMALL for part in ("--set", value)]
COMMANDS = {
    "run": (["report"], ["verify"], ["plot"], ["watch", "--once"], ["run", "--resume", "--out"],
            ["run", *SETS, "--overwrite", "--out"], ["export"], ["plot", "--importance"],
            ["radio", "trace", "--out", "../t.csv", "--from"]),
    "comparison": (["report"], ["plot"], ["watch", "--once"],
                   ["compare", *SETS, "--schemes", "sp_fl", "--seeds", "0", "--resume", "--out"],
                   ["figures"], ["export"]),
    "sweep": (["report"], ["figures"], ["watch", "--once"],
              ["sweep", "../s.toml", "--workers", "1", "--resume", "--out"], ["export"],
              ["verify", "--points", "1"], ["archive", "--out", "../a.zip"]),
}  # fmt: skip
KINDS = ("link", "dangling", "pipe", "hard link", "zeros", "temporary", "empty", "half", "other", "text")


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A finished run, a comparison and a sweep with its runs."""
    folder, digits = tmp_path_factory.mktemp("templates"), load_dataset("digits")
    run_experiment(load_config(None, SMALL), digits, folder / "run")
    compare(load_config(None, SMALL), ["sp_fl"], [0], digits, folder / "comparison")
    (folder / "s.toml").write_text(GRID)
    sweep(load_points(folder / "s.toml"), folder / "sweep", processes=1, keep_runs=True, source=folder / "s.toml")
    return folder


def plant(kind, place, outside):
    """Put something hostile at a name; False where this kind makes no sense."""
    if kind == "temporary":
        place = place.with_name(f"{place.name}.tmp")
    content = place.read_bytes() if place.is_file() else b""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if kind in ("link", "temporary"):
        place.symlink_to(outside / "secret.txt")
    elif kind == "dangling":
        place.symlink_to(outside / "authorized_keys")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "hard link":
        os.link(outside / "secret.txt", place)
    elif kind in ("empty", "half", "text"):
        place.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"[1]\n"}[kind])
    elif kind == "other":  # another file with the same ending
        others = sorted(path for path in place.parent.glob(f"*{place.suffix}") if path.is_file())
        place.write_bytes(others[0].read_bytes() if others else content[::-1])
    else:
        place.symlink_to("/dev/zero")


def spilt(folder):
    """Files of the folder that hold the secret, but for the planted name itself."""
    files = [
        path for path in folder.rglob("*") if not path.is_symlink() and path.is_file() and path.stat().st_nlink == 1
    ]
    return [path.name for path in files if SECRET.encode() in path.read_bytes()]


def attack(template, kind, name, command, base, capsys, monkeypatch):
    outside, folder = base / "outside", base / "folder"
    for path in (outside, folder):
        shutil.rmtree(path, ignore_errors=True)
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    shutil.copytree(template, folder)
    plant(kind, folder / name, outside)
    monkeypatch.setattr(sys, "argv", ["spfl", command[0], str(folder), *command[1:]])
    if command[-1] in ("--out", "--from"):
        monkeypatch.setattr(sys, "argv", ["spfl", *command, str(folder)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    told = "".join(capsys.readouterr())
    assert code in (0, 1, 2), told
    assert "Traceback" not in told
    assert "not foreseen" not in told
    assert SECRET not in told
    assert (outside / "secret.txt").read_text() == SECRET
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    assert spilt(folder) == []
    return code


def attacks(layout, kinds, templates, tmp_path, capsys, monkeypatch, every=1):
    """All commands with all names, or `every` so many of them."""
    monkeypatch.chdir(templates)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    (tmp_path / "s.toml").write_text(GRID)
    refused = count = 0
    names, commands = NAMES[layout], COMMANDS[layout]
    for kind, (i, name), (j, command) in product(kinds, enumerate(names), enumerate(commands)):
        if (i + j) % every:
            continue
        command = [str(tmp_path / part[3:]) if part.startswith("../") else part for part in command]
        for left in ("t.csv", "a.zip"):
            (tmp_path / left).unlink(missing_ok=True)
        try:
            code = attack(templates / layout, kind, name, command, tmp_path, capsys, monkeypatch)
        except AssertionError as error:
            raise AssertionError(f"{kind} at {name}, spfl {command[0]}: {error}") from error
        count, refused = count + 1, refused + (code == 2)
    return count, refused


@pytest.mark.parametrize("layout", NAMES)
def test_links_out_of_a_folder_lead_nowhere(layout, templates, tmp_path, capsys, monkeypatch):
    count, refused = attacks(layout, KINDS[:1], templates, tmp_path, capsys, monkeypatch, every=3)
    assert 0.2 * count < refused < count


@pytest.mark.slow
@pytest.mark.parametrize("layout", NAMES)
def test_nothing_planted_at_any_name_writes_or_reads_outside(layout, templates, tmp_path, capsys, monkeypatch):
    count, refused = attacks(layout, KINDS, templates, tmp_path, capsys, monkeypatch)
    with capsys.disabled():
        print(f"\n{layout}: {count} attempts with planted files, {refused} refused, 0 got out")


@pytest.mark.parametrize(
    ("kind", "name", "command", "told"),
    [
        ("empty", "config.toml", "report", "config.toml was changed after it was written"),
        ("other", "devices.parquet", "report", "devices.parquet was changed after it was written"),
        ("text", "metrics.jsonl", "plot", "a line is no round"),
        ("half", "allocation.parquet", "report", "allocation.parquet cannot be read"),
        ("hard link", "environment.json", "report", "environment.json has a second name (a hard link)"),
    ],
)
def test_what_is_wrong_is_said(kind, name, command, told, templates, tmp_path, capsys, monkeypatch):
    shutil.copytree(templates / "run", tmp_path / "run")
    (tmp_path / "secret.txt").write_text(SECRET)
    plant(kind, tmp_path / "run" / name, tmp_path)
    monkeypatch.setattr(sys, "argv", ["spfl", command, str(tmp_path / "run")])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_folder_may_itself_be_a_link_that_the_user_names(templates, tmp_path, capsys, monkeypatch):
    shutil.copytree(templates / "run", tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["spfl", "report", str(tmp_path / "link")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert Path(capsys.readouterr().out.strip()).name == "report.html"
    assert (tmp_path / "run" / "report.html").exists()
