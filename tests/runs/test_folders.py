"""Output folders: one process at a time, and faults of the disk told in one line that leave a folder to go on with."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from small_runs import assert_same_run, make_config
from spfl.errors import RunFolderError
from spfl.runs import folders
from spfl.runs.experiment import run_experiment
from spfl.runs.folders import LOCK, locked, write_atomically, writing
from spfl.studies.points import load_points
from spfl.studies.runner import read_results, sweep

ROUNDS = {"training__rounds": 12, "training__eval_every": 12}
HOLD = """
import sys, time
from pathlib import Path
from spfl.runs.folders import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another(folder):
    """A process that holds the lock of a folder; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE_S", 0.0)


# --- one process at a time ----------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_in_one_line_and_free_after_kill_9(digits, tmp_path, impatient):
    folder = tmp_path / "run"
    with held_by_another(folder) as process:
        for existing in ("refuse", "overwrite", "resume"):
            with pytest.raises(RunFolderError, match=f"run is in use by process {process.pid}; wait for it") as caught:
                run_experiment(make_config(**ROUNDS), digits, folder, existing=existing)
            assert "\n" not in str(caught.value)
        assert [path.name for path in folder.iterdir()] == [LOCK]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / LOCK).exists()  # left by the dead, and locks nothing
    run_experiment(make_config(**ROUNDS), digits, folder)
    assert not (folder / LOCK).exists()


def test_a_sweep_folder_in_use_is_refused(write_sweep, tmp_path, impatient):
    points = load_points(write_sweep)
    with held_by_another(tmp_path / "out"), pytest.raises(RunFolderError, match="is in use by process"):
        sweep(points, tmp_path / "out", processes=1)
    assert len(sweep(points, tmp_path / "out", processes=1)) == 2


def test_a_forked_process_does_not_keep_the_lock(tmp_path, impatient):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_fork_leaves_the_lock_with_the_parent(tmp_path, impatient):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(RunFolderError, match="in use"), locked(tmp_path):
            pass


def test_waiting_a_little_for_a_process_that_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE_S", 30.0)
    with held_by_another(tmp_path) as process:
        process.kill()
        with locked(tmp_path):
            pass


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(ValueError, match="why"), locked(tmp_path / "a" / "b"):
        raise ValueError("why")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_removed_by_its_last_holder_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking, the file of that name may have become another: then both would hold `the` lock."""
    original, calls = folders._flock, []

    def slow(file):
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(file)
        return original(file)

    monkeypatch.setattr(folders, "_flock", slow)
    with locked(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


# --- a disk that is full, or read-only ----------------------------------------------------------------------


@pytest.fixture
def write_sweep(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('[base]\ndata.devices = 4\nmodel.name = "softmax"\ntraining.rounds = 2\n[[grid]]\nseed = [0, 1]\n')
    return path


@contextmanager
def no_file_larger_than(size):
    """Writes past that size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_experiment(make_config(**ROUNDS), digits, folder)
    return folder


@pytest.mark.parametrize("size", [100, 1000, 3000, 6000])
def test_disk_full_at_any_file_leaves_a_folder_to_go_on_with(digits, whole, tmp_path, size):
    """100: nothing fits; 1000: the marks do; 3000: some metrics; 6000: the first checkpoints, but not all metrics."""
    folder = tmp_path / "run"
    with (
        no_file_larger_than(size),
        pytest.raises(RunFolderError, match=r"cannot write to .*: File too large") as caught,
    ):
        run_experiment(make_config(**ROUNDS), digits, folder, checkpoint_every=2)
    assert "\n" not in str(caught.value)
    run_experiment(make_config(**ROUNDS), digits, folder, existing="resume", checkpoint_every=2)
    assert_same_run(folder, whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_disk_full_in_a_sweep(write_sweep, tmp_path):
    points, out = load_points(write_sweep), tmp_path / "out"
    with no_file_larger_than(1600), pytest.raises(RunFolderError, match=r"cannot write to .*File too large"):
        sweep(points, out, processes=1)
    assert len(read_results(out)) == 1
    rows = sweep(points, out, processes=1, resume=True)
    assert [row["status"] for row in rows] == ["done", "done"]


@contextmanager
def tmpfs(folder, options):
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a file system")
def test_a_file_system_without_room(digits, whole, tmp_path):
    with tmpfs(tmp_path / "small", "size=48k"):
        folder = tmp_path / "small" / "run"
        with pytest.raises(RunFolderError, match=r"cannot write to .*: No space left on device"):
            run_experiment(make_config(**ROUNDS), digits, folder, checkpoint_every=1)
        subprocess.run(["mount", "-o", "remount,size=1m", tmp_path / "small"], check=True)
        run_experiment(make_config(**ROUNDS), digits, folder, existing="resume")
        assert_same_run(folder, whole)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a file system")
def test_a_read_only_file_system(digits, tmp_path, write_sweep):
    with tmpfs(tmp_path / "frozen", "ro"):
        with pytest.raises(RunFolderError, match=r"cannot write to .*: Read-only file system"):
            run_experiment(make_config(**ROUNDS), digits, tmp_path / "frozen" / "run")
        with pytest.raises(RunFolderError, match=r"cannot write to .*: Read-only file system"):
            sweep(load_points(write_sweep), tmp_path / "frozen" / "out", processes=1)


def test_a_folder_below_a_file(digits, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match=r"cannot write to .*: Not a directory"):
        run_experiment(make_config(**ROUNDS), digits, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    with no_file_larger_than(10), pytest.raises(RunFolderError, match="File too large"), writing(tmp_path):
        write_atomically(tmp_path / "file", b"new" * 10)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_device_or_pipe_is_not_replaced(through_a_link, tmp_path):
    """Root could: `spfl report RUN --out /dev/full` left a file of that name in place of the device."""
    os.mkfifo(tmp_path / "pipe")
    target = tmp_path / "link" if through_a_link else tmp_path / "pipe"
    if through_a_link:
        target.symlink_to(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device, pipe or socket, must be a file"):
        write_atomically(target, b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert target.is_symlink() == through_a_link
    assert not (tmp_path / f"{target.name}.tmp").exists()
