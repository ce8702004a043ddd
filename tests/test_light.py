"""What is not used is not imported: looked up in `sys.modules` of fresh processes, so that no clock decides."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import spfl
from spfl.data.digits import read_digits
from spfl.errors import EXTRAS, MachineError, plain_errors

HEAVY = ("torch", "numba", "scipy", "numpy", "pyarrow", "pydantic", "rich", "typer")
NEVER_IN_A_RUN = ("pandas", "sklearn", "matplotlib", "plotly", "jinja2", "datasets", "huggingface_hub", "sympy",
                  "scipy.stats", "scipy.optimize", "scipy.sparse", "PIL", "torch._dynamo", "flwr")  # fmt: skip
AFTER = "\nimport json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
COMMAND = """
import sys
sys.argv = ["spfl", *{arguments!r}]
from spfl.cli.commands import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def modules_after(code: str, cwd: object = None) -> set[str]:
    """What a fresh process has imported at the end of `code`."""
    done = subprocess.run([sys.executable, "-c", code + AFTER], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stderr.splitlines()[-1]))


def after_command(*arguments: str, cwd: object = None) -> set[str]:
    return modules_after(COMMAND.format(arguments=list(arguments)), cwd)


def test_importing_spfl_imports_nothing_else_of_weight():
    found = modules_after("import spfl; dir(spfl)")
    assert not found & set(HEAVY)
    assert len([name for name in found if name.startswith("spfl")]) <= 2  # itself and its version


def test_every_public_name_is_told_by_dir_and_had():
    assert set(spfl.__all__) <= set(dir(spfl))
    assert all(getattr(spfl, name) is not None for name in spfl.__all__)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["compare", "--help"]])
def test_help_needs_the_command_line_only(arguments):
    assert after_command(*arguments) & set(HEAVY) <= {"rich", "typer"}


def test_info_and_the_configuration_need_no_pytorch(tmp_path):
    if not torch.__version__.endswith("+cpu"):
        pytest.skip("info asks PyTorch for its GPUs")
    assert not after_command("info", cwd=tmp_path) & {"torch", "pyarrow", *NEVER_IN_A_RUN}
    assert not after_command("config", "show", cwd=tmp_path) & {"torch", "numba", "pyarrow", *NEVER_IN_A_RUN}


def test_the_processes_of_datagrams_start_light():
    assert modules_after("import spfl.packets.sockets") & set(HEAVY) == {"numpy"}


def test_a_run_imports_what_it_uses(tmp_path):
    run = ["run", "--set", "training.rounds=2", "--set", "data.devices=4", "--out", "r"]
    assert not after_command(*run, cwd=tmp_path) & set(NEVER_IN_A_RUN)


def test_the_embedded_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets")
    images, labels = read_digits()
    theirs = sklearn.load_digits()
    assert (images == theirs.images).all()
    assert (labels == theirs.target).all()


@pytest.mark.parametrize("module", EXTRAS)
def test_a_part_that_is_not_installed_is_told_with_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    line = rf"^this needs {module}: pip install 'spfl\[{EXTRAS[module]}\]'$"
    with pytest.raises(MachineError, match=line), plain_errors():
        __import__(module)


def test_the_extras_are_those_of_the_project():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    found = {name: " ".join(needs) for name, needs in extras["optional-dependencies"].items()}
    assert all(module in found[extra] for module, extra in EXTRAS.items())
    assert not [need for need in extras["dependencies"] if need.split(">")[0] in EXTRAS]


def test_a_comparison_without_matplotlib_ends_with_its_table(tmp_path):
    short = ["--set", "training.rounds=1", "--set", "data.devices=3"]
    command = COMMAND.format(arguments=["compare", "--schemes", "error_free,sp_fl", *short, "--out", "c"])
    code = f"import sys; sys.modules['matplotlib'] = None\n{command}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning: no figure c/accuracy.png: this needs matplotlib: pip install 'spfl[plots]'" in done.stderr
    assert "figure:" not in done.stdout
    assert (tmp_path / "c" / "table.md").is_file()
