"""What docs/security.md promises of a deployment's network has a test; and those of certificates are here."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spfl.flower import credentials
from spfl.flower.credentials import AUTHORITY, SERVER_CERTIFICATE, SERVER_KEY, make_credentials, renew_server

ROOT = Path(__file__).parents[2]
HOST = "fl.example.org"


def handshake(server, trust, host):
    """TLS in memory, as a node does it: its authority's certificate, and the name that it calls."""
    client_side = ssl.create_default_context(cafile=str(trust / AUTHORITY))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(server / SERVER_CERTIFICATE, server / SERVER_KEY)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(down, up, server_hostname=host)
    other = server_side.wrap_bio(up, down, server_side=True)
    for _ in range(10):
        try:
            client.do_handshake()
            return client.version()
        except ssl.SSLWantReadError:
            try:
                other.do_handshake()
            except ssl.SSLWantReadError:
                continue
    raise AssertionError("no handshake")


@pytest.fixture
def keys(tmp_path):
    make_credentials(tmp_path / "keys", [HOST], 1, b"secret")
    return tmp_path / "keys"


@pytest.mark.parametrize("host", [HOST, "localhost", "127.0.0.1"])
def test_a_node_trusts_the_server_of_its_authority_under_its_name(keys, host):
    assert handshake(keys, keys, host) == "TLSv1.3"


def test_a_certificate_of_another_authority_is_refused(keys, tmp_path):
    """It has the same names, and its authority calls itself the same."""
    make_credentials(tmp_path / "foreign", [HOST], 1)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(tmp_path / "foreign", keys, HOST)


def test_a_certificate_for_another_host_is_refused(keys):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(keys, keys, "other.example.org")


def test_an_expired_certificate_is_refused_and_a_renewed_one_taken(keys, monkeypatch):
    class LongAgo(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(credentials, "datetime", LongAgo)
    renew_server(keys, [HOST], b"secret")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        handshake(keys, keys, HOST)
    monkeypatch.setattr(credentials, "datetime", datetime)
    renew_server(keys, [HOST], b"secret")
    assert handshake(keys, keys, HOST) == "TLSv1.3"


def test_certificates_are_good_for_a_year(keys):
    from cryptography import x509

    server = x509.load_pem_x509_certificate((keys / SERVER_CERTIFICATE).read_bytes())
    left = server.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=364) < left < timedelta(days=366)


def test_every_promise_of_the_page_names_a_test_that_there_is():
    """The rows of its table end in a file and the test in it."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("## Deployments")[2]
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        file, _, test = row[-1].strip("`").partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, row
