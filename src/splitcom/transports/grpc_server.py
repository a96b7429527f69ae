"""The server's end of the network: a transport that only moves bytes; knows no message and no training.

federation ◄── receive() ◄── queue of events ◄── what reads a connection ◄──┐
    │                                                                       ├── gRPC over mutual TLS
    └── send() ──► the conversation's outbox ──► what writes to it ─────────┘

Both are coroutines on the one loop of loop.py, of however many clients. The federation has a thread of its own.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic
from typing import Any, Self

import grpc

from splitcom.amount import counted
from splitcom.errors import RemoteProtocolError, TransportError
from splitcom.transports.address import checked
from splitcom.transports.admission import (
    Admission,
    Barred,
    Call,
    Context,
    GivesWay,
    Refusal,
    refused,
    version_reason,
)
from splitcom.transports.conversation import Conversation, Superseded
from splitcom.transports.endpoint import Limits
from splitcom.transports.events import Admitted, Back, Event, Excluded, Gone, Joined, Received
from splitcom.transports.frames_pb2 import Description, Frame, Opened, Refused, Reset
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import (
    SERVER_TIMEOUTS,
    SERVICE,
    TRANSPORT_VERSION,
    Timeouts,
    channel_options,
    code_name,
    server_options,
)
from splitcom.transports.grpc_answers import Answers
from splitcom.transports.loop import network_loop, run_on_loop
from splitcom.transports.streams import Streams
from splitcom.transports.tls import Identity

_LOG = logging.getLogger(__name__)
_CALLS_OF_ONE = 4  # that are under way at the same time, beside the conversation that goes on
_MORE_CALLS = 32  # than two of each client


@dataclass(frozen=True)
class ClientTraffic:
    """Where a client's conversation stands; bytes are those of messages, each counted once."""

    connected: bool
    up_bytes: int
    down_bytes: int
    reconnections: int
    unread: int = 0  # messages that have come and wait for training to take them
    unacknowledged: int = 0  # messages that the client has not got yet
    answer_s: float = 0.0  # between sending to it and its answer, in all


