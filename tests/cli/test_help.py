"""Every command has an example that parses; the shell completes keys and schemes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer
import typer.completion

from spfl.cli import commands as cli
from spfl.cli.completion import complete_key, complete_schemes
from spfl.cli.ending import ORDER
from spfl.config.files import all_fields
from spfl.config.radio import ChannelConfig
from spfl.config.training import TrainingConfig
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
    assert found.keys() == {"channel.median_snr_db=", "channel.median_snr_db=none"}
    assert found["channel.median_snr_db="] == ChannelConfig.model_fields["median_snr_db"].description
    assert "seed=" in dict(complete_key("see"))
    assert not list(complete_key("nothing"))
    assert set(dict(complete_key("training."))) == {f"training.{key}=" for key in TrainingConfig.model_fields}


def test_values_are_completed():
    assert set(dict(complete_key("scheme.name=sp_"))) == {f"scheme.name={n}" for n in SCHEMES if n.startswith("sp_")}
    assert dict(complete_key("scheme.name=sp_fl"))["scheme.name=sp_fl"] == SCHEMES["sp_fl"].summary
    assert "data.partition=dirichlet" in dict(complete_key("data.partition="))
    assert "channel.fading=rician" in dict(complete_key("channel.fading=r"))
    assert not list(complete_key("nothing=x"))


def test_no_key_is_completed_with_a_space_after_its_equals_sign():
    """Shells add the space to a word that is the only one left."""
    for key in all_fields():
        assert len(list(complete_key(key))) > 1 or f"{key}=" not in dict(complete_key(key)), key


def test_schemes_are_completed_after_a_comma():
    assert "sp_fl_plus" in dict(complete_schemes("sp_fl_p"))
    after = dict(complete_schemes("sp_fl,err"))
    assert after == {"sp_fl,error_free": SCHEMES["error_free"].summary}
    assert "sp_fl,sp_fl" not in dict(complete_schemes("sp_fl,sp"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["run", "--set", "channel.me"], {"channel.median_snr_db=", "channel.median_snr_db=none"}),
        (["run", "--set", "scheme.name", "=", "sp_fl_plus_1"], {"sp_fl_plus_1", "sp_fl_plus_1_uncalibrated",
                                                              "sp_fl_plus_1_unrotated", "sp_fl_plus_1_uniform"}),
        (["run", "--set", "model.name", "="], {"softmax", "mlp", "small_cnn", "resnet18", "lstm", "transformer"}),
        (["run", "--preset", "pa"], {"paper"}),
        (["compare", "--schemes", "sp_fl,err"], {"sp_fl,error_free"}),
    ],
)  # fmt: skip
def test_bash_asks_and_is_answered(words, answer, tmp_path):
    """The script that `--install-completion` installs, in Bash itself, which takes `=` for a word of its own."""
    script = typer.completion.get_completion_script(prog_name="spfl", complete_var="_SPFL_COMPLETE", shell="bash")
    ask = f"COMP_WORDS=(spfl {' '.join(words)}); COMP_CWORD={len(words)}; _spfl_completion spfl"
    command = tmp_path / "spfl"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -m spfl\n")
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}\nprintf '%s\n' \"${{COMPREPLY[@]}}\""],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert set(done.stdout.split()) == answer, done.stderr


def test_commands_stand_in_the_order_of_use():
    app = typer.main.get_command(cli.app)
    names = app.list_commands(typer.Context(app))
    assert set(names) <= set(ORDER), "a new command needs its place in spfl.cli.ending.ORDER"
    assert names == [name for name in ORDER if name in names]


@pytest.mark.parametrize(
    ("words", "meant"), [(["runn"], "run"), (["flower", "helth"], "health"), (["run", "--sedd"], "--seed")]
)
def test_a_slip_is_answered_once(words, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.app(words, prog_name="spfl")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"'{meant}'" in said
    assert said.count("\n") == said.lower().count("did you mean") == 1
