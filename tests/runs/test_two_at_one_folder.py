"""Two processes at one folder, and a folder that is taken away under a run: neither spoils what the other writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from small_runs import make_config, snapshot
from spfl.config.files import to_toml
from spfl.errors import RunFolderError
from spfl.runs import verification
from spfl.runs.experiment import run_experiment
from spfl.runs.folders import locked, remove, write_atomically

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not guarded there")
OTHER = """
import sys
from pathlib import Path
from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.runs.experiment import run_experiment
run_experiment(load_config(Path(sys.argv[1])), load_dataset("digits"), Path(sys.argv[2]))
"""
HOLDER = """
import sys
from pathlib import Path
from spfl.runs.folders import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_folder_removed_under_a_run_stops_it_and_a_new_run_there_is_left_alone(at, again, digits, tmp_path):
    folder, new = tmp_path / "run", {}
    (tmp_path / "c.toml").write_text(to_toml(make_config(seed=9)))

    def taken(values):
        if values["round"] == at:
            shutil.rmtree(folder)
            if again:
                command = [sys.executable, "-c", OTHER, str(tmp_path / "c.toml"), str(folder)]
                subprocess.run(command, check=True, timeout=300)
                new.update(snapshot(folder))

    with pytest.raises(RunFolderError, match="was removed or replaced while this run wrote to it; stopped"):
        run_experiment(make_config(), digits, folder, checkpoint_every=2, progress=taken)
    assert snapshot(folder) == new
    assert folder.exists() == again


def test_a_folder_of_the_same_name_is_another_by_its_inode(tmp_path):
    with locked(tmp_path / "run"):
        os.rename(tmp_path / "run", tmp_path / "moved")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").write_text("of another")
        for act in (lambda: write_atomically(tmp_path / "run" / "x", b"ours"), lambda: remove(tmp_path / "run" / "x")):
            with pytest.raises(RunFolderError, match="was removed or replaced"):
                act()
    assert (tmp_path / "run" / "x").read_text() == "of another"


def test_a_finished_run_that_is_told_again_takes_the_lock(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("spfl.runs.folders.PATIENCE_S", 0.1)
    run_experiment(make_config(), digits, tmp_path / "run")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"is in use by process {holder.pid}"):
            run_experiment(make_config(), digits, tmp_path / "run", existing="resume")
        holder.stdin.close()


def test_verify_starts_no_more_processes_than_there_are_cores(digits, tmp_path, monkeypatch):
    run_experiment(make_config(), digits, tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace("processes = 1", "processes = 4096"))
    asked = []

    def train(world, start=None):
        asked.append(world.config.processes)
        return iter(())

    monkeypatch.setattr(verification, "train", train)
    verification.verify(tmp_path / "run", digits)
    assert asked == [os.cpu_count()]
