"""The notebook of the documentation runs from top to bottom in an empty folder, and shows what it showed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def shown(path: Path) -> list[str]:
    """What the code cells put out, text only, with every number as #: the last digit may be the machine's."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    texts = [
        "".join(line for out in cell["outputs"] for line in out.get("text", out.get("data", {}).get("text/plain", [])))
        for cell in cells
    ]
    return [re.sub(r"\d+(\.\d+)?", "#", re.sub(r"\(device [^)]*\)", "(device ...)", text)) for text in texts]


def test_the_notebook_runs_and_its_outputs_are_not_stale(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    command = [sys.executable, "-W", "ignore", "-c", EXECUTE, NOTEBOOK, tmp_path / "executed.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown(tmp_path / "executed.ipynb") == shown(NOTEBOOK)


def test_the_notebook_is_stored_with_its_outputs() -> None:
    assert all(shown(NOTEBOOK))
    assert not any("Traceback" in text for text in shown(NOTEBOOK))
