"""An archive of a sweep: all that is needed to check it and to run it again, and nothing that is not told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile

import pytest

from spfl.cli import commands as cli
from spfl.config.files import load_config
from spfl.errors import RunFolderError
from spfl.studies.archive import Sample, archive, verify_study
from spfl.studies.points import load_points
from spfl.studies.runner import sweep

SWEEP = """
[base]
config = "base/own.toml"
"training.eval_every" = 1
[rates]
sp_fl = 0.2
[[grid]]
seed = [0, 1]
"channel.median_snr_db" = [-3.0, 6.0]
"scheme.name" = ["single_packet", "sp_fl"]
[[grid]]
seed = 5
"scheme.name" = "drive"
"channel.symbols_per_parameter" = [1.0, 4.0]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep whose base is another file, and that was run with an override."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "base").mkdir()
    (folder / "base" / "own.toml").write_text('model.name = "softmax"\ndata.devices = 4\ntraining.rounds = 2\n')
    (folder / "sweep.toml").write_text(SWEEP)
    points = load_points(folder / "sweep.toml", ["training.batch_size=7"])
    sweep(points, folder / "study", source=folder / "sweep.toml", processes=1)
    return folder / "study", points


@pytest.fixture
def made(swept, tmp_path):
    return archive(swept[0], tmp_path / "deposit")


def test_the_plan_gives_the_same_points_without_any_other_file(swept, tmp_path):
    plan = tmp_path / "alone.toml"
    plan.write_bytes((swept[0] / "plan.toml").read_bytes())
    again = {point.key: point.settings for point in load_points(plan)}
    assert again.keys() == {point.key for point in swept[1]}
    assert all(load.config.training.batch_size == 7 for load in load_points(plan))
    assert all(again[point.key] == point.settings for point in swept[1])


def test_an_archive_holds_a_configuration_for_each_point_and_checksums_of_all(swept, made):
    for point in swept[1]:
        assert load_config(made / "configs" / f"{point.key}.toml") == point.config
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    present = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert present == listed | {"SHA256SUMS"}
    text = (made / "README.md").read_text()
    assert "10 runs at 6 settings" in text
    assert "`single_packet`, `sp_fl`, `drive`. Seeds: 0, 1, 5." in text
    assert (
        f"torch=={json.loads((made / 'environment.json').read_text())['versions']['torch']}"
        in (made / "requirements.txt").read_text()
    )


def test_random_points_run_again_to_the_same_bits(swept, made):
    for folder, files in ((made, len((made / "SHA256SUMS").read_text().splitlines())), (swept[0], 0)):
        verdict = verify_study(folder, Sample(2, 3))
        assert (verdict.files, len(verdict.points), verdict.difference) == (files, 2, None)
    every = verify_study(made, Sample(100))
    assert len(every.points) == 10
    assert verify_study(made, Sample(2, 3)).points == verdict.points  # the same choice


@pytest.mark.parametrize(
    ("name", "told"),
    [("summary.md", r"summary\.md was changed"), ("environment.json", r"environment\.json was changed")],
)
def test_a_changed_file_is_named(made, name, told):
    (made / name).write_bytes((made / name).read_bytes() + b" ")
    verdict = verify_study(made, Sample(0))
    assert re.search(told, str(verdict.difference))


def test_missing_and_additional_files_are_named(made):
    (made / "own.txt").write_text("new")
    assert verify_study(made, Sample(0)).difference == "own.txt is not in SHA256SUMS"
    (made / "own.txt").unlink()
    (made / "README.md").unlink()
    assert verify_study(made, Sample(0)).difference == "README.md is missing"


def test_a_result_that_does_not_come_again_is_named(swept, tmp_path):
    """A folder without checksums, one of whose accuracies was improved by hand."""
    folder = tmp_path / "study"
    subprocess.run(["cp", "-r", str(swept[0]), str(folder)], check=True)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        row["accuracy_last"] = 0.999
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "accuracy_last is 0.999, again 0." in str(verify_study(folder, Sample(1), tolerance=0.01).difference)


def test_checksums_point_nowhere_else(made):
    (made / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n")
    with pytest.raises(RunFolderError, match="SHA256SUMS is damaged"):
        verify_study(made, Sample(0))


def test_what_cannot_be_archived(swept, made, tmp_path):
    with pytest.raises(RunFolderError, match="is there already"):
        archive(swept[0], made)
    with pytest.raises(RunFolderError, match=r"holds no plan\.toml$"):
        archive(tmp_path, tmp_path / "x")
    (tmp_path / "results.jsonl").touch()  # of a sweep that an earlier version made
    with pytest.raises(RunFolderError, match=r"holds no plan\.toml; spfl sweep FILE --resume"):
        archive(tmp_path, tmp_path / "x")
    folder = tmp_path / "study"
    subprocess.run(["cp", "-r", str(swept[0]), str(folder)], check=True)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(RunFolderError, match=r"has no result for 1 of 10 points of plan\.toml"):
        archive(folder, tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_commands(swept, tmp_path, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["spfl", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capsys.readouterr().out

    assert call("archive", swept[0], "--out", tmp_path / "d.zip") == (0, f"{tmp_path / 'd.zip'}\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "d.zip"]
    with zipfile.ZipFile(tmp_path / "d.zip") as packed:
        packed.extractall(tmp_path / "unpacked")
    code, out = call("verify", tmp_path / "unpacked", "--points", 1, "--seed", 0)
    assert (code, "1 of its points again, the same bits" in out) == (0, True)
    (tmp_path / "unpacked" / "summary.md").write_text("")
    code, out = call("verify", tmp_path / "unpacked")
    assert (code, "summary.md was changed" in out) == (1, True)
