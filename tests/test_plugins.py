"""Parts of a user's own in a file: in runs, comparisons, sweeps, reports; and the digest that names them."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

import spfl
from spfl.cli import commands as cli
from spfl.config.schema import build_config
from spfl.errors import ConfigError, RunFolderError
from spfl.own_code import run_file, source_digest
from spfl.world.world import World

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin.py"
SMALL = {"training": {"rounds": 2, "batch_size": 8}, "data": {"devices": 5}, "workers": 1}


@pytest.fixture(name="plugin")
def _plugin(tmp_path, monkeypatch):
    shutil.copy(EXAMPLE, tmp_path / "plugin.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plugin.py"


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["spfl", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "a device or pipe"), ("/", "a folder")])
def test_what_is_no_file_is_not_read(path, kind):
    """A device has no end."""
    with pytest.raises(ConfigError, match=f"{path} must be a file, got {kind}"):
        build_config({"plugin": {"path": path}})


def test_a_plugin_brings_its_network_scheme_and_fades(plugin, digits):
    world = World.build(build_config({"plugin": {"path": "plugin.py"}, "scheme": {"name": "mine"}}), digits)
    assert world.scheme.name == "mine"
    assert [type(layer).__name__ for layer in world.model().module] == ["Flatten", "Linear", "Tanh", "Linear"]
    assert world.radio.fades(range(20), 1)[0].shape == (20,)
    again = World.build(build_config({"plugin": {"path": "plugin.py"}, "scheme": {"name": "sp_fl"}}), digits)
    assert again.scheme.name == "sp_fl"
    assert (again.start().weights == world.start().weights).all()


def test_a_run_with_a_plugin_is_verified_reported_and_resumed_only_with_the_same_source(plugin, monkeypatch, capsys):
    options = ["--set", "training.rounds=2", "--set", "data.devices=5", "--set", "scheme.name=mine"]
    assert call(monkeypatch, "run", "--plugin", "plugin.py", *options, "--out", "one") == 0
    assert call(monkeypatch, "verify", "one", "--own-code") == 0
    assert call(monkeypatch, "report", "one", "--out", "page.html") == 0
    assert "plugin.py (" in Path("page.html").read_text(encoding="utf-8")
    plugin.write_text(plugin.read_text() + "\n# another\n")
    capsys.readouterr()
    assert call(monkeypatch, "verify", "one", "--own-code") == 2
    assert "plugin.py was changed" in capsys.readouterr().err
    Path("one/summary.json").unlink()  # as if it had been stopped
    assert call(monkeypatch, "run", "--plugin", "plugin.py", *options, "--out", "one", "--resume") == 2
    assert "plugin.py was changed" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["plugin.path", "model.factory", "data.name"])
@pytest.mark.parametrize("command", [["verify", "one"], ["run", "--resume", "--out", "one"]])
def test_code_that_a_folder_names_is_not_run_unasked(key, command, plugin, monkeypatch, capsys):
    """A stranger's archive may bring the file along, with the digest that fits."""
    assert call(monkeypatch, "run", "--set", "training.rounds=2", "--set", "data.devices=5", "--out", "one") == 0
    Path("one/evil.py").write_text("open('owned', 'w')\ndef make():\n    return None\nmodule = make\n")
    value = "one/evil.py" if key == "plugin.path" else "one/evil.py:make"
    config = tomllib.loads(Path("one/config.toml").read_text())
    table, name = key.split(".")
    config.setdefault(table, {})[name] = value
    Path("one/config.toml").write_text(tomli_w.dumps(config))
    for asked in (command, ["report", "one"], ["plot", "one"], ["watch", "one", "--once"]):
        capsys.readouterr()
        code = call(monkeypatch, *asked)
        told = capsys.readouterr()
        assert not Path("owned").exists(), asked
        if asked is command:
            assert code == 2
            assert f"one names code to run, {key} = {value}; pass --own-code if you trust it" in told.err


def test_schemes_of_a_plugin_are_compared_and_swept(plugin, monkeypatch, capsys):
    options = ["--set", "training.rounds=2", "--set", "data.devices=5"]
    schemes = ["--schemes", "mine,single_packet"]
    assert call(monkeypatch, "compare", "--plugin", "plugin.py", *schemes, *options, "--out", "both") == 0
    assert "mine" in capsys.readouterr().out
    Path("sweep.toml").write_text(
        '[base]\n"plugin.path" = "plugin.py"\n"training.rounds" = 2\n"data.devices" = 5\n'
        '[[grid]]\n"scheme.name" = ["mine", "sp_fl"]\n'
    )
    assert call(monkeypatch, "sweep", "sweep.toml", "--out", "study") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no scheme, and none of module, partition"),
        ("raise ValueError('a\\nb')\n", "fails: ValueError: a b"),
        ("def module(:\n", "fails: SyntaxError"),
        ("def module():\n    return 3\n", "must return a torch.nn.Module, got int"),
        ("module = 3\n", "must be a torch.nn.Module or a Python function, got int"),
        ("module = dict\n", "must be a torch.nn.Module or a Python function, got type"),
        ("def module():\n    raise LookupError\n", "the network's factory fails: LookupError: LookupError"),
    ],
)
def test_a_plugin_that_is_none_is_told_so_in_one_line(text, message, plugin, digits):
    plugin.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        World.build(build_config({"plugin": {"path": "plugin.py"}}), digits)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told_at_once():
    with pytest.raises(ConfigError, match=r"plugin: nowhere.py cannot be read"):
        build_config({"plugin": {"path": "nowhere.py"}})


