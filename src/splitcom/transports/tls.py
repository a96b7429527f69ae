"""A small certificate authority and the identities it issues; knows certificates and files, no network.

    DIR/authority.pem        the authority's certificate: public
    DIR/authority-key.pem    its key: whoever has it can make clients; belongs on no server that strangers reach
    DIR/server.pem           the server's certificate and key
    DIR/issued.json          what was issued to whom
    DIR/revoked.pem          the list of revoked certificates (CRL), signed by the authority
    DIR/clients/NAME.pem     the bundle to hand over: the authority's certificate, the client's, and its key

A client is known by the common name of its certificate. All keys are ECDSA on P-256; files with a key are readable
by their owner alone, and a key is never overwritten.
"""

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitcom.durable import sync, write_atomic
from splitcom.errors import IdentityError
from splitcom.foreign import visible

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
_CLOCK_SKEW = timedelta(minutes=5)  # between the machine that issues and those that check
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # also a file name, a metrics label, a log line


@dataclass(frozen=True)
class Identity:
    """What one end of a connection proves itself with, all in PEM, and the authority it believes."""

    authority: bytes
    certificate: bytes
    key: bytes

    @property
    def name(self) -> str:
        """The client's name; raises IdentityError if the certificate has none that a client may have."""
        return client_name(x509.load_pem_x509_certificate(self.certificate))

    @property
    def expires(self) -> datetime:
        """Until when the certificate is valid."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


@dataclass(frozen=True)
class Issued:
    """A certificate that an authority has issued."""

    name: str
    kind: str  # "client" or "server"
    serial: int
    expires: datetime
    revoked: bool


def create_authority(folder: str | Path, days: int = AUTHORITY_DAYS) -> None:
    """Make an authority's certificate, key and empty revocation list; IdentityError if there is one."""
    folder = Path(folder)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SplitCom authority")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_new(folder / "authority-key.pem", _key_pem(key), secret=True)
    _write_new(folder / "authority.pem", _pem(certificate))
    _write_list(folder, key, certificate, [])


def issue_server(folder: str | Path, hosts: Sequence[str], days: int = CERTIFICATE_DAYS) -> Path:
    """Issue the certificate of a server that clients reach under `hosts`, names or addresses; returns its file."""
    if not hosts:
        raise IdentityError("no host: name at least one that clients will reach the server under")
    folder = Path(folder)
    alternative = x509.SubjectAlternativeName([_host(host) for host in hosts])
    return _issue(folder, hosts[0], "server", folder / "server.pem", days, alternative)


def issue_client(folder: str | Path, name: str, days: int = CERTIFICATE_DAYS) -> Path:
    """Issue a client's bundle, one file to hand over; IdentityError if the name has one that is not revoked."""
    check_name(name)
    folder = Path(folder)
    bundle = folder / "clients" / f"{name}.pem"
    if any(issued.name == name and not issued.revoked for issued in _of_kind(folder, "client")):
        raise IdentityError(
            f"{name} has a certificate that is not revoked; to replace it, first: splitcom certs revoke {folder} "
            f"--client {name}"
        )
    return _issue(folder, name, "client", bundle, days, None)


def revoke(folder: str | Path, name: str) -> int:
    """Put every certificate of a client on the revocation list, remove its bundle; returns how many there were."""
    folder = Path(folder)
    key, certificate = _authority(folder)
    mine = [issued for issued in _of_kind(folder, "client") if issued.name == name and not issued.revoked]
    if not mine:
        known = sorted({issued.name for issued in _of_kind(folder, "client") if not issued.revoked})
        raise IdentityError(
            f"{name}: no certificate to revoke in {folder}; there are {', '.join(known) or 'none'}"
        )
    revoked = [issued.serial for issued in list_issued(folder) if issued.revoked]
    _write_list(folder, key, certificate, [*revoked, *(issued.serial for issued in mine)])
    (folder / "clients" / f"{name}.pem").unlink(missing_ok=True)
    return len(mine)


def list_issued(folder: str | Path) -> list[Issued]:
    """Everything an authority has issued, oldest first."""
    folder = Path(folder)
    path = folder / "issued.json"
    with _explained(path):
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    revocations = Revocations(folder)
    return [
        Issued(
            entry["name"],
            entry["kind"],
            int(entry["serial"], 16),
            datetime.fromisoformat(entry["expires"]),
            int(entry["serial"], 16) in revocations,
        )
        for entry in entries
    ]


def load_identity(bundle: str | Path) -> Identity:
    """Read a bundle; IdentityError if it is missing, malformed, or expired."""
    bundle = Path(bundle)
    with _explained(bundle):
        content = bundle.read_bytes()
        certificates = x509.load_pem_x509_certificates(content)
        key = serialization.load_pem_private_key(content, password=None)
    if len(certificates) != 2:
        raise IdentityError(
            f"{bundle}: {len(certificates)} certificates; a bundle holds the authority's and the owner's"
        )
    authority, own = certificates
    if own.public_key() != key.public_key():
        raise IdentityError(f"{bundle}: the key is not that of the certificate; get the bundle anew")
    _check_issuer(own, authority, bundle)
    _check_dates(own, bundle)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Identity(_pem(authority), _pem(own), _key_pem(key))


