"""Who is let in: the name in a certificate that gRPC has verified, unless it is no name or has been revoked."""

import logging
from collections.abc import Container

import grpc
from cryptography import x509

from splitcom.errors import IdentityError, SplitComError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.transports.frames_pb2 import Refused
from splitcom.transports.grpc import TRANSPORT_VERSION, code_name
from splitcom.transports.tls import client_name

_LOG = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818  (an event, no error)
    """A client is not let in, or not let go on."""

    def __init__(self, code: Refused.Code, reason: str) -> None:
        self.refused = refused(code, reason)
        super().__init__(self.refused.reason)


class Admission:
    """`revoked` are serial numbers of certificates; gRPC python itself knows no revocation lists."""

    def __init__(self, revoked: Container[int]) -> None:
        self._revoked = revoked

    def identify(self, context: grpc.ServicerContext) -> tuple[str, int]:
        """The client's name and its certificate's serial number; gRPC has verified authority and dates."""
        try:
            certificate = x509.load_pem_x509_certificate(_property(context, "x509_pem_cert"))
            name = client_name(certificate)
        except (IdentityError, ValueError) as error:  # ValueError: OpenSSL reads what cryptography does not
            raise Refusal(Refused.CERTIFICATE, str(error)) from error
        self.check(name, certificate.serial_number)
        return name, certificate.serial_number

    def check(self, name: str, serial: int) -> None:
        """Raise Refusal where a certificate has been revoked."""
        try:
            revoked = serial in self._revoked
        except SplitComError as error:
            _LOG.error("nobody is let in: %s", error)
            raise Refusal(
                Refused.CERTIFICATE, "the server cannot check certificates; tell its operator"
            ) from error
        if revoked:
            raise Refusal(Refused.CERTIFICATE, f"the certificate of {name} has been revoked")


def refused(code: Refused.Code, reason: str) -> Refused:
    """What a client is told and the log says; what it has itself sent may be part of the reason."""
    return Refused(code=code, reason=visible(reason, PEER_CHARACTERS))


def version_reason(theirs: int) -> str:
    """What is told to a client of another version."""
    return f"the protocol version is {theirs}, the server's {TRANSPORT_VERSION}: install the same release of splitcom"


def log_refusal(context: grpc.ServicerContext, refused: Refused) -> None:
    """Tell the operator."""
    who = visible(_property(context, "x509_common_name").decode(errors="replace"), PEER_CHARACTERS)
    _LOG.warning(
        "%s, from %s, is refused: %s (%s)", who, context.peer(), refused.reason, code_name(refused.code)
    )


def _property(context: grpc.ServicerContext, name: str) -> bytes:
    values = context.auth_context().get(name)
    return bytes(next(iter(values))) if values else b""
