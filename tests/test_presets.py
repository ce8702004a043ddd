"""Presets and `spfl init`: the files of the package, written, named and run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

import spfl
from spfl.cli import commands as cli
from spfl.config.effects import without_effect
from spfl.errors import ConfigError, RunFolderError
from spfl.presets import PRESETS, PROJECT, preset_path, write_project

ROOT = Path(__file__).parents[1]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A command line in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["spfl", *shlex.split(line)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_file_of_the_repository(name):
    assert preset_path(name).read_bytes() == (ROOT / PRESETS[name]).read_bytes()
    assert spfl.load_preset(name) == spfl.load_config(ROOT / PRESETS[name])


def test_the_cell_answers_to_power_noise_and_radius():
    idle = without_effect(spfl.load_preset("cell"))
    assert (
        not {"channel.power_dbm", "channel.noise_figure_db", "channel.radius_m", "channel.shadowing_db"} & idle.keys()
    )
    assert "channel.power_dbm" in without_effect(spfl.load_preset("demo"))


def test_a_preset_runs_and_compares_by_name(call):
    short = "--set training.rounds=2 --set data.devices=4"
    assert call(f"run --preset demo {short} --out r")[0] == 0
    assert 'name = "mlp"' in (Path("r") / "config.toml").read_text()
    assert call(f"compare --preset cell {short} --schemes error_free,sp_fl --out c")[0] == 0
    assert "median_snr_db = " not in call("config show --preset cell")[1].replace("# median_snr_db", "")
    assert call("link --preset cell")[0] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --preset dmeo", "error: no preset is called 'dmeo' (did you mean 'demo'?)"),
        ("run x.toml --preset demo", "error: give x.toml or --preset demo, not both"),
        ("run --rounds 5", "error: there is no --rounds; write --set training.rounds=..."),
        ("run --set rounds=5", "error: unknown config key 'rounds' (did you mean 'training.rounds'?)"),
        ("run --set training.bits=5", "error: unknown config key 'training.bits' (did you mean 'codec.bits'?)"),
        ("run --seeds 5", "error: there is no --seeds; one run has one --seed, and spfl compare takes several --seeds"),
        ("compare --seed 5", "error: there is no --seed; name one or several by --seeds, such as --seeds 4 or 0-4"),
    ],
)  # fmt: skip
def test_what_was_meant_is_said(call, line, words):
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err == words + "\n"


def test_one_number_of_seeds_is_told_to_be_one_seed(call):
    line = "compare --preset demo --set training.rounds=1 --set data.devices=3 --schemes error_free --seeds 5 --out c"
    code, _, err = call(line)
    assert code == 0
    assert "note: --seeds 5 is one seed; for 5 seeds write 0-4" in err
    assert [path.name for path in Path("c").glob("*-*")] == ["error_free-5"]


def test_init_writes_what_the_documentation_uses(call):
    code, out, err = call("init study")
    assert code == 0
    assert sorted(out.split()) == sorted(f"study/{name}" for name in PROJECT)
    assert "cd study && spfl run configs/demo.toml" in err
    for name in PROJECT:
        assert (Path("study") / name).read_bytes() == (ROOT / name).read_bytes()
    (Path("study") / "configs/demo.toml").unlink()
    assert call("init study")[1].split() == ["study/configs/demo.toml"]


def test_init_keeps_what_is_there(tmp_path):
    mine = tmp_path / "configs" / "demo.toml"
    mine.parent.mkdir()
    mine.write_text("seed = 7\n")
    with pytest.raises(RunFolderError, match=r"demo\.toml exists and holds something else; nothing was written"):
        write_project(tmp_path)
    assert mine.read_text() == "seed = 7\n"
    assert not (tmp_path / "examples").exists()
    with pytest.raises(RunFolderError, match="is not a folder"):
        write_project(mine)


def test_errors_speak_python_to_python(tmp_path, monkeypatch):
    monkeypatch.delenv("SPFL_DATA_DIR", raising=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(RunFolderError, match=r'pass existing="overwrite", existing="resume" or another out$'):
        spfl.run(out=tmp_path / "full")
    with pytest.raises(spfl.SpflError, match=r"no data folder .data_dir or SPFL_DATA_DIR is not set"):
        spfl.run(overrides={"data.name": "mnits"})
    with pytest.raises(ConfigError, match=r"did you mean 'training.rounds'"):
        spfl.run(overrides={"rounds": 5})


def test_the_folder_of_data_may_be_a_string(tmp_path):
    with pytest.raises(spfl.SpflError, match=str(tmp_path)):
        spfl.run(overrides={"data.name": "mnits"}, data_dir=str(tmp_path))
    with pytest.raises(spfl.SpflError, match=str(tmp_path)):
        spfl.load_dataset("mnits", str(tmp_path))


def test_one_list_of_schemes_where_none_are_named():
    import inspect

    import typer

    python = inspect.signature(spfl.compare).parameters["schemes"].default
    command = typer.main.get_command(cli.app).commands["compare"]
    line = next(p.default for p in command.params if p.name == "schemes")
    assert tuple(line.split(",")) == tuple(python)
    assert set(python) <= spfl.SCHEMES.keys()
