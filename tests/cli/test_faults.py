"""Every command with every kind of path that a machine refuses: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from pathlib import Path

import click
import pytest
import typer

import spfl
from spfl.cli import commands as cli
from spfl.cli.streams import Steady
from spfl.errors import MachineError, SpflError, plain_errors
from strange_paths import STRANGE_PATHS

QUICK = ["--set", "training.rounds=2", "--set", "data.devices=4", "--set", "model.name=softmax", "--set", "workers=1"]
DATA = ["--set", "data.name=cifar10", "--data-dir"]
# Command -> how a path P reaches it. `RUN` is a finished run.
PLACES = {
    "run": [["run", *QUICK, "--out", "P"], ["run", "P"], ["run", *QUICK, *DATA, "P"], ["run", "--resume", "--out", "P"],
            ["run", *QUICK, "--set", "data.name=./P"]],
    "compare": [["compare", *QUICK, "--schemes", "sp_fl", "--out", "P"], ["compare", "P"],
                ["compare", *QUICK, *DATA, "P"]],
    "sweep": [["sweep", "P"], ["sweep", "s.toml", "--out", "P"], ["sweep", "s.toml", "--resume", "--out", "P"],
              ["sweep", "s.toml", *DATA, "P"]],
    "init": [["init", "P"]],
    "archive": [["archive", "P"]],
    "export": [["export", "P"], ["export", "RUN", "--out", "P"]],
    "plot": [["plot", "P"], ["plot", "RUN", "--out", "P"]],
    "figures": [["figures", "P"]],
    "report": [["report", "P"], ["report", "RUN", "--out", "P"]],
    "watch": [["watch", "P", "--once"]],
    "verify": [["verify", "P"], ["verify", "RUN", "--data-dir", "P"]],
    "info": [["info", "--data-dir", "P"]],
    "config show": [["config", "show", "P"]],
    "config schema": [],
    "allocate": [["allocate", "P"], ["allocate", "d.csv", "--plot", "P"]],
    "flower init": [["flower", "init", "P"], ["flower", "init", "new", "P"]],
    "flower run": [["flower", "run", *QUICK, "--nodes", "1", "--out", "P"], ["flower", "run", "P"]],
    "flower keys": [["flower", "keys", "P", "--host", "fl.example.org"]],
    "flower health": [["flower", "health", "P"]],
    "link": [["link", "P"], ["link", *QUICK, "--out", "P"]],
    "radio calibrate": [],  # needs Sionna; its one path is written as all are
    "radio udp": [["radio", "udp", "P"]],
    "radio trace": [["radio", "trace", "P", "--out", "t.csv"], ["radio", "trace", "--from", "P", "--out", "t.csv"],
                    ["radio", "trace", "--from", "RUN", "--out", "P"]],
}  # fmt: skip
REFUSERS = ("stat", "open", "mkdir", "scandir", "listdir", "rename", "replace", "unlink")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    overrides = dict(text.split("=") for text in QUICK[1::2])
    spfl.run(overrides={k: int(v) if v.isdecimal() else v for k, v in overrides.items()}, out=folder)
    return folder


@pytest.fixture
def call(monkeypatch, tmp_path, run_folder):
    """Runs `spfl ARGUMENTS` beside a file, a sweep and a list of devices; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    Path("file").write_text("text\n")
    Path("s.toml").write_text(
        '[base]\ndata.devices = 4\nmodel.name = "softmax"\ntraining.rounds = 1\n[[grid]]\nseed = [0]\n'
    )
    Path("d.csv").write_text("device,weight,power_dbm,gain_db,v2,vbar2,v_vbar,delta2\na,1,20,-100,1,1,0.9,0.1\n")

    def run(*arguments, stdout=None, stderr=None):
        monkeypatch.setattr(sys, "argv", ["spfl", *(str(run_folder) if a == "RUN" else a for a in arguments)])
        streams = [stream or io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for stream in (stdout, stderr)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = (stream.buffer.getvalue().decode(errors="replace") for stream in streams)
        return code, out, err

    return run


def walk(command, name=()):
    """Every command of the line, groups opened."""
    if isinstance(command, click.Group):
        for key, part in command.commands.items():
            yield from walk(part, (*name, key))
    else:
        yield " ".join(name)


@pytest.mark.parametrize(
    "words", [["flower", "run", "--nodes", "1", "--out", "loop"], ["archive", "loop"], ["init", "loop"]]
)
def test_a_link_to_itself_is_one_line(words, tmp_path, monkeypatch, capsys):
    """pathlib says RuntimeError of it."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    monkeypatch.setattr(sys, "argv", ["spfl", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "not foreseen" not in line


def test_no_command_is_left_out():
    assert set(walk(typer.main.get_command(cli.app))) <= PLACES.keys()


def filled(place, path):
    return [part.replace("P", path, 1) if part in ("P", "data.name=./P") else part for part in place]


def refuse(monkeypatch):
    """The system refuses everything below a folder named `locked`, as it does a user without rights (root has all)."""

    def refusing(honest):
        def call(path, *arguments, **options):
            if not isinstance(path, int) and "locked" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return honest(path, *arguments, **options)

        return call

    for name in REFUSERS:
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(io, "open", refusing(io.open))


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRANGE_PATHS)
@pytest.mark.parametrize("command", [name for name, places in PLACES.items() if places])
def test_a_path_that_the_machine_refuses_is_one_line_and_exit_code_2(call, monkeypatch, command, kind):
    refuse(monkeypatch)
    for place in PLACES[command]:
        before = {path for path in Path().rglob("*") if "locked" not in str(path)}
        code, _, err = call(
            *(part.replace("P", STRANGE_PATHS[kind], 1) if part in ("P", "data.name=./P") else part for part in place)
        )
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in err, (place, err)
        assert code in (0, 2), (place, err)
        assert len(lines) == (code == 2), (place, err)
        if code == 2:
            left = {path for path in Path().rglob("*") if "locked" not in str(path)} - before
            assert not left, (place, left)


@pytest.mark.parametrize("command", [name for name, places in PLACES.items() if places])
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left on device", "x"),
                                   OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: 12"),
                                   UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
                                   ZeroDivisionError("a fault of ours")], ids=repr)  # fmt: skip
def test_a_fault_inside_any_command_is_one_line(call, monkeypatch, command, error):
    """Raised where every command passes by: on looking at a path."""

    def broken(*_, **__):
        raise error

    for name in ("exists", "is_dir", "is_file", "open", "read_text"):
        monkeypatch.setattr(Path, name, broken)
    code, out, err = call(*filled(PLACES[command][0], "x"))
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == (1 if isinstance(error, ZeroDivisionError) else 2), err
    assert out == ""
    assert "Traceback" not in err
    assert ("a fault of spfl" in line) == isinstance(error, ZeroDivisionError)


# --- work first, then words -----------------------------------------------------------------------------------


class Full(io.TextIOWrapper):
    """A stream on a full disk, or whose reader has gone."""

    def __init__(self, number):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 2), (errno.EPIPE, 0)])
def test_a_stream_that_takes_nothing_loses_no_result(call, number, code):
    found, _, err = call("run", *QUICK, "--out", "r", stdout=Full(number))
    assert found == code
    assert Path("r/summary.json").is_file()
    assert ("seed 0: test accuracy" in err) == (code == 2)  # said where it can be said; progress bars speak of it too


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_standard_error_that_takes_nothing_stops_nothing(call, number):
    code, out, _ = call("compare", *QUICK, "--schemes", "sp_fl,single_packet", "--out", "r", stderr=Full(number))
    assert code == 0
    assert "single_packet" in out
    assert Path("r/table.md").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1", "utf-8"])
def test_a_stream_prints_what_its_encoding_lacks_in_other_words(call, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    name = os.fsdecode(b"r\xe9sum\xe9")
    code, _, err = call("compare", *QUICK, "--schemes", "sp_fl", "--out", name, stdout=stream)
    said = raw.getvalue()
    assert code == 0, err
    assert b"r\xe9sum\xe9/table.md" in said  # the bytes of the folder, whatever the terminal speaks
    assert (b"+- std" in said) == (encoding == "ascii")


def test_cells_are_printed_as_they_are_and_whole(call):
    call("run", *QUICK, "--out", "all/lr[red]0.1[/b]")
    for arguments in (["watch", "all", "--once"], ["info", "--data-dir", "data[/b]"]):
        Path("data[/b]/cifar10").mkdir(parents=True, exist_ok=True)
        Path("data[/b]/cifar10/train-0.parquet").touch()
        code, out, _ = call(*arguments)
        assert code == 0
        assert "[/b]" in out
        assert "…" not in out


def test_a_table_in_a_file_is_as_wide_as_it_must_be(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    schemes = "sp_fl_plus_1_uncalibrated,single_packet_optimised"
    code, out, _ = call("compare", *QUICK, "--schemes", schemes, "--out", "r")
    assert code == 0
    assert all(name in out for name in schemes.split(","))
    assert "…" not in out


def test_a_figure_is_named_as_it_is_written(call):
    code, out, _ = call("plot", "RUN", "--out", "name", "--title", r"$\foo$ costs $5")
    assert (code, out) == (0, "name.png\n")
    assert Path("name.png").stat().st_size > 1000
    code, _, err = call("plot", "RUN", "--out", ".")
    assert code == 2
    assert "is a folder" in err


def test_a_steady_stream_keeps_what_was_not_said():
    steady = Steady(Full(errno.ENOSPC))
    assert steady.write("a result\n") == 9
    assert steady.unsaid == "a result\n"
    assert steady.fault is not None


def test_only_what_the_machine_refuses_is_called_so():
    for error in (ValueError("shapes differ"), RuntimeError("of a solver")):
        with pytest.raises(type(error)), plain_errors():
            raise error
    with pytest.raises(MachineError, match="null byte"), plain_errors():
        os.stat("a\0b")
    with pytest.raises(SpflError, match=r"a{80}\.\.\."):
        spfl.run(overrides={"training.rounds": 1}, out="a" * 300)


@pytest.mark.parametrize(
    "words",
    [
        ["radio", "udp", "--rate-mbit"],
        ["watch", "x", "--every"],
        ["verify", "x", "--tolerance"],
        ["flower", "health", "x", "--within"],
    ],
    ids=str,
)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_is_none_is_outside_every_range(call, words, number):
    code, _, err = call(*words, number)
    assert code == 2
    assert err.startswith(f"error: Invalid value for '{words[-1]}': {number} is not a finite number")
