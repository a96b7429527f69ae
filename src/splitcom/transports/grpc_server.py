"""The server's end of the network: a transport whose threads only move bytes; knows no message and no training.

federation ◄── receive() ◄── queue of events ◄── a reading thread per connection ◄──┐
    │                                                                               ├── gRPC over mutual TLS
    └── send() ──► the conversation's outbox ──► a writing thread per connection ───┘
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread, Timer
from time import monotonic
from typing import Any, Protocol, Self

import grpc

from splitcom.errors import RemoteProtocolError, SplitComError, TransportError
from splitcom.transports.admission import Admission, Refusal, abort, log_refusal, version_reason
from splitcom.transports.conversation import Conversation, Superseded
from splitcom.transports.endpoint import Limits
from splitcom.transports.events import Admitted, Back, Event, Excluded, Gone, Joined, Received
from splitcom.transports.frames_pb2 import (
    Description,
    FilePiece,
    Frame,
    FrontInquiry,
    FrontListing,
    FrontRequest,
    Inquiry,
    Opened,
    Probe,
    Refused,
    Reset,
)
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.front_files import list_files, pieces
from splitcom.transports.grpc import (
    PROBE_BYTES,
    SERVER_TIMEOUTS,
    SERVICE,
    TRANSPORT_VERSION,
    Timeouts,
    channel_options,
    code_name,
)
from splitcom.transports.tls import Identity

_LOG = logging.getLogger(__name__)
_CALLS = 8  # threads for calls beside the conversations


@dataclass(frozen=True)
class ClientTraffic:
    """Where a client's conversation stands; bytes are those of messages, each counted once."""

    connected: bool
    up_bytes: int
    down_bytes: int
    reconnections: int


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802


