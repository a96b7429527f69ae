"""Who is let in: the name in a certificate that gRPC has verified, unless the certificate has been revoked."""

import logging
from collections.abc import Container
from typing import NoReturn

import grpc
from cryptography import x509

from splitcom.errors import SplitComError
from splitcom.transports.frames_pb2 import Refused
from splitcom.transports.grpc import TRANSPORT_VERSION, code_name
from splitcom.transports.tls import common_name

_LOG = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818  (an event, no error)
    """A client is not let in, or not let go on."""

    def __init__(self, code: Refused.Code, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(code=code, reason=reason)


class Admission:
    """`revoked` are serial numbers of certificates; gRPC python itself knows no revocation lists."""

    def __init__(self, revoked: Container[int]) -> None:
        self._revoked = revoked

    def identify(self, context: grpc.ServicerContext) -> tuple[str, int]:
        """The client's name and its certificate's serial number; gRPC has verified authority and dates."""
        certificate = x509.load_pem_x509_certificate(_property(context, "x509_pem_cert"))
        name = common_name(certificate)
        if not name:
            raise Refusal(Refused.CERTIFICATE, "the certificate names nobody")
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

    def identify_or_abort(self, context: grpc.ServicerContext) -> str:
        """The client's name; ends the call where there is none to let in."""
        try:
            return self.identify(context)[0]
        except Refusal as refusal:
            abort(context, refusal.refused)


def version_reason(theirs: int) -> str:
    """What is told to a client of another version."""
    return f"the protocol version is {theirs}, the server's {TRANSPORT_VERSION}: install the same release of splitcom"


def log_refusal(context: grpc.ServicerContext, refused: Refused) -> None:
    """Tell the operator."""
    who = _property(context, "x509_common_name").decode(errors="replace")
    _LOG.warning(
        "%s, from %s, is refused: %s (%s)", who, context.peer(), refused.reason, code_name(refused.code)
    )


def _property(context: grpc.ServicerContext, name: str) -> bytes:
    values = context.auth_context().get(name)
    return bytes(next(iter(values))) if values else b""


def abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    """End a call that is no conversation."""
    log_refusal(context, refused)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, refused.reason)
    raise AssertionError("abort raises")
