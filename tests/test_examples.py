"""Every example runs and shows that it learns."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_paper_round_learns() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "paper_round.py"], capture_output=True, text=True, check=True, timeout=120
    )
    accuracies = [float(value) for value in re.findall(r"accuracy ([\d.]+)%", done.stdout)]
    assert len(accuracies) == 6
    assert accuracies[-1] > 70
