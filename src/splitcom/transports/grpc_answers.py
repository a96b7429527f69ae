"""The server's answers to calls beside the conversations: what the run is, how fast the link is, the front's weights.

Each answers one client and then forgets it. Whoever is not let in is told why; what fails here of its own accord is
handed to whoever waits for the server.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn, Protocol, TypeVar

import grpc

from splitcom.errors import SplitComError
from splitcom.transports.admission import Admission, Refusal, log_refusal, version_reason
from splitcom.transports.frames_pb2 import (
    Description,
    FilePiece,
    FrontInquiry,
    FrontListing,
    FrontRequest,
    Inquiry,
    Probe,
    Refused,
)
from splitcom.transports.front_files import list_files, pieces
from splitcom.transports.grpc import PROBE_BYTES, TRANSPORT_VERSION
from splitcom.transports.thread import Waiting

_LOG = logging.getLogger(__name__)
_RequestT = TypeVar("_RequestT")


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802


class Answers:
    """`front` makes the folder that clients without weights are sent; called once, when the first one asks."""

    def __init__(
        self,
        admission: Admission,
        description: Description,
        front: Callable[[], Path] | None,
        waiting: Waiting,
    ) -> None:
        self._admission = admission
        self._description = description
        self._front = front
        self._front_files: tuple[Path, FrontListing] | None = None
        self._front_lock = Lock()
        self._waiting = waiting

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """What gRPC calls, by name; every answer is a stream for it, of one message or more."""

        def send(message: _Message) -> bytes:
            return message.SerializeToString()

        # Also requests are streams for it: of others it would wait for the first, in one of its threads and for ever.
        handler = grpc.stream_stream_rpc_method_handler
        return {
            "Describe": handler(self._admitted(self._describe), Inquiry.FromString, send),
            "Probe": handler(self._admitted(self._probe), Probe.FromString, send),
            "FrontFiles": handler(self._admitted(self._list_front), FrontInquiry.FromString, send),
            "Front": handler(self._admitted(self._send_front), FrontRequest.FromString, send),
        }

    def _admitted(
        self, answer: Callable[[_RequestT, str], Iterator[_Message]]
    ) -> Callable[[Iterator[_RequestT], grpc.ServicerContext], Iterator[_Message]]:
        """An answer to those alone who are let in, which gets the client's name; the one place where calls fail."""

        def call(requests: Iterator[_RequestT], context: grpc.ServicerContext) -> Iterator[_Message]:
            try:
                with self._admission.admitted(requests, context) as call:
                    if call.request is None:
                        raise Refusal(Refused.MALFORMED, "a call without a request")
                    yield from answer(call.request, call.client)
            except Refusal as refusal:
                log_refusal(context, refusal.refused)
                _abort(context, grpc.StatusCode.PERMISSION_DENIED, refusal.refused.reason)
            except grpc.RpcError:
                return  # lost, or ended in favour of another
            except Exception as error:
                self._waiting(error)
                _abort(context, grpc.StatusCode.INTERNAL, "the server has failed; its log says why")

        return call

    def _describe(self, inquiry: Inquiry, name: str) -> Iterator[Description]:
        held, ours = inquiry.model_fingerprint, self._description.model_fingerprint
        if inquiry.protocol_version != TRANSPORT_VERSION:
            raise Refusal(Refused.PROTOCOL_VERSION, version_reason(inquiry.protocol_version))
        if held and held != ours:
            reason = f"another base model: its fingerprint is {held[:16]}…, the server's is {ours[:16]}…"
            raise Refusal(Refused.REJECTED, reason)
        yield self._description

    def _probe(self, probe: Probe, name: str) -> Iterator[Probe]:
        yield Probe(data=bytes(min(probe.answer_bytes, PROBE_BYTES)))

    def _list_front(self, inquiry: FrontInquiry, name: str) -> Iterator[FrontListing]:
        yield self._made_front()[1]

    def _send_front(self, request: FrontRequest, name: str) -> Iterator[FilePiece]:
        folder, _ = self._made_front()
        _LOG.info("%s is sent the front's weights", name)
        yield from pieces(folder, request)

    def _made_front(self) -> tuple[Path, FrontListing]:
        """The front's folder and what is in it, made when the first client asks."""
        with self._front_lock:
            if self._front_files is None:
                if self._front is None:
                    reason = "the server gives no weights away: give the model's folder or name to the client"
                    raise Refusal(Refused.REJECTED, reason)
                try:
                    folder = self._front()
                    self._front_files = folder, list_files(folder)
                except (SplitComError, OSError) as error:  # such as a disk that is full, until it is not
                    _LOG.error("the front's weights cannot be given out: %s", error)
                    raise Refusal(Refused.FAILED, str(error)) from error
            return self._front_files


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> NoReturn:
    context.abort(code, reason)
    raise AssertionError("abort raises")
