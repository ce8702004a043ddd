"""Compiled functions are kept where only the user can write, and a torn file of the cache costs time only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spfl.compiled import KEPT, kernels_digest
from spfl.private_folder import drop_torn_pickles, private_folder, untrusted

ROOT = Path(__file__).parents[1]
KERNEL = """
from spfl.compiled import CACHE
from spfl.packets.quantiser import moments
import numpy as np
moments(np.ones(8, np.float32), np.ones(8, np.float32))
print(CACHE)
"""


def compiled(folder):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], capture_output=True, text=True, env=environment, check=True, timeout=300
    )
    return done.stdout.strip(), done.stderr


def test_a_torn_cache_is_a_miss(tmp_path):
    folder = tmp_path / "kernels"
    assert compiled(folder) == ("True", "")
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert files
    for path, content in zip(files, [b"", b"\0" * 100, files[0].read_bytes()[:-1]] * len(files), strict=False):
        path.write_bytes(content)
    assert compiled(folder) == ("True", "")


def test_each_state_of_the_sources_has_a_folder(tmp_path):
    """The folders of a few other states are kept, for whoever goes to and fro between them."""
    folder, others = tmp_path / "kernels", [f"{i:016d}" for i in range(5)]
    for i, name in enumerate(others):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (i, i))
    folder.chmod(0o700)
    compiled(folder)
    assert {path.name for path in folder.iterdir()} == {kernels_digest(ROOT / "src" / "spfl"), *others[-KEPT:]}


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_folder_that_others_can_write_to_is_not_read(tmp_path, mode):
    folder = tmp_path / "kernels"
    folder.mkdir()
    folder.chmod(mode)
    kept, told = compiled(folder)
    assert kept == "False"
    assert f"can be written by others (mode {mode:o})" in told
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null", None])
def test_a_home_that_cannot_be_written_costs_time_only(home, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "HOME")}
    environment |= {} if home is None else {"HOME": home}
    code = "from spfl.compiled import CACHE; print(CACHE)"
    if home is None:  # and nobody in the list of users, as in many containers
        code = f"import os, pwd\ndef nobody(_): raise KeyError\npwd.getpwuid = nobody\n{code}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=True
    )
    assert done.stdout.strip() == "False"
    assert list(tmp_path.iterdir()) == []  # no folder named ~


def test_links_and_folders_of_others_are_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    assert untrusted(tmp_path / "link") == f"{tmp_path / 'link'} is a link"
    assert private_folder(tmp_path / "own") is None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert untrusted(tmp_path / "own") == f"{tmp_path / 'own'} belongs to another user"


def test_whole_pickles_stay(tmp_path):
    (tmp_path / "a.nbi").write_bytes(b"whole.")
    (tmp_path / "b.nbi").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"")
    assert drop_torn_pickles(tmp_path, ".nbi", ".nbc") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nbi", "c.txt"]
