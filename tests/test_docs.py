"""The documents are true: every block of code in them is run, and the site builds without a warning."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from spfl.cli import commands as cli
from spfl.config.schema import Config
from spfl.presets import write_project
from spfl.schemes import SCHEMES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA_DIR = os.environ.get("SPFL_DATA_DIR")
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [
    "index", "first-sweep", "choosing", "theory", "python", "report", "allocation", "radio", "reproducibility",
    "commands", "readings", "algorithms", "own-parts", "paper-figures", "inputs", "networks", "asynchronous",
]  # fmt: skip
MINUTES = ("spfl radio calibrate",)  # commands that take minutes: only named here
ELSEWHERE = {
    "known-as",
    "model",
    "allocation",
    "decisions",
    "radio",
    "deploy",
    "security",
    "results",
    "other-tools",
    "api",
    "performance",
    "data",
    "glossary",
    "first-use",
    "limits",
    "run-folder",
}


def blocks(page):
    """(language, body) of each block; a block with a title is a file, and has `file:NAME` for a language."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [(f"file:{title}" if title else kind, body) for kind, title, body in FENCE.findall(text)]


def included(body):
    """A block with the files put in that it includes."""
    return re.sub(r"# include: (.*)", lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), body)


def spfl(command, monkeypatch):
    """Run a command line, with few rounds where it trains."""
    short = " --set training.rounds=3" if re.match("spfl (run|compare|sweep)", command) else ""
    monkeypatch.setattr(sys, "argv", shlex.split(command + short))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0, command


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_runs(page, tmp_path, monkeypatch, capsys):
    """In the order of the page, in one folder: a block with a title is the file of that name."""
    write_project(tmp_path)  # what `spfl init .` writes: nothing else of the checkout is there
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    ran = 0
    for kind, body in blocks(page):
        if kind.startswith("file:"):
            Path(kind.removeprefix("file:")).write_text(body)
        elif kind == "python":
            exec(compile(included(body), f"{page}.md", "exec"), scope)
            ran += 1
        elif kind == "sh":
            for line in body.splitlines():
                assert line.startswith(("spfl ", "pip ")), line
                if line.startswith("spfl ") and not line.startswith(MINUTES):
                    spfl(line, monkeypatch)
                    ran += 1
    assert ran >= 1


def test_the_python_of_the_readme_runs(monkeypatch):
    """Its shell commands are run by test_readme."""
    monkeypatch.chdir(ROOT)
    found = [body for kind, body in blocks("../README") if kind == "python"]
    assert found
    for body in found:
        exec(compile(body, "README.md", "exec"), {})


def test_every_page_is_run_or_looked_after_elsewhere():
    assert {path.stem for path in DOCS.glob("*.md")} <= {*PAGES, *ELSEWHERE}


def test_pages_without_a_test_of_their_own_parse():
    """Python compiles, and `spfl` commands name commands and options that there are."""
    for page in ELSEWHERE:
        if not (DOCS / f"{page}.md").exists():
            continue
        for kind, body in blocks(page):
            if kind == "python":
                compile(body, f"{page}.md", "exec")
            for line in body.replace("\\\n", " ").splitlines() if kind == "sh" else []:
                words = shlex.split(line, comments=True)
                if words[:1] == ["spfl"]:
                    command = words[1]
                    known = {c.name or c.callback.__name__ for c in cli.app.registered_commands}
                    known |= {group.name for group in cli.app.registered_groups}
                    assert command in known, line


