"""Every command of README and docs, as a new user types them: an installed wheel, a new environment, empty folders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WALK = ROOT / "benchmarks" / "first_use.py"
HAS_COMMANDS = re.compile(r"^```(?:sh|python)", re.MULTILINE)
PAGES = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if HAS_COMMANDS.search(path.read_text())]
BY_NAME = ["README.md", "examples/first_steps.ipynb", "docs/known-as.md"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel and what the pages ask for; SPFL_WALK_VENV names one that is there."""
    if given := os.environ.get("SPFL_WALK_VENV"):
        return Path(given)
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    sys.path.insert(0, str(WALK.parent))
    import first_use

    first_use.install(wheel, folder / "venv")
    return folder / "venv"


@pytest.mark.parametrize("page", [*BY_NAME, *(page for page in PAGES if page not in BY_NAME)])
def test_a_page_runs_from_an_empty_folder(page, installed, tmp_path):
    command = [sys.executable, WALK, "--venv", installed, "--folder", tmp_path, "--rounds", "3", "--pages", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