class GrpcServer:
    """Listens as soon as it is made; a context manager. `port` is the one it got where 0 was asked for.

    Args:
        address: "HOST:PORT" to listen on.
        revoked: the serial numbers of certificates that are refused; asked anew for every frame.
        description: what a client of this name is told of the run.
        max_clients: how many may be in a conversation at the same time.
        front: makes the folder that a client of this name is sent, if it has no weights; the same one for its like.
        barred: why a client with this name may take no part, None if it may; asked anew for every frame.

    Raises TransportError if it cannot listen.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        revoked: Container[int],
        description: Callable[[str], Description],
        max_clients: int,
        front: Callable[[str], Path] | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        barred: Barred = lambda name: None,
    ) -> None:
        self._max_clients = max_clients
        self._limits = limits or Limits()
        self._timeouts = timeouts or SERVER_TIMEOUTS
        streams = Streams(_CALLS_OF_ONE, 2 * max_clients + _MORE_CALLS)
        self.notice_s: float | None = self._timeouts.notice_s
        self._lock = Lock()
        self._conversations: dict[str, Conversation] = {}  # the newest of each client
        self._refusals: dict[str, tuple[bytes, Refused]] = {}  # the last one that was refused, by client
        self._addressed: dict[str, Conversation] = {}  # whose Joined has been taken, until it is ended
        self._past_bytes: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._events: SimpleQueue[tuple[Conversation | None, Event] | BaseException] = SimpleQueue()
        self.refusals: Counter[str] = Counter()  # since the server was started, by reason
        self._started = monotonic()
        self._admission = Admission(revoked, barred, streams, self._timeouts.connect_s, self._events.put)
        self._sent_at: dict[str, float] = {}
        self._answer_s: dict[str, float] = defaultdict(float)
        self._told_s: dict[str, float] = {}  # of that, what take_seconds has told
        answers = Answers(self._admission, description, front)
        handlers = {"Converse": grpc.stream_stream_rpc_method_handler(self._converse), **answers.handlers()}
        service = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._loop = network_loop()
        self._server, self.port = run_on_loop(self._listen(checked(address), identity, service))

    # -- the transport, as the federation uses it

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event; raises whatever has ended one of the threads, as often as it is called."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            left = None if deadline is None else max(deadline - monotonic(), 0.0)
            try:
                item = self._events.get(timeout=left)
            except Empty:
                return None
            if isinstance(item, BaseException):
                self._events.put(item)
                raise item
            conversation, event = item
            if conversation is None:
                return event
            if isinstance(event, Received):
                conversation.consumed()
            if conversation.ended and not (isinstance(event, Gone) and self._is_believed_in(conversation)):
                continue
            if isinstance(event, Joined):
                self._addressed[event.client] = conversation
                self._sent_at.pop(event.client, None)
            elif (
                isinstance(event, Received) and (sent_at := self._sent_at.pop(event.client, None)) is not None
            ):
                self._answer_s[event.client] += monotonic() - sent_at
            return event

    def now(self) -> float:
        """Seconds since the run's start."""
        return monotonic() - self._started

    def send(self, client: str, data: bytes) -> None:
        """Send a message, or keep it until the client is back."""
        # Not to the newest conversation: of that the federation may not have heard yet.
        if (conversation := self._addressed.get(client)) is not None:
            conversation.send(data)
            self._sent_at[client] = monotonic()

    def reset(self, client: str) -> None:
        """Drop what is under way; the client will join anew."""
        self._end(client, Frame(reset=Reset()))

    def refuse(self, client: str, reason: str) -> None:
        """End a client's conversation for good."""
        self._end(client, Frame(refused=refused(Refused.REJECTED, reason)))

    def state(self) -> dict[str, Any]:
        """Seconds since the run's start."""
        return {"virtual_s": self.now()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from at least that many seconds: time that was lost has passed nevertheless."""
        self._started = min(self._started, monotonic() - state["virtual_s"])

    def take_seconds(self, client: str) -> dict[str, float]:
        """`client`: between sending to it and its answer, so with the time on the link."""
        total = self._answer_s.get(client, 0.0)
        told, self._told_s[client] = self._told_s.get(client, 0.0), total
        return {"client": total - told, "virtual": self.now()}

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
                conversation.unread,
                conversation.unacknowledged,
                self._answer_s.get(name, 0.0),
            )
        return traffic

    @property
    def waiting_events(self) -> int:
        """How many events training has not taken yet; bounded by what each client may send ahead."""
        return self._events.qsize()

    def close(self, grace_s: float = 0.0) -> None:
        """Wait until every client has what was sent to it, at most `grace_s`, and stop."""
        deadline = monotonic() + grace_s
        with self._lock:
            conversations = list(self._conversations.values())
        for conversation in conversations:
            if not conversation.wait_until_acknowledged(max(deadline - monotonic(), 0.0)):
                _LOG.warning("%s has not received the end of the run", conversation.client)
        run_on_loop(self._server.stop(min(1.0, grace_s)))
        if grace_s:
            for name, traffic in self.traffic().items():
                _LOG.info("%s: %d bytes of messages up, %d down", name, traffic.up_bytes, traffic.down_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- one connection

    async def _converse(self, requests: object, context: Context) -> None:
        async def refuse(why: Refused) -> None:
            self.refusals[code_name(why.code)] += 1
            await context.write(pack(Parcel(Frame(refused=why))))

        await self._admission.admit(context, lambda call: self._connection(call, context), refuse)

    async def _connection(self, call: Call, context: Context) -> None:
        conversation, connection, opened = self._open(call, context)
        call.stream.is_needed = lambda: conversation.is_current(connection) and not conversation.ended
        try:
            if not conversation.ended:  # else all that is left to say is that it is over
                await context.write(pack(Parcel(Frame(opened=opened))))
            reading = asyncio.create_task(self._read(conversation, connection, context, call.serial))
            try:
                await self._write(conversation, connection, context)
            finally:
                reading.cancel()
        finally:
            self._disconnect(conversation, connection)

    async def _write(self, conversation: Conversation, connection: int, context: Context) -> None:
        """Send what there is, until the conversation is over or the connection is lost or superseded."""
        changed = asyncio.Event()
        parcel = None
        with conversation.watched(lambda: self._loop.call_soon_threadsafe(changed.set)):
            while not conversation.is_last(parcel):
                try:
                    parcel = conversation.poll(connection)
                except Superseded as event:
                    raise GivesWay from event
                if parcel is not None:
                    await context.write(pack(parcel))
                else:
                    await changed.wait()
                    changed.clear()

    def _open(self, call: Call, context: Context) -> tuple[Conversation, int, Opened]:
        name = call.client
        try:
            first = unpack(call.request or b"").frame
        except RemoteProtocolError as error:
            raise Refusal(Refused.MALFORMED, str(error)) from error
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
        past = self._refusals.get(name)
        if past is not None and past[0] == identifier:
            raise Refusal(past[1].code, past[1].reason)
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
            silent = [c for c in others if c.is_silent_for(self._timeouts.connect_s)]
            if not silent:
                raise Refusal(Refused.FULL, f"the run has its {counted(self._max_clients, 'client')}")
            _LOG.warning("%s has said nothing since it connected: %s takes its place", silent[0].client, name)
            silent[0].end(Frame(reset=Reset()))
        if present is not None:
            present.end(Frame(reset=Reset()))
            up, down = self._past_bytes[name]
            self._past_bytes[name] = (up + present.received_bytes, down + present.sent_bytes)
        self._conversations[name] = Conversation(name, identifier, self._limits)
        return self._conversations[name]

    async def _read(self, conversation: Conversation, connection: int, context: Context, serial: int) -> None:
        name = conversation.client
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                self._admission.check(name, serial)
                data = conversation.incoming(connection, unpack(request))
                if data is not None:
                    self._events.put((conversation, Received(name, data)))
        except Superseded:
            return
        except Refusal as refusal:
            self._refuse(conversation, refusal.refused)
        except RemoteProtocolError as error:
            self._refuse(conversation, refused(Refused.MALFORMED, str(error)))
        except grpc.aio.BaseError:
            pass  # the connection is lost
        except Exception as error:
            self._events.put(error)
        finally:
            self._disconnect(conversation, connection)

    def _disconnect(self, conversation: Conversation, connection: int) -> None:
        # Locked, or a connection that is made meanwhile could be told of before the loss of this one.
        with self._lock:
            if not conversation.disconnect(connection):
                return
            self._events.put((conversation, Gone(conversation.client)))
        _LOG.info("%s is disconnected", conversation.client)

    def _is_believed_in(self, conversation: Conversation) -> bool:
        """Whether the federation does not know that it is over, and would wait for the client in vain."""
        name = conversation.client
        return self._addressed.get(name) is conversation is self._conversations.get(name)

    def _end(self, client: str, farewell: Frame) -> None:
        if (conversation := self._addressed.pop(client, None)) is None:
            return
        if farewell.WhichOneof("kind") == "refused":
            self._refuse(conversation, farewell.refused)
        else:
            conversation.end(farewell)

    def _refuse(self, conversation: Conversation, why: Refused) -> None:
        _LOG.warning("%s is refused: %s (%s)", conversation.client, why.reason, code_name(why.code))
        self.refusals[code_name(why.code)] += 1
        with self._lock:
            self._refusals[conversation.client] = (conversation.identifier, why)
        conversation.end(Frame(refused=why))

    async def _listen(
        self, address: str, identity: Identity, service: grpc.GenericRpcHandler
    ) -> tuple[grpc.aio.Server, int]:
        credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
        )
        options = (*channel_options(self._timeouts), *server_options(self._timeouts))
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((service,))
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise TransportError(
                f"cannot listen on {address}: is another server there, or the address not of this machine?"
            ) from error
        await server.start()
        return server, port
