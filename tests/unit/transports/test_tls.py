"""The authority: what it issues, what it refuses, and that no key is overwritten or readable by others."""

import stat
from datetime import UTC, datetime

import pytest

from splitcom.errors import IdentityError
from splitcom.transports import tls


@pytest.fixture
def authority(tmp_path):
    tls.create_authority(tmp_path / "authority")
    return tmp_path / "authority"


def test_a_bundle_is_all_that_a_client_needs(authority):
    identity = tls.load_identity(tls.issue_client(authority, "clinic-a", days=30))
    assert identity.name == "clinic-a"
    assert identity.authority == (authority / "authority.pem").read_bytes()
    assert 29 <= (identity.expires - datetime.now(UTC)).days <= 30


def test_keys_are_their_owners_alone(authority):
    tls.issue_client(authority, "clinic-a")
    tls.issue_server(authority, ["train.example.org", "10.0.0.1"])
    secret = [p for p in authority.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    assert {path.name for path in secret} == {"authority-key.pem", "clinic-a.pem", "server.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_nothing_is_overwritten(authority):
    bundle = tls.issue_client(authority, "clinic-a")
    tls.issue_server(authority, ["localhost"])
    before = {path: path.read_bytes() for path in authority.rglob("*") if path.is_file()}
    with pytest.raises(IdentityError, match="never overwritten"):
        tls.create_authority(authority)
    with pytest.raises(IdentityError, match="never overwritten"):
        tls.issue_server(authority, ["localhost"])
    with pytest.raises(IdentityError, match="to replace it, first: splitcom certs revoke"):
        tls.issue_client(authority, "clinic-a")
    assert before == {path: path.read_bytes() for path in authority.rglob("*") if path.is_file()}
    assert bundle in before


def test_a_revoked_client_is_on_the_list_at_once_and_may_get_another(authority):
    revocations = tls.Revocations(authority)
    tls.issue_client(authority, "clinic-a")
    (first,) = tls.list_issued(authority)
    assert first.serial not in revocations
    assert tls.revoke(authority, "clinic-a") == 1
    assert first.serial in revocations
    tls.issue_client(authority, "clinic-a")
    assert [issued.revoked for issued in tls.list_issued(authority)] == [True, False]
    with pytest.raises(IdentityError, match=r"no certificate to revoke in .*; there are clinic-a"):
        tls.revoke(authority, "clinic-b")


def test_a_revocation_list_of_somebody_else_lets_nobody_in(authority, tmp_path):
    tls.create_authority(tmp_path / "other")
    (authority / "revoked.pem").write_bytes((tmp_path / "other" / "revoked.pem").read_bytes())
    with pytest.raises(IdentityError, match="not signed by the authority"):
        tls.Revocations(authority).__contains__(1)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "-a", "a" * 65, "a b"])
def test_names_that_are_no_file_names_are_refused(authority, name):
    with pytest.raises(IdentityError, match="use 1 to 64 letters"):
        tls.issue_client(authority, name)


def test_damaged_bundles_are_named(authority, tmp_path):
    bundle = tls.issue_client(authority, "clinic-a")
    other = tls.issue_client(authority, "clinic-b")
    pem = bundle.read_bytes()
    mixed = (
        pem[: pem.index(b"-----BEGIN PRIVATE")]
        + other.read_bytes()[other.read_bytes().index(b"-----BEGIN P") :]
    )
    for content, reason in [
        (b"", "cannot be read"),
        (pem[:600], "cannot be read"),
        (mixed, "the key is not that of the certificate"),
        (pem.replace(tls.load_identity(bundle).authority, b""), "1 certificates; a bundle holds"),
    ]:
        (tmp_path / "bundle.pem").write_bytes(content)
        with pytest.raises(IdentityError, match=reason):
            tls.load_identity(tmp_path / "bundle.pem")
    with pytest.raises(IdentityError, match=r"nothing\.pem: no such file"):
        tls.load_identity(tmp_path / "nothing.pem")
    with pytest.raises(IdentityError, match="no authority here; make one"):
        tls.issue_client(tmp_path, "clinic-a")
