"""Situations composed of paths, streams, settings, data, networks, machines and signals (fuzz/situations.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from spfl.cli import commands as cli

FUZZ = Path(__file__).parents[2] / "fuzz"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture(scope="module")
def situations():
    before, path = dict(os.environ), list(sys.path)
    sys.path.insert(0, str(FUZZ))
    import situations

    yield situations
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(before)


def tried(count, seed):
    """What fuzz/situations.py prints of so many: it fails where one ends as it must not."""
    return printed("situations.py", str(count), str(seed))


def printed(*words):
    command = [sys.executable, str(FUZZ / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_some_situations_end_in_one_line():
    assert tried(15, seed=5).startswith("15 situations: ")


@pytest.mark.slow
def test_many_situations_end_in_one_line(capsys):
    told = tried(600, seed=6)
    with capsys.disabled():
        print(f"\nfuzz/situations.py: {told.strip()}, none raw or silent")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_each_situation_by_itself_ends_in_one_line(part, capsys):
    said = printed("each.py", f"{part}/8")
    with capsys.disabled():
        print(f"\nfuzz/each.py {part}/8: {said.strip()}, none raw or silent")


def test_no_command_is_left_out(situations):
    def walk(command, name=()):
        if isinstance(command, click.Group):
            for key, part in command.commands.items():
                yield from walk(part, (*name, key))
        else:
            yield name

    tried_words = {tuple(words[: 1 + (words[0] in ("config", "flower", "radio"))]) for words in situations.COMMANDS}
    assert set(walk(typer.main.get_command(cli.app))) - tried_words == {("radio", "calibrate")}  # needs Sionna


def test_situations_compose_several_kinds_and_can_be_made_again(situations):
    made = [situations.compose(0, number) for number in range(600)]
    assert [situations.compose(0, number) for number in range(600)] == made
    kinds = {one.partition(":")[0] for each in made for one in each.kinds}
    assert kinds == {"path", "stream", "setting", "option", "network", "dataset", "file", "part", "machine", "signal"}
    assert sum(len(each.kinds) > 1 for each in made) > 300
    assert len({str(each.arguments) + str(each.kinds) for each in made}) > 550


@pytest.mark.parametrize(
    ("code", "out", "err", "bad"),
    [
        (0, "a result\n", "", ""),
        (2, "", "error: data.devices: must be a number\n", ""),
        (1, "", 'Traceback (most recent call last):\n  File "x"\nKeyError: 1\n', "another's words: Traceback"),
        (1, "", "error: KeyError: 1 (not foreseen: a fault of spfl)\n", "another's words: not foreseen"),
        (2, "", "error: RuntimeError: mat1 and mat2 shapes cannot be multiplied\n", "another's words: RuntimeError:"),
        (2, "", "UserWarning of somebody\nerror: x\n", "a line of nobody's: 'UserWarning of somebody'"),
        (2, "", "error: a\nerror: b\n", "2 lines of errors"),
        (0, "", "", "silence"),
        (2, "", "", "silence"),
        (None, "", "", "it hangs"),
        (-11, "", "", "exit code -11"),
        (130, "", "interrupted\n", "exit code 130, and no signal was sent"),
    ],
)
def test_what_must_not_be_is_found(situations, code, out, err, bad):
    made = situations.Situation("0:0", "run", ["run"])
    assert situations._judge(made, situations.Found(code, out, err)) == bad