def load_server_identity(folder: str | Path) -> Identity:
    """The server's identity from an authority's folder, of which the authority's key is not needed."""
    path = Path(folder) / "server.pem"
    if not path.exists():
        raise IdentityError(
            f"{path}: no server certificate; make one: splitcom certs init {folder} --host HOST"
        )
    return load_identity(path)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; empty if it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def client_name(certificate: x509.Certificate) -> str:
    """The name of the client whose certificate it is; raises IdentityError as `check_name` does."""
    return check_name(common_name(certificate))


def check_name(name: str) -> str:
    """Give a client's name back, which is part of paths too; raises IdentityError if it is no name for a client."""
    if not _NAME.fullmatch(name):
        raise IdentityError(
            f"client name {visible(name, 80)!r}: use 1 to 64 letters, digits, '.', '_' and '-', and begin with one of "
            "the first two"
        )
    return name


class Revocations:
    """The revocation list of an authority's folder, read again whenever the file has changed.

    Raises IdentityError if it is damaged or not signed by the authority: better to refuse all than to let in one.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._stamp: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()

    def __contains__(self, serial: object) -> bool:
        self._read()
        return serial in self._serials

    def _read(self) -> None:
        path = self._folder / "revoked.pem"
        with _explained(path):
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            content = x509.load_pem_x509_crl(path.read_bytes())
            authority = x509.load_pem_x509_certificate((self._folder / "authority.pem").read_bytes())
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        if not content.is_signature_valid(key):
            raise IdentityError(f"{path}: not signed by the authority of {self._folder}; restore the file")
        self._serials = frozenset(entry.serial_number for entry in content)
        self._stamp = stamp


def _issue(
    folder: Path,
    name: str,
    kind: str,
    path: Path,
    days: int,
    alternative: x509.SubjectAlternativeName | None,
) -> Path:
    if days < 1:
        raise IdentityError(f"days = {days}: a certificate is valid for at least one day")
    authority_key, authority = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        _builder(subject, authority.subject, key.public_key(), authority_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    with _explained(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    _write_new(path, _pem(authority) + _pem(certificate) + _key_pem(key), secret=True)
    _record(folder, name, kind, certificate)
    return path


def _record(folder: Path, name: str, kind: str, certificate: x509.Certificate) -> None:
    path = folder / "issued.json"
    with _explained(path):
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entries.append(
        {
            "name": name,
            "kind": kind,
            "serial": f"{certificate.serial_number:x}",
            "expires": certificate.not_valid_after_utc.isoformat(),
        }
    )
    write_atomic(path, (json.dumps(entries, indent=1) + "\n").encode())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _write_list(
    folder: Path, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, serials: Sequence[int]
) -> None:
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        authority.subject, now, now + timedelta(days=AUTHORITY_DAYS)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    content = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    write_atomic(folder / "revoked.pem", content)


def _of_kind(folder: Path, kind: str) -> list[Issued]:
    return [issued for issued in list_issued(folder) if issued.kind == kind]


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    path = folder / "authority-key.pem"
    if not path.exists():
        raise IdentityError(f"{path}: no authority here; make one: splitcom certs init {folder} --host HOST")
    with _explained(path):
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key, certificate


def _check_issuer(certificate: x509.Certificate, authority: x509.Certificate, where: Path) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise IdentityError(
            f"{where}: the certificate of {common_name(certificate)!r} was not issued by the authority "
            "beside it"
        ) from error


def _check_dates(certificate: x509.Certificate, where: Path) -> None:
    now = datetime.now(UTC)
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not since <= now <= until:
        raise IdentityError(
            f"{where}: the certificate of {common_name(certificate)!r} is valid from {since:%Y-%m-%d %H:%M} to "
            f"{until:%Y-%m-%d %H:%M} UTC, and now it is {now:%Y-%m-%d %H:%M}; have a new one issued, or set the clock"
        )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_new(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Create a file, a secret one for its owner alone from the first moment; IdentityError if it exists."""
    with _explained(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
        except FileExistsError:
            raise IdentityError(
                f"{path}: exists and is never overwritten; move it away if it is not needed"
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        sync(path)
        sync(path.parent)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise IdentityError(
            f"{error.filename or path}: no such file; expected one that `splitcom certs` has written"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"{path}: {error.strerror or error}; expected a file that `splitcom certs` has written"
        ) from error
    except (ValueError, TypeError) as error:
        raise IdentityError(
            f"{path}: cannot be read: {str(error).split('. ')[0]}; expected a file that `splitcom certs` has written"
        ) from error
