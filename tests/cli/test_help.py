"""Every command has an example that parses; the shell completes keys and schemes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from spfl.cli import commands as cli
from spfl.cli.completion import complete_key, complete_schemes
from spfl.config.radio import ChannelConfig
from spfl.schemes import SCHEMES


def leaves(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    text = COMMANDS[name].help
    examples = re.findall(r"`(spfl [^`]+)`", text.partition("Example")[2])
    assert examples, f"spfl {name} has no example"
    for example in examples:
        words = shlex.split(example)[1:]
        assert " ".join(words).startswith(name)
        with COMMANDS[name].make_context(name, words[len(name.split()) :], resilient_parsing=False) as context:
            assert context.params is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        assert getattr(parameter, "help", None), f"spfl {name}: {parameter.name}"


def test_keys_are_completed():
    found = dict(complete_key("channel.me"))
    assert found.keys() == {"channel.median_snr_db="}
    assert found["channel.median_snr_db="] == ChannelConfig.model_fields["median_snr_db"].description
    assert dict(complete_key("see")).keys() == {"seed="}
    assert not list(complete_key("nothing"))


def test_schemes_are_completed_after_a_comma():
    assert "sp_fl_plus" in dict(complete_schemes("sp_fl_p"))
    after = dict(complete_schemes("sp_fl,err"))
    assert after == {"sp_fl,error_free": SCHEMES["error_free"].summary}
    assert "sp_fl,sp_fl" not in dict(complete_schemes("sp_fl,sp"))


def test_the_shell_asks_and_is_answered():
    """As bash does it: the words and the position in the environment, suggestions on stdout."""
    asked = {"_SPFL_COMPLETE": "complete_bash", "COMP_WORDS": "spfl run --set channel.me", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from spfl.cli.commands import app; app(prog_name='spfl')"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked, timeout=60)
    assert done.stdout.split() == ["channel.median_snr_db="]
