"""Certificates and keys of a deployment: a private authority, a server certificate, a key pair a node.

For a first deployment and for tests. Where there is an authority of your own, use its certificates in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from spfl.errors import ConfigError

AUTHORITY, AUTHORITY_KEY, SERVER_CERTIFICATE, SERVER_KEY = "ca.pem", "ca.key", "server.pem", "server.key"
AUTHORITY_NAME, LOCAL = "spfl authority", ("localhost", "127.0.0.1")
DAYS = 365
HOST = r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"


def make_credentials(folder: Path, hosts: Sequence[str], nodes: int, passphrase: bytes | None = None) -> None:
    """Write an authority, a certificate of the server for `hosts` (names or addresses), and `nodes` key pairs.

    The certificate is good for localhost and 127.0.0.1 as well: Flower's own helper processes call the SuperLink there.
    The authority's key is kept only under a passphrase (`renew_server` needs it); without one nobody can sign another
    certificate. Raises ConfigError when the folder holds any file already.
    """
    for host in hosts:
        _host(host)  # before anything is written
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"folder {folder} is not empty; credentials are written to a new one")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority_key = _new_key()
    authority = _certificate(AUTHORITY_NAME, authority_key, authority_key, [])
    (folder / AUTHORITY).write_bytes(authority.public_bytes(Encoding.PEM))
    if passphrase is not None:
        protection = BestAvailableEncryption(passphrase)
        _write_secret(
            folder / AUTHORITY_KEY, authority_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        )
    _write_server(folder, hosts, authority_key)
    add_nodes(folder, nodes)


def add_nodes(folder: Path, nodes: int) -> list[Path]:
    """Write `nodes` more key pairs, and return their private keys; numbers go on. Raises ConfigError."""
    if not (folder / AUTHORITY).exists():
        raise ConfigError(f"{folder} holds no credentials; make them with --host first")
    known = [int(path.name.removeprefix("node-")) for path in folder.glob("node-*") if path.name[5:].isdigit()]
    first = max(known, default=-1) + 1
    return [_write_pair(folder / node_key(node)) for node in range(first, first + nodes)]


def renew_server(folder: Path, hosts: Sequence[str], passphrase: bytes) -> None:
    """A new certificate and key of the server, signed by the authority that was kept: nodes need nothing new.

    Raises ConfigError when the authority's key was not kept, or the passphrase is another.
    """
    try:
        key = load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), passphrase)
    except OSError:
        raise ConfigError(
            f"{folder} holds no {AUTHORITY_KEY}; keep it with --keep-authority, or make all anew"
        ) from None
    except ValueError:
        raise ConfigError(f"the passphrase of {folder / AUTHORITY_KEY} is another") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder / AUTHORITY_KEY} must be an elliptic-curve key")
    _write_server(folder, hosts, key)


def _write_server(folder: Path, hosts: Sequence[str], authority_key: ec.EllipticCurvePrivateKey) -> None:
    server_key, every = _new_key(), list(dict.fromkeys([*hosts, *LOCAL]))
    server = _certificate(every[0], server_key, authority_key, every)
    (folder / SERVER_CERTIFICATE).write_bytes(server.public_bytes(Encoding.PEM))
    _write_secret(folder / SERVER_KEY, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _write_pair(path: Path) -> Path:
    key = _new_key()
    _write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public)
    return path


def node_key(node: int) -> str:
    """File name of a node's private key; the public key's has .pub after it."""
    return f"node-{node}"


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())  # the curve that Flower's node authentication asks for


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]
) -> x509.Certificate:
    """An authority's certificate when there are no hosts, else a server's for those hosts."""
    now, authority = datetime.now(UTC), not hosts
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(AUTHORITY_NAME))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks of hosts differ
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return builder.sign(issuer_key, hashes.SHA384())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    """Raises ConfigError for what is neither an address nor the name of a host: a URL, or a port after it."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if not re.fullmatch(HOST, host) or len(host) > 253:
            raise ConfigError(
                f"host must be a name or an address, such as fl.example.org or 192.0.2.1, without scheme and port, "
                f"got {host!r}"
            ) from None
        return x509.DNSName(host)


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
