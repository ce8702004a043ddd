"""Every example runs and shows that it learns."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_paper_round_learns() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "paper_round.py"], capture_output=True, text=True, check=True, timeout=120
    )
    accuracies = [float(value) for value in re.findall(r"accuracy ([\d.]+)%", done.stdout)]
    assert len(accuracies) == 6
    assert accuracies[-1] > 70


LEAST = {"module": 60, "dataset": 40, "partition": 60, "channel": 60, "compensation": 40, "scheme": 40}  # per cent


@pytest.mark.parametrize("part", LEAST)
def test_own_parts_learn(part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    runpy.run_path(str(EXAMPLES / f"own_{part}.py"), run_name="__main__")
    accuracy = float(re.search(r"([\d.]+)(?:%| ±)", capsys.readouterr().out).group(1))  # type: ignore[union-attr]
    assert accuracy > LEAST[part]


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} >= {f"own_{part}" for part in LEAST}
    assert {path.stem for path in EXAMPLES.glob("own_*.py")} == {f"own_{part}" for part in LEAST}


def test_the_example_scheme_keeps_the_contract() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "own_scheme.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(".") >= 12  # one a test
