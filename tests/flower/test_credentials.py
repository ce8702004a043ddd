"""Keys and certificates of a deployment, and the files of examples/deploy."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from spfl.cli import commands as cli
from spfl.errors import ConfigError
from spfl.flower.credentials import add_nodes, make_credentials, renew_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "examples" / "deploy"


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def hosts_of(path):
    names = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName), [str(a) for a in names.get_values_for_type(x509.IPAddress)]


def test_a_server_is_always_localhost_too(tmp_path):
    """Flower's helper processes call the SuperLink at 127.0.0.1, whatever the nodes call it."""
    make_credentials(tmp_path / "keys", ["fl.example.org", "192.0.2.7", "localhost"], 0)
    assert hosts_of(tmp_path / "keys" / "server.pem") == (["fl.example.org", "localhost"], ["192.0.2.7", "127.0.0.1"])


def test_a_node_is_added_without_touching_the_others(tmp_path):
    make_credentials(tmp_path / "keys", ["fl.example.org"], 2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    (added,) = add_nodes(tmp_path / "keys", 1)
    assert added.name == "node-2"
    assert stat.S_IMODE(added.stat().st_mode) == 0o600
    private = load_ssh_private_key(added.read_bytes(), None)
    public = load_ssh_public_key(added.with_name("node-2.pub").read_bytes())
    assert private.public_key() == public
    assert {name: (tmp_path / "keys" / name).read_bytes() for name in before} == before


def test_nodes_are_added_to_credentials_only(tmp_path):
    with pytest.raises(ConfigError, match="holds no credentials"):
        add_nodes(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_a_kept_authority_signs_for_a_new_name_and_only_with_its_passphrase(tmp_path):
    folder = tmp_path / "keys"
    make_credentials(folder, ["old.example.org"], 1, b"long and secret")
    assert b"ENCRYPTED" in (folder / "ca.key").read_bytes()
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    server = (folder / "server.pem").read_bytes()
    with pytest.raises(ConfigError, match=r"passphrase of .* is another"):
        renew_server(folder, ["new.example.org"], b"guess")
    assert (folder / "server.pem").read_bytes() == server
    renew_server(folder, ["new.example.org"], b"long and secret")
    certificate(folder / "server.pem").verify_directly_issued_by(certificate(folder / "ca.pem"))
    assert hosts_of(folder / "server.pem")[0] == ["new.example.org", "localhost"]


def test_an_authority_that_was_not_kept_cannot_sign(tmp_path):
    make_credentials(tmp_path / "keys", ["localhost"], 0)
    assert not (tmp_path / "keys" / "ca.key").exists()
    with pytest.raises(ConfigError, match=r"holds no ca\.key"):
        renew_server(tmp_path / "keys", ["localhost"], b"any")


def spfl(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_page_s_keys_commands_work_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPFL_CA_PASSPHRASE", "long and secret")
    commands = re.findall(r"^spfl flower keys .*$", PAGE, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        assert spfl(command, monkeypatch) == 0, command
    assert (tmp_path / "credentials" / "node-2.pub").exists()


@pytest.mark.parametrize("options", ["", "--add 1 --host a", "--renew"])
def test_keys_that_make_no_sense_are_refused(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spfl(f"spfl flower keys credentials {options}", monkeypatch) == 2
    assert not (tmp_path / "credentials").exists()


# --- examples/deploy ---------------------------------------------------------------------------------------------


def options_of(command):
    return set(re.findall(r" (--[a-z-]+)", command))


def on_the_page(program):
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return set().union(*(options_of(line) for line in blocks.splitlines() if line.startswith(program)))


def test_compose_starts_what_the_page_starts():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"superlink", "node-0", "node-1"}
    for name, service in services.items():
        program = "flower-superlink" if name == "superlink" else "flower-supernode"
        assert service["command"].startswith(program)
        assert options_of(service["command"]) == on_the_page(program)
        assert service["restart"] == "unless-stopped"
    keys = [str(services[name]["volumes"]) for name in ("node-0", "node-1")]
    assert "credentials/node-1" not in keys[0]  # a node gets its own key, and nobody else's
    assert "credentials/node-0" not in keys[1]


@pytest.mark.parametrize("name", ["superlink", "node"])
def test_units_start_what_the_page_starts(name, tmp_path):
    path = DEPLOY / f"spfl-{name}.service"
    text = path.read_text().replace("\\\n", " ")
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(text)
    program = "flower-superlink" if name == "superlink" else "flower-supernode"
    command = unit["Service"]["ExecStart"]
    assert f"/{program} " in command
    assert options_of(command) <= on_the_page(program)
    assert unit["Service"]["User"] == "spfl"
    assert unit["Service"]["Restart"] == "always"
    if shutil.which("systemd-analyze"):
        copy = tmp_path / path.name
        copy.write_text(re.sub(r"/srv/spfl/venv/bin/\S+", "/bin/true", path.read_text()))
        done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
        assert "Unknown" not in done.stderr, done.stderr
