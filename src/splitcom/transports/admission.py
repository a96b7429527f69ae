"""Who is let in: the name in a certificate that gRPC has verified, unless it is no name, revoked, or not of the run."""

import logging
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any, NamedTuple

import grpc
from cryptography import x509

from splitcom.errors import IdentityError, SplitComError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.transports.frames_pb2 import Refused
from splitcom.transports.grpc import TRANSPORT_VERSION, code_name
from splitcom.transports.streams import Stream, Streams
from splitcom.transports.tls import client_name

_LOG = logging.getLogger(__name__)


Barred = Callable[[str], str | None]
"""Why a client with this name may take no part in the run; None if it may."""


class Refusal(Exception):  # noqa: N818  (an event, no error)
    """A client is not let in, or not let go on."""

    def __init__(self, code: Refused.Code, reason: str) -> None:
        self.refused = refused(code, reason)
        super().__init__(self.refused.reason)


class Call(NamedTuple):
    """One that has been let in; `request` is its first, None if there is none."""

    client: str
    serial: int  # of its certificate
    request: Any
    stream: Stream


class Admission:
    """Whom to let in, and how many calls of whom at the same time.

    Args:
        revoked: serial numbers of certificates; gRPC python itself knows no revocation lists.
        barred: why a client with this name may take no part in the run; None if it may.
        patience_s: for how long a call's first request is waited for.
    """

    def __init__(self, revoked: Container[int], barred: Barred, streams: Streams, patience_s: float) -> None:
        self._revoked = revoked
        self._barred = barred
        self._streams = streams
        self._patience_s = patience_s

    @contextmanager
    def admitted(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Call]:
        """A call until the block is left; raises Refusal, and grpc.RpcError if it is lost or has to give way."""
        client, serial = self.identify(context)
        with self._streams.held(client, context.cancel) as stream:
            timer = Timer(self._patience_s, context.cancel)
            timer.start()
            try:
                request = next(requests, None)
            finally:
                timer.cancel()
            yield Call(client, serial, request, stream)

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
        """Raise Refusal where a certificate has been revoked, or its owner may take no part."""
        try:
            revoked = serial in self._revoked
        except SplitComError as error:
            _LOG.error("nobody is let in: %s", error)
            raise Refusal(
                Refused.CERTIFICATE, "the server cannot check certificates; tell its operator"
            ) from error
        if revoked:
            raise Refusal(Refused.CERTIFICATE, f"the certificate of {name} has been revoked")
        if (reason := self._barred(name)) is not None:
            raise Refusal(Refused.REJECTED, reason)


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
