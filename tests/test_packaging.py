"""What is shipped: the wheel and the sdist hold everything, and work where nothing of the checkout is."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import spfl
from spfl.compiled import kernels_digest
from spfl.presets import PROJECT as SHIPPED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" in PROJECT["dynamic"]  # the build reads src/spfl/version.py
    assert spfl.__version__ == citation["version"]


def test_citation_is_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text()
    assert paper["title"] in readme
    assert [author["family-names"] for author in paper["authors"]] == re.search(r"author  = {(.*)}", readme)[1].split(
        " and "
    )


def test_extras():
    extras = PROJECT["optional-dependencies"]
    assert extras.keys() >= {"flower", "tensorboard", "mlflow", "wandb", "trackers", "docs", "dev"}
    for name, needs in extras.items():
        for inner in (word for need in needs if need.startswith("spfl[") for word in need[5:-1].split(",")):
            assert inner in extras, name


def test_what_is_imported_is_declared():
    """A package that only another of ours brings along is gone on the day when that one does without it."""
    of_module = packages_distributions()
    trees = [ast.parse(path.read_text()) for path in (ROOT / "src" / "spfl").rglob("*.py")]
    lines = [line for tree in trees for line in ast.walk(tree) if isinstance(line, ast.Import | ast.ImportFrom)]
    imported = {name.split(".")[0] for line in lines for name in imported_by(line)} - sys.stdlib_module_names - {"spfl"}
    declared = {
        normal(re.match(r"[\w-]+", need)[0])
        for needs in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for need in needs
    }
    missing = {name for name in imported if not declared & {normal(d) for d in of_module.get(name, [name])}}
    assert missing - {"pytest"} == set()  # spfl.testing is for a test suite of one's own
    assert {"numpy", "click", "flwr", "tomli_w"} <= imported


def imported_by(line: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in line.names] if isinstance(line, ast.Import) else [line.module]


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_what_is_in_them(built):
    wheel, sdist = built
    inside = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"spfl/{path.relative_to(ROOT / 'src' / 'spfl')}" for path in (ROOT / "src" / "spfl").rglob("*.py")}
    assert sources <= inside
    assert {"spfl/py.typed", "spfl/report/report.html", "spfl/data/digits.csv.gz"} <= inside
    assert {f"spfl/presets/{name}" for name in SHIPPED} <= inside
    assert not [name for name in inside if name.startswith(("tests", "docs"))]
    about = zipfile.ZipFile(wheel).read(next(name for name in inside if name.endswith("METADATA"))).decode()
    assert "## Five commands" in about
    assert re.findall(r"\]\((?!https?:)[^)]*\)", about) == []  # an index page has no files beside it
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "Makefile",
        "mkdocs.yml",
        "tests/oracles.py",
        "docs/index.md",
    } <= names
    assert {"examples/own_scheme.py", "configs/demo.toml"} <= names
    assert not [name for name in names if name.endswith((".parquet", ".pyc"))]


@pytest.mark.slow
def test_the_wheel_runs_in_a_clean_environment(built, tmp_path):
    """Its dependencies are lent by a .pth file; spfl itself can only come from the wheel."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", built[0]], check=True, env=environment, timeout=120
    )
    (Path(site.stdout.strip()) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def call(*arguments):
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call(python, "-m", "pip", "install", "-q", "--no-deps", built[0])
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert str(tmp_path / "venv") in call(python, "-c", "import spfl; print(spfl.__file__)")
    command = tmp_path / "venv" / "bin" / "spfl"
    assert spfl.__version__ in call(command, "--version")
    call(command, "run", "--set", "training.rounds=3", "--out", "r")
    assert call(command, "report", "r").strip() == "r/report.html"
    call(command, "run", "--preset", "cell", "--set", "training.rounds=2", "--out", "cell")
    written = call(command, "init", ".").split()
    assert sorted(written) == sorted(SHIPPED)
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in SHIPPED)
    lines = re.findall(r"^spfl (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        short = ["--set", "training.rounds=3"] if re.match("run|compare|sweep", line) else []
        assert call(command, *shlex.split(line), *short), line
    for script in ("paper_round.py", "own_scheme.py"):
        assert call(python, f"examples/{script}")
    assert "Run(sp_fl" in call(python, "-c", "import spfl; print(spfl.Run.load('r'))")


def test_a_changed_kernel_is_compiled_anew(tmp_path):
    source = ROOT / "src" / "spfl"
    copy = shutil.copytree(source, tmp_path / "spfl", ignore=shutil.ignore_patterns("__pycache__"))
    digest = kernels_digest(source)
    (copy / "cli" / "options.py").write_text("")
    assert kernels_digest(copy) == digest
    with (copy / "allocation" / "solvers.py").open("a") as file:
        file.write("# changed\n")
    assert kernels_digest(copy) != digest
    assert os.environ["NUMBA_CACHE_DIR"]


def test_git_has_every_file_of_the_package_and_its_tests():
    """A pattern of .gitignore without a slash hides folders of that name anywhere, from git, ruff and the build."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "src/spfl", "tests"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [name for name in ignored if "__pycache__" not in name] == []