class GrpcServer:
    """Listens as soon as it is made; a context manager. `port` is the one it got where 0 was asked for.

    Args:
        address: "HOST:PORT" to listen on.
        revoked: the serial numbers of certificates that are refused; asked anew for every frame.
        description: what clients are told of the run.
        max_clients: how many may be in a conversation at the same time.
        front: makes the folder that clients without weights are sent; called once, when the first one asks.

    Raises TransportError where it cannot listen.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        revoked: Container[int],
        description: Description,
        max_clients: int,
        front: Callable[[], Path] | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._admission = Admission(revoked)
        self._description = description
        self._max_clients = max_clients
        self._front = front
        self._front_files: tuple[Path, FrontListing] | None = None
        self._front_lock = Lock()
        self._limits = limits or Limits()
        self._timeouts = timeouts or SERVER_TIMEOUTS
        self.notice_s: float | None = self._timeouts.notice_s
        self._lock = Lock()
        self._conversations: dict[str, Conversation] = {}  # the newest of each client
        self._refusals: dict[
            str, tuple[bytes, Refused]
        ] = {}  # the last conversation that was refused, by client
        self._addressed: dict[str, Conversation] = {}  # the one whose Joined has been taken
        self._past_bytes: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._events: SimpleQueue[tuple[Conversation | None, Event]] = SimpleQueue()
        self.refusals: Counter[str] = Counter()  # since the server was started, by reason
        self._started = monotonic()
        self._sent_at: dict[str, float] = {}
        self._client_s: dict[str, float] = defaultdict(float)
        self._server = grpc.server(
            ThreadPoolExecutor(2 * max_clients + _CALLS, thread_name_prefix="grpc"),
            options=(
                *channel_options(self._timeouts),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ),
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self.port = self._listen(address, identity)

    # -- the transport, as the federation uses it

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            left = None if deadline is None else max(deadline - monotonic(), 0.0)
            try:
                conversation, event = self._events.get(timeout=left)
            except Empty:
                return None
            if conversation is None:
                return event
            if isinstance(event, Received):
                conversation.consumed()
            if conversation.ended:
                continue
            if isinstance(event, Joined):
                self._addressed[event.client] = conversation
                self._sent_at.pop(event.client, None)
            elif (
                isinstance(event, Received) and (sent_at := self._sent_at.pop(event.client, None)) is not None
            ):
                self._client_s[event.client] += monotonic() - sent_at
            return event

    def now(self) -> float:
        """Seconds since the run's start."""
        return monotonic() - self._started

    def send(self, client: str, data: bytes) -> None:
        """Send a message, or keep it until the client is back."""
        # Not to the newest conversation: of that the federation may not have heard yet.
        self._addressed[client].send(data)
        self._sent_at[client] = monotonic()

    def reset(self, client: str) -> None:
        """Drop what is under way; the client will join anew."""
        self._end(client, Frame(reset=Reset()))

    def refuse(self, client: str, reason: str) -> None:
        """End a client's conversation for good."""
        self._end(client, Frame(refused=Refused(code=Refused.REJECTED, reason=reason)))

    def state(self) -> dict[str, Any]:
        """Seconds since the run's start."""
        return {"virtual_s": self.now()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from at least that many seconds: time that was lost has passed nevertheless."""
        self._started = min(self._started, monotonic() - state["virtual_s"])

    def take_seconds(self, client: str) -> dict[str, float]:
        """`client`: between sending to it and its answer, so with the time on the link."""
        return {"client": self._client_s.pop(client, 0.0), "virtual": self.now()}

    # -- for whoever runs the server

    def order(self, event: Excluded | Admitted) -> None:
        """Tell the federation what whoever runs the server has decided; from any thread."""
        self._events.put((None, event))

    def traffic(self) -> dict[str, ClientTraffic]:
        """Every client's traffic since the server was started, by name."""
        with self._lock:
            conversations = dict(self._conversations)
            past = dict(self._past_bytes)
        traffic = {}
        for name, conversation in sorted(conversations.items()):
            up, down = past.get(name, (0, 0))
            traffic[name] = ClientTraffic(
                conversation.connected and not conversation.ended,
                up + conversation.received_bytes,
                down + conversation.sent_bytes,
                conversation.connections - 1,
            )
        return traffic

    def close(self, grace_s: float = 0.0) -> None:
        """Wait until every client has what was sent to it, at most `grace_s`, and stop."""
        deadline = monotonic() + grace_s
        with self._lock:
            conversations = list(self._conversations.values())
        for conversation in conversations:
            if not conversation.wait_until_acknowledged(max(deadline - monotonic(), 0.0)):
                _LOG.warning("%s has not received the end of the run", conversation.client)
        self._server.stop(min(1.0, grace_s)).wait()
        if grace_s:
            for name, traffic in self.traffic().items():
                _LOG.info("%s: %d bytes of messages up, %d down", name, traffic.up_bytes, traffic.down_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- one connection

    def _converse(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            name, serial = self._admission.identify(context)
            conversation, connection, opened = self._open(name, requests, context)
        except Refusal as refusal:
            log_refusal(context, refusal.refused)
            self.refusals[code_name(refusal.refused.code)] += 1
            yield pack(Parcel(Frame(refused=refusal.refused)))
            return
        except grpc.RpcError:
            return  # lost before it began
        yield pack(Parcel(Frame(opened=opened)))
        arguments = (conversation, connection, requests, serial)
        Thread(target=self._read, args=arguments, name=f"read-{name}", daemon=True).start()
        yield from conversation.outgoing(connection)
        if not (conversation.is_current(connection) or conversation.ended):
            context.cancel()  # lost or superseded: the reading thread must not wait for what is half dead

    def _open(
        self, name: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> tuple[Conversation, int, Opened]:
        timer = Timer(self._timeouts.connect_s, context.cancel)
        timer.start()
        try:
            first = unpack(next(requests, b"")).frame
        except RemoteProtocolError as error:
            raise Refusal(Refused.MALFORMED, str(error)) from error
        finally:
            timer.cancel()
        if first.WhichOneof("kind") != "open":
            raise Refusal(Refused.MALFORMED, "a connection begins with a frame 'open'")
        opening = first.open
        if opening.protocol_version != TRANSPORT_VERSION:
            raise Refusal(Refused.PROTOCOL_VERSION, version_reason(opening.protocol_version))
        if len(opening.conversation) != 16:
            raise Refusal(Refused.MALFORMED, "a conversation is identified by 16 bytes")
        with self._lock:
            conversation = self._choose(name, opening.conversation, opening.resumes)
            connection, position = conversation.connect()
            try:
                conversation.resume(connection, opening.position)
            except RemoteProtocolError as error:
                raise Refusal(Refused.MALFORMED, str(error)) from error
            if not conversation.ended:
                event = Joined(name) if conversation.connections == 1 else Back(name)
                self._events.put((conversation, event))
        _LOG.info("%s is connected from %s", name, context.peer())
        return conversation, connection, Opened(position=position)

    def _choose(self, name: str, identifier: bytes, resumes: bool) -> Conversation:
        """The conversation that a connection belongs to; see the table in grpc.py."""
        refused = self._refusals.get(name)
        if refused is not None and refused[0] == identifier:
            raise Refusal(refused[1].code, refused[1].reason)
        present = self._conversations.get(name)
        if present is not None and present.identifier == identifier:
            return present  # one that has been reset says so once more
        if resumes:
            ended = Conversation(name, identifier, self._limits)
            ended.end(Frame(reset=Reset()))
            return ended
        if present is not None and present.connected and not present.ended:
            raise Refusal(
                Refused.CONNECTED,
                f"{name} is connected already; if its machine has failed, try again in "
                f"{self._timeouts.probe_s + self._timeouts.silence_s:.0f} s",
            )
        others = [c for c in self._conversations.values() if not c.ended and c.client != name]
        if len(others) >= self._max_clients:
            raise Refusal(Refused.FULL, f"the run has its {self._max_clients} clients")
        if present is not None:
            present.end(Frame(reset=Reset()))
            up, down = self._past_bytes[name]
            self._past_bytes[name] = (up + present.received_bytes, down + present.sent_bytes)
        self._conversations[name] = Conversation(name, identifier, self._limits)
        return self._conversations[name]

    def _read(
        self, conversation: Conversation, connection: int, requests: Iterator[bytes], serial: int
    ) -> None:
        name = conversation.client
        try:
            for request in requests:
                self._admission.check(name, serial)
                data = conversation.incoming(connection, unpack(request))
                if data is not None:
                    self._events.put((conversation, Received(name, data)))
        except Superseded:
            return
        except Refusal as refusal:
            self._refuse(conversation, refusal.refused)
        except RemoteProtocolError as error:
            self._refuse(conversation, Refused(code=Refused.MALFORMED, reason=str(error)))
        except grpc.RpcError:
            pass  # the connection is lost
        finally:
            self._disconnect(conversation, connection)

    def _disconnect(self, conversation: Conversation, connection: int) -> None:
        with (
            self._lock
        ):  # or else a connection that is made meanwhile could be told of before the loss of this one
            if not conversation.disconnect(connection):
                return
            self._events.put((conversation, Gone(conversation.client)))
        _LOG.info("%s is disconnected", conversation.client)

    def _end(self, client: str, farewell: Frame) -> None:
        if (conversation := self._addressed.get(client)) is None:
            return
        if farewell.WhichOneof("kind") == "refused":
            self._refuse(conversation, farewell.refused)
        else:
            conversation.end(farewell)

    def _refuse(self, conversation: Conversation, refused: Refused) -> None:
        _LOG.warning("%s is refused: %s (%s)", conversation.client, refused.reason, code_name(refused.code))
        self.refusals[code_name(refused.code)] += 1
        with self._lock:
            self._refusals[conversation.client] = (conversation.identifier, refused)
        conversation.end(Frame(refused=refused))

    # -- the other calls

    def _describe(self, inquiry: Inquiry, context: grpc.ServicerContext) -> Description:
        self._admission.identify_or_abort(context)
        held, ours = inquiry.model_fingerprint, self._description.model_fingerprint
        if inquiry.protocol_version != TRANSPORT_VERSION:
            abort(
                context,
                Refused(code=Refused.PROTOCOL_VERSION, reason=version_reason(inquiry.protocol_version)),
            )
        if held and held != ours:
            reason = f"another base model: its fingerprint is {held[:16]}…, the server's is {ours[:16]}…"
            abort(context, Refused(code=Refused.REJECTED, reason=reason))
        return self._description

    def _probe(self, probe: Probe, context: grpc.ServicerContext) -> Probe:
        self._admission.identify_or_abort(context)
        return Probe(data=bytes(min(probe.answer_bytes, PROBE_BYTES)))

    def _list_front(self, inquiry: FrontInquiry, context: grpc.ServicerContext) -> FrontListing:
        self._admission.identify_or_abort(context)
        return self._front_of(context)[1]

    def _send_front(self, request: FrontRequest, context: grpc.ServicerContext) -> Iterator[FilePiece]:
        name = self._admission.identify_or_abort(context)
        folder, _ = self._front_of(context)
        _LOG.info("%s is sent the front's weights", name)
        yield from pieces(folder, request)

    def _front_of(self, context: grpc.ServicerContext) -> tuple[Path, FrontListing]:
        """The front's folder and what is in it, made when the first client asks; ends the call where there is none."""
        with self._front_lock:
            if self._front_files is None and self._front is not None:
                try:
                    folder = self._front()
                except SplitComError as error:
                    abort(context, Refused(code=Refused.FAILED, reason=str(error)))
                self._front_files = folder, list_files(folder)
        if self._front_files is None:
            reason = "the server gives no weights away: give the model's folder or name to the client"
            abort(context, Refused(code=Refused.REJECTED, reason=reason))
        return self._front_files

    def _handlers(self) -> grpc.GenericRpcHandler:
        def send(message: _Message) -> bytes:
            return message.SerializeToString()

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Converse": grpc.stream_stream_rpc_method_handler(self._converse),
                "Describe": grpc.unary_unary_rpc_method_handler(self._describe, Inquiry.FromString, send),
                "Probe": grpc.unary_unary_rpc_method_handler(self._probe, Probe.FromString, send),
                "FrontFiles": grpc.unary_unary_rpc_method_handler(
                    self._list_front, FrontInquiry.FromString, send
                ),
                "Front": grpc.unary_stream_rpc_method_handler(
                    self._send_front, FrontRequest.FromString, send
                ),
            },
        )

    def _listen(self, address: str, identity: Identity) -> int:
        credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
        )
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise TransportError(
                f"cannot listen on {address}: is another server there, or the address not of this machine?"
            ) from error
        self._server.start()
        return port
