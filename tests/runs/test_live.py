"""The live view: what it reads from folders of running, finished and dead runs."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from io import StringIO

import pytest
from rich.console import Console

from spfl.cli import commands as cli
from spfl.errors import RunFolderError
from spfl.runs.experiment import run_experiment
from spfl.runs.folders import in_use, locked
from spfl.runs.live import BLOCKS, as_table, read_progress, sparkline, watch


@pytest.fixture(scope="module")
def finished(digits, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "runs" / "one"
    run_experiment(small_config(training={"rounds": 4, "eval_every": 2}), digits, folder)
    return folder


@pytest.fixture
def cut(finished, tmp_path):
    """A run that died after three of its four rounds, the fourth half written."""
    folder = tmp_path / "runs" / "cut"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:30])
    return folder


def test_a_finished_run(finished):
    (found,) = read_progress(finished)
    assert (found.name, found.state, found.done, found.total, found.left_s) == ("one", "finished", 4, 4, None)
    rounds = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert found.scores == [rounds[1]["test_accuracy"], rounds[3]["test_accuracy"]]
    assert found.rounds_per_s == pytest.approx(4 / sum(r["seconds"]["total"] for r in rounds))


def test_dead_and_running_differ_by_the_lock(cut):
    assert not in_use(cut)
    (dead,) = read_progress(cut)
    assert (dead.state, dead.done, dead.left_s) == ("stopped", 3, None)
    with locked(cut):
        assert in_use(cut)
        (running,) = read_progress(cut)
        assert running.state == "running"
        assert running.left_s == pytest.approx(1 / running.rounds_per_s)
    assert not in_use(cut)


def test_several_runs_the_latest_last(finished, cut):
    shutil.copytree(finished, cut.parent / "other")
    (cut.parent / "other" / "metrics.jsonl").touch()
    assert [(p.name, p.state) for p in read_progress(cut.parent)] == [("cut", "stopped"), ("other", "finished")]


def test_nothing_to_watch(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        read_progress(tmp_path)


def test_sparkline():
    assert sparkline([]) == ""
    assert sparkline([0.3, 0.3]) == BLOCKS[0] * 2
    assert sparkline([0.0, 0.5, 1.0]) == f"▁{BLOCKS[round(3.5)]}█"
    long = sparkline([k / 99 for k in range(100)], 10)
    assert len(long) == 10
    assert list(long) == sorted(long)
    assert long[-1] == "█"


def test_command_looks_once(finished, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(sys, "argv", ["spfl", "watch", str(finished), "--once"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "finished" in out
    assert "4/4" in out


def test_it_watches_until_the_run_ends(cut, monkeypatch, capsys):
    """A run that is under way when the watch begins: the view ends when the lock is let go."""
    monkeypatch.setenv("COLUMNS", "140")
    begun, end = threading.Event(), threading.Event()

    def hold():
        with locked(cut):
            begun.set()
            end.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert begun.wait(10)
    threading.Timer(0.5, end.set).start()
    watch(cut, every_s=0.1)
    holder.join()
    assert end.is_set()
    assert "stopped" in capsys.readouterr().out


LONG = "scheme-with-a-rather-long-name-17"


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 30])
def test_it_fits_the_terminal(finished, tmp_path, width):
    """Columns are left out, then long names of runs are folded. Nothing is cut off."""
    for name in (LONG, "b"):
        shutil.copytree(finished, tmp_path / name)
    console = Console(width=width, file=StringIO())
    console.print(as_table(read_progress(tmp_path), width))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "4/4" in text
    assert "finished" in text
    assert (LONG in text) == (width >= 100)
    assert ("left" in text) == (width >= 60)


def test_it_waits_for_a_run_that_has_not_begun(cut, tmp_path, capsys):
    place = tmp_path / "later"
    thread = threading.Thread(target=watch, args=(place,), kwargs={"every_s": 0.05}, daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    shutil.copytree(cut, place)
    thread.join(30)
    assert not thread.is_alive()
    streams = capsys.readouterr()
    assert "cut" in streams.out or "later" in streams.out
    assert streams.err == f"waiting for a run in {place}; Ctrl-C ends\n"


def test_it_does_not_wait_for_a_file(finished):
    with pytest.raises(RunFolderError, match="is not a folder"):
        watch(finished / "config.toml")
