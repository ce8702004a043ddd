"""Certificates and keys of a deployment: a private authority, a server certificate, a key pair a node.

For a first deployment and for tests. Where there is an authority of your own, use its certificates in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from spfl.errors import ConfigError

AUTHORITY, SERVER_CERTIFICATE, SERVER_KEY = "ca.pem", "server.pem", "server.key"
DAYS = 365


def make_credentials(folder: Path, hosts: Sequence[str], nodes: int) -> None:
    """Write an authority, a certificate of the server for `hosts` (names or addresses), and `nodes` key pairs.

    The authority's own key is not kept: nobody can sign another certificate with it. Raises ConfigError when the
    folder holds any file already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"folder {folder} is not empty; credentials are written to a new one")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority_key, server_key = _new_key(), _new_key()
    authority = _certificate("spfl authority", authority_key, authority_key, "spfl authority", [])
    server = _certificate(hosts[0], server_key, authority_key, "spfl authority", hosts)
    (folder / AUTHORITY).write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / SERVER_CERTIFICATE).write_bytes(server.public_bytes(Encoding.PEM))
    _write_secret(folder / SERVER_KEY, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for node in range(nodes):
        key = _new_key()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        _write_secret(folder / node_key(node), secret)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (folder / f"{node_key(node)}.pub").write_bytes(public)


def node_key(node: int) -> str:
    """File name of a node's private key; the public key's has .pub after it."""
    return f"node-{node}"


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())  # the curve that Flower's node authentication asks for


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: str,
    hosts: Sequence[str],
) -> x509.Certificate:
    """An authority's certificate when there are no hosts, else a server's for those hosts."""
    now, authority = datetime.now(UTC), not hosts
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
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
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
