"""The server's answers to calls beside the conversations: what the run is, how fast the link is, the front's weights.

Each answers one client and then forgets it. Files are read, and the front is made, in threads of the loop's own.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from splitcom.errors import SplitComError
from splitcom.transports.admission import Admission, Call, Context, Refusal, version_reason
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

_LOG = logging.getLogger(__name__)
_RequestT = TypeVar("_RequestT")


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802


class Answers:
    """`front` makes the folder that a client of this name is sent; it is asked whenever one begins to fetch."""

    def __init__(
        self,
        admission: Admission,
        description: Callable[[str], Description],
        front: Callable[[str], Path] | None,
    ) -> None:
        self._admission = admission
        self._description = description
        self._front = front
        self._listings: dict[Path, FrontListing] = {}
        self._front_lock = asyncio.Lock()

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """What gRPC calls, by name; every answer is a stream for it, of one message or more."""
        # Also requests are streams for it: of others it would wait for the first, for ever.
        handler = grpc.stream_stream_rpc_method_handler
        return {
            "Describe": handler(self._admitted(self._describe, Inquiry.FromString)),
            "Probe": handler(self._admitted(self._probe, Probe.FromString)),
            "FrontFiles": handler(self._admitted(self._list_front, FrontInquiry.FromString)),
            "Front": handler(self._admitted(self._send_front, FrontRequest.FromString)),
        }

    def _admitted(
        self, answer: Callable[[_RequestT, str], AsyncIterator[_Message]], read: Callable[[bytes], _RequestT]
    ) -> Callable[[object, Context], Awaitable[None]]:
        """An answer to those alone who are let in, which gets the client's name."""

        async def call(requests: object, context: Context) -> None:
            async def serve(call: Call) -> None:
                if call.request is None:
                    raise Refusal(Refused.MALFORMED, "a call without a request")
                try:
                    request = read(call.request)
                except DecodeError as error:
                    raise Refusal(Refused.MALFORMED, f"a request that is none: {error}") from error
                async for message in answer(request, call.client):
                    await context.write(message.SerializeToString())

            async def refuse(why: Refused) -> None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, why.reason)

            await self._admission.admit(context, serve, refuse)

        return call

    async def _describe(self, inquiry: Inquiry, name: str) -> AsyncIterator[Description]:
        description = await asyncio.to_thread(self._description, name)
        held, ours = inquiry.model_fingerprint, description.model_fingerprint
        if inquiry.protocol_version != TRANSPORT_VERSION:
            raise Refusal(Refused.PROTOCOL_VERSION, version_reason(inquiry.protocol_version))
        if held and held != ours:
            reason = f"another base model: its fingerprint is {held[:16]}…, the server's is {ours[:16]}…"
            raise Refusal(Refused.REJECTED, reason)
        yield description

    async def _probe(self, probe: Probe, name: str) -> AsyncIterator[Probe]:
        yield Probe(data=bytes(min(probe.answer_bytes, PROBE_BYTES)))

    async def _list_front(self, inquiry: FrontInquiry, name: str) -> AsyncIterator[FrontListing]:
        yield (await self._made_front(name))[1]

    async def _send_front(self, request: FrontRequest, name: str) -> AsyncIterator[FilePiece]:
        folder, _ = await self._made_front(name)
        _LOG.info("%s is sent the front's weights", name)
        read = pieces(folder, request)
        while (piece := await asyncio.to_thread(next, read, None)) is not None:
            yield piece

    async def _made_front(self, name: str) -> tuple[Path, FrontListing]:
        """The folder of a client's front and what is in it, listed when first asked for; others wait, in no thread."""
        if self._front is None:
            reason = "the server gives no weights away: give the model's folder or name to the client"
            raise Refusal(Refused.REJECTED, reason)
        async with self._front_lock:
            try:
                folder = await asyncio.to_thread(self._front, name)
                if folder not in self._listings:
                    self._listings[folder] = await asyncio.to_thread(list_files, folder)
            except (SplitComError, OSError) as error:  # such as a disk that is full, until it is not
                _LOG.error("the front's weights cannot be given out: %s", error)
                raise Refusal(Refused.FAILED, str(error)) from error
            return folder, self._listings[folder]
