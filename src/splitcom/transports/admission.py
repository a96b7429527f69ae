"""Who is let in: the name in a certificate that gRPC has verified, unless it is no name, revoked, or not of the run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
from cryptography import x509

from splitcom.errors import IdentityError, SplitComError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.transports.frames_pb2 import Refused
from splitcom.transports.grpc import TRANSPORT_VERSION, code_name
from splitcom.transports.streams import Stream, Streams, TooManyStreams
from splitcom.transports.thread import Waiting
from splitcom.transports.tls import client_name

_LOG = logging.getLogger(__name__)


Context = grpc.aio.ServicerContext[Any, Any]
"""What gRPC knows of a call; its messages are bytes here."""

Barred = Callable[[str], str | None]
"""Why a client with this name may take no part in the run; None if it may."""


class Refusal(Exception):  # noqa: N818  (an event, no error)
    """A client is not let in, or not let go on."""

    def __init__(self, code: Refused.Code, reason: str) -> None:
        self.refused = refused(code, reason)
        super().__init__(self.refused.reason)


class GivesWay(Exception):  # noqa: N818  (an event, no error)
    """A call is to end in favour of another."""


class Call(NamedTuple):
    """One that has been let in; `request` is its first message, None if there is none."""

    client: str
    serial: int  # of its certificate
    request: bytes | None
    stream: Stream


class Admission:
    """Whom to let in, and how many calls of whom at the same time; used on the network's loop alone.

    Args:
        revoked: serial numbers of certificates; gRPC python itself knows no revocation lists.
        barred: why a client with this name may take no part in the run; None if it may.
        patience_s: for how long a call's first request is waited for.
        waiting: takes what fails here of its own accord to whoever waits for the server.
    """

    def __init__(
        self, revoked: Container[int], barred: Barred, streams: Streams, patience_s: float, waiting: Waiting
    ) -> None:
        self._revoked = revoked
        self._barred = barred
        self._streams = streams
        self._patience_s = patience_s
        self._waiting = waiting

    async def admit(
        self,
        context: Context,
        serve: Callable[[Call], Awaitable[None]],
        refuse: Callable[[Refused], Awaitable[None]],
    ) -> None:
        """Serve a call to its end, or tell its client why not; the one place where calls fail."""
        task = asyncio.current_task()
        assert task is not None
        common_name = _property(context, "x509_common_name").decode(errors="replace")
        try:
            with self._streams.held(common_name, task.cancel) as stream:
                try:
                    await self._admit(context, serve, refuse, stream)
                except (asyncio.CancelledError, GivesWay) as event:
                    if isinstance(event, asyncio.CancelledError) and not stream.is_leaving:
                        raise  # the client has gone
                    # Held until this is over: who takes nothing that is sent does not take the end of a call either.
                    self._streams.dismiss(stream)
                    with suppress(grpc.aio.UsageError):  # it was being ended for another reason
                        await context.abort(grpc.StatusCode.CANCELLED, "the call gives way to another")
        except TooManyStreams:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "earlier calls have not come to their end"
            )

    async def _admit(
        self,
        context: Context,
        serve: Callable[[Call], Awaitable[None]],
        refuse: Callable[[Refused], Awaitable[None]],
        stream: Stream,
    ) -> None:
        try:
            client, serial = self.identify(context)
            request = await self._first_request(context)
            await serve(Call(client, serial, request, stream))
        except Refusal as refusal:
            log_refusal(context, refusal.refused)
            await refuse(refusal.refused)
        except (grpc.aio.BaseError, GivesWay):
            raise  # lost, or ended
        except Exception as error:
            self._waiting(error)
            await context.abort(grpc.StatusCode.INTERNAL, "the server has failed; its log says why")

    async def _first_request(self, context: Context) -> bytes | None:
        try:
            request = await asyncio.wait_for(context.read(), self._patience_s)
        except TimeoutError as error:
            raise GivesWay from error
        return None if request is grpc.aio.EOF else request

    def identify(self, context: Context) -> tuple[str, int]:
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


def log_refusal(context: Context, refused: Refused) -> None:
    """Tell the operator."""
    who = visible(_property(context, "x509_common_name").decode(errors="replace"), PEER_CHARACTERS)
    _LOG.warning(
        "%s, from %s, is refused: %s (%s)", who, context.peer(), refused.reason, code_name(refused.code)
    )


def _property(context: Context, name: str) -> bytes:
    values = context.auth_context().get(name)
    return bytes(next(iter(values))) if values else b""
