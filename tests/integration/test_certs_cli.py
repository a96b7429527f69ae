"""The authority on the command line, and what a client is told before it reaches the network."""

import pytest
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.errors import IdentityError


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_an_authority_to_a_revoked_client(tmp_path):
    folder = tmp_path / "authority"
    assert "server.pem" in run("certs", "init", folder, "--host", "train.example.org", "--host", "10.0.0.1")
    assert "clinic-a.pem" in run("certs", "issue", folder, "--client", "clinic-a", "--days", "30")
    run("certs", "issue", folder, "--client", "clinic-b")
    assert "revoked    1 of clinic-a" in run("certs", "revoke", folder, "--client", "clinic-a")
    server, a, b = run("certs", "list", folder).splitlines()
    assert server.startswith("server") and "train.example.org" in server
    assert "clinic-a" in a and "revoked" in a
    assert "clinic-b" in b and "until 2" in b


def test_init_makes_only_what_is_missing(tmp_path):
    run("certs", "init", tmp_path, "--host", "old.example.org")
    key = (tmp_path / "authority-key.pem").read_bytes()
    with pytest.raises(IdentityError, match=r"server\.pem: exists and is never overwritten"):
        run("certs", "init", tmp_path, "--host", "new.example.org")
    (tmp_path / "server.pem").unlink()
    run("certs", "init", tmp_path, "--host", "new.example.org")
    assert (tmp_path / "authority-key.pem").read_bytes() == key