def test_pictures_of_the_theory_are_those_of_the_script(tmp_path):
    """The script still runs, and draws what the page shows."""
    shutil.copy(DOCS / "theory" / "figures.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "figures.py"], check=True, capture_output=True, timeout=120)
    shown = set(re.findall(r"\]\(theory/(\w+\.png)\)", (DOCS / "theory.md").read_text(encoding="utf-8")))
    assert shown == {path.name for path in tmp_path.glob("*.png")}
    assert all((DOCS / "theory" / name).is_file() for name in shown)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")  # what is searched from the disk
    assert [name for name in NAMES if name not in index] == []
    model = (site / "model.html").read_text(encoding="utf-8")
    assert model.count('<div class="arithmatex">') >= 20
    assert model.count('<span class="arithmatex">') >= 200  # within its sentences as well
    scripts = re.findall(r'<script src="([^"]+)"', model)
    assert {"assets/iframe-worker.js", "assets/katex/katex.min.js", "assets/math.js"} <= set(scripts)
    assert [name for name in scripts if not (site / name).is_file()] == []
    page = (tmp_path / "site" / "configuration.html").read_text(encoding="utf-8")
    assert "median_snr_db" in page
    assert "Contract" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    fetched = re.findall(
        r'(?:src|href)="(https?://[^"]+)"', (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    )
    assert not [url for url in fetched if url.endswith((".js", ".css", ".woff2"))]


def test_every_cell_of_the_comparison_can_be_checked():
    """A cell about another tool is a link or a question mark, and every link is defined."""
    text = (DOCS / "other-tools.md").read_text(encoding="utf-8")
    defined = set(re.findall(r"^\[([\w-]+)\]:", text, re.MULTILINE))
    used = set(re.findall(r"\]\[([\w-]+)\]", text))
    assert used == defined
    frameworks = text.partition("## Frameworks")[2].partition("## ")[0]
    rows = [row.strip("| ").split(" | ") for row in frameworks.splitlines() if row.startswith("| ")]
    assert {len(row) for row in rows[1:]} == {8}
    for row in rows[1:]:
        for cell in row[2:]:
            assert cell == "?" or re.search(r"\]\[[\w-]+\]$", cell), (row[0], cell)


@pytest.mark.slow
@pytest.mark.skipif(not DATA_DIR, reason="SPFL_DATA_DIR is not set")
def test_commands_on_cifar10(monkeypatch, tmp_path):
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line for kind, body in blocks("data") if kind == "sh" for line in body.splitlines()]
    assert len(lines) >= 2
    for line in lines:
        spfl(line.replace(" DIR", f" {DATA_DIR}").replace("0-4", "0"), monkeypatch)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ELSEWHERE)])
def test_links_from_page_to_page_exist(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (DOCS / target).exists() or target in ("configuration.md", "schemes.md"), target


KNOWN_AS = (DOCS / "known-as.md").read_text(encoding="utf-8")
NAMES = (
    "FedAvg", "FedSGD", "FedProx", "SCAFFOLD", "FedDyn", "FedPAQ", "QSGD", "TernGrad", "signSGD", "DRIVE", "EDEN",
    "GoMORE", "FedTOE", "FedAuto", "FedCGD", "HARQ", "MIFA", "Rician",
)  # fmt: skip


@pytest.mark.parametrize("line", re.findall(r"`(spfl [^`]+)`", KNOWN_AS))
def test_every_line_of_what_is_x_here_runs(line, tmp_path, monkeypatch, capsys):
    """In an empty folder, one round; those that need CIFAR-10 are read and checked only."""
    monkeypatch.chdir(tmp_path)
    command = line.replace("spfl run", "spfl config show").partition(" --data-dir")[0] if "DIR" in line else line
    quick = " --set training.rounds=1 --out r" if command.startswith("spfl run") else ""
    monkeypatch.setattr(sys, "argv", shlex.split(command + quick))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, capsys.readouterr().err


def test_the_names_of_the_literature_are_found():
    rows = [row for row in KNOWN_AS.splitlines() if row.startswith("| ")]
    assert [name for name in NAMES if not any(name in row and "`spfl " in row for row in rows)] == []
    schemes = set(re.findall(r"schemes? `(\w+)`|, `(\w+)`", KNOWN_AS))
    assert {name for pair in schemes for name in pair if name and name in SCHEMES} >= {"qsgd", "drive", "eden", "harq"}


def test_every_command_is_in_the_table():
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    names |= {group.name for group in cli.app.registered_groups}
    assert [name for name in names if f"| `spfl {name} " not in text and f"| `spfl {name}`" not in text] == []


def test_every_key_is_on_the_page_of_the_configuration(monkeypatch):
    """The page is made from the configuration itself, when the site is built."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    page = importlib.import_module("hooks").configuration_page()
    for name, field in Config.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        _, _, section = page.partition(f"## [{name}]\n" if is_section else "## At the top\n")
        for key in nested.model_fields if is_section else [name]:
            assert f"| `{key}` |" in section.partition("\n## ")[0], key


def test_schemes_that_are_named_exist_and_the_page_of_schemes_has_all(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS))
    page = importlib.import_module("hooks").schemes_page()
    assert re.findall(r"^\| `(\w+)`", page, re.MULTILINE) == list(SCHEMES)
    families = (DOCS / "choosing.md").read_text(encoding="utf-8").partition("## Families")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", families)) == SCHEMES.keys()