def test_a_network_by_its_factory_has_the_weights_of_its_seed(plugin, digits):
    worlds = [
        World.build(build_config({"seed": s, "model": {"factory": "plugin.py:module"}}), digits) for s in (0, 0, 1)
    ]
    starts = [world.start().weights for world in worlds]
    assert (starts[0] == starts[1]).all()
    assert not (starts[0] == starts[2]).all()
    with pytest.raises(ConfigError, match="has no 'modul'"):
        World.build(build_config({"model": {"factory": "plugin.py:modul"}}), digits)


def test_packages_of_the_current_folder_are_found_by_the_console_script_too(plugin, digits, monkeypatch):
    """`python -m spfl` has the current folder on its path, `spfl` has not."""
    Path("networks_here").mkdir()
    shutil.copy(plugin, "networks_here/small.py")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place and Path(place) != Path.cwd()])
    world = World.build(build_config({"model": {"factory": "networks_here.small:module"}}), digits)
    assert type(world.model().module[0]).__name__ == "Flatten"


def test_a_factory_that_is_none_is_told_in_one_line(plugin, digits, monkeypatch):
    Path("lazy.py").write_text("def __getattr__(name):\n    raise ValueError('lazy')\n")
    Path("fails_at_once.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(Path.cwd())
    for factory, message in {
        "math:pi": "Python function, got float",
        "lazy.py:x": "lazy.py:x fails: ValueError: lazy",
        "fails_at_once:x": "fails_at_once fails: ZeroDivisionError",
    }.items():
        with pytest.raises(ConfigError, match=message):
            World.build(build_config({"model": {"factory": factory}}), digits)


LATE = """
from torch import nn

class Late(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, inputs):
        Late.calls += 1
        if Late.calls > 30:
            raise {raised}
        return self.linear(inputs.flatten(1))
"""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("ZeroDivisionError('late')", "error: the network fails: ZeroDivisionError: late"),
        ("SystemExit(3)", "error: code of your own ended the program with exit code 3"),
        ("GeneratorExit", "error: code of your own ended the program by GeneratorExit"),
        ("MemoryError", "error: not enough memory for what is asked (no more is to be had)"),
    ],
)
def test_a_network_that_fails_in_a_later_round_is_told_in_one_line(raised, message, plugin, monkeypatch, capsys):
    """The dry pass was well, so it is none of its errors; what is done can be gone on with."""
    plugin.write_text(LATE.format(raised=raised))
    options = ["--set", "model.factory=plugin.py:Late", "--set", "data.devices=5", "--set", "training.rounds=9"]
    assert call(monkeypatch, "run", *options, "--set", "workers=1", "--out", "one") == 2
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_a_file_that_was_interrupted_is_run_anew(plugin):
    plugin.write_text("from pathlib import Path\nbegun = True\nif Path('stop').exists():\n    raise KeyboardInterrupt\n"
                      "def module():\n    return None\n")  # fmt: skip
    Path("stop").touch()
    digest = source_digest("plugin.py")
    with pytest.raises(KeyboardInterrupt):
        run_file("plugin.py", digest)
    Path("stop").unlink()
    assert run_file("plugin.py", digest).module() is None


def test_a_dataset_by_a_function_in_a_file(plugin):
    run = spfl.run({**SMALL, "data": {"name": "plugin.py:spots", "devices": 4}, "model": {"name": "softmax"}})
    assert run.environment["dataset"]["name"] == "plugin.py:spots"


def test_comparisons_in_parallel_have_the_results_of_one_after_the_other():
    given = {**SMALL, "model": {"name": "softmax"}}
    one = spfl.compare(given, ["single_packet", "sp_fl"], seeds=(0, 1))
    two = spfl.compare(given, ["single_packet", "sp_fl"], seeds=(0, 1), workers=2)
    assert [row["runs"] for row in one.table] == [row["runs"] for row in two.table]


def test_a_fault_in_a_parallel_comparison_is_told():
    with pytest.raises((ConfigError, RunFolderError, spfl.SpflError), match="unknown scheme"):
        spfl.compare({**SMALL, "model": {"name": "softmax"}}, ["sp_fl", "none"], workers=2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def gains(): ...", "error: gains of your own fails: TypeError: gains() takes 0 positional arguments"),
        ("def partition(labels, devices, rng): return labels[10**9]", "error: partition of your own fails: IndexError"),
        ("def local(task): return 1 / 0", "error: local of your own fails: ZeroDivisionError: division by zero"),
        ("def server(*_): return None", "error: server must return (weights, memory), got NoneType"),
        ("raise SystemExit(7)", "error: code of your own ended the program with exit code 7"),
    ],
)
def test_a_part_that_fails_is_named_and_not_called_a_fault_of_ours(source, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(source)
    code = call(monkeypatch, "run", "--plugin", "parts.py", "--set", "training.rounds=1", "--out", "r")
    assert code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("part", "returned", "got"),
    [
        ("loss", "o.sum(1)", "loss of your own must return a tensor of one number, got shape"),
        ("loss", "'x'", "loss of your own must return a tensor of one number, got str"),
        ("loss", "[][1]", "loss of your own fails: IndexError"),
        ("metric", "'x'", "metric of your own must return one number, got str"),
        ("metric", "o", "metric of your own must return one number, got shape"),
    ],
)
def test_a_loss_or_metric_that_is_no_number_is_told_with_its_name(part, returned, got, digits):
    import torch

    from spfl.errors import ConfigError
    from spfl.tasks import task_of

    task = task_of(digits, **{part: eval(f"lambda o, t: {returned}")})
    with pytest.raises(ConfigError, match=got):
        task.totals(torch.ones(3, 10), torch.zeros(3, dtype=torch.int64))
