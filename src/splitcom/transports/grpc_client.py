"""A client's end of the network: a conversation that goes on however often it is cut.

    peer ◄── inbox ◄── the thread that connects and reads ◄──┐
      │                                                      ├── gRPC over mutual TLS
      └──► the conversation's outbox ──► gRPC's own thread ──┘

The connection is kept up in the background while the peer computes.
"""

import logging
import os
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Timer
from typing import Protocol

import grpc

from splitcom.errors import NonFiniteError, OutOfRangeError, RefusedError, TransportError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.protocol.messages_pb2 import Failure, Message
from splitcom.transports.conversation import Conversation, Superseded
from splitcom.transports.dialler import Dialler
from splitcom.transports.endpoint import Limits
from splitcom.transports.events import Peer
from splitcom.transports.frames_pb2 import Frame, Open
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import SERVICE, TRANSPORT_VERSION, Timeouts
from splitcom.transports.thread import handed_to, start
from splitcom.transports.tls import Identity

_LOG = logging.getLogger(__name__)


class FinishingPeer(Peer, Protocol):
    """A peer that knows when its conversation is over."""

    @property
    def finished(self) -> bool:
        """Whether the server has said that the run is over."""


def run_client(
    address: str,
    identity: Identity,
    make_peer: Callable[[], FinishingPeer],
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> None:
    """Hold conversations with the server until one is finished; `make_peer` begins each of them.

    A connection that is lost is made again and gone on with. A new peer is made where the server has begun anew or
    asks for it. Raises RefusedError if either side will not go on, TransportError if the server cannot be
    reached for `give_up_s`, RemoteProtocolError if it breaks the protocol, and whatever the peer raises.
    """
    while True:
        link = _Link(Dialler(address, identity, timeouts or Timeouts()), limits or Limits())
        try:
            peer = make_peer()
            link.send(peer.connect())
            while (data := link.receive()) is not None:
                answer = peer.receive(data)
                if answer is not None:
                    link.send(answer)
                if peer.finished:
                    link.finish()
                    return
        except TransportError:
            raise
        except Exception as error:
            link.leave(error)
            raise
        finally:
            link.close()
        _LOG.info("the server asks to begin anew")


class _Link:
    """One conversation, and the thread that keeps it connected."""

    def __init__(self, dialler: Dialler, limits: Limits) -> None:
        self._dialler = dialler
        self._conversation = Conversation(dialler.identity.name, os.urandom(16), limits)
        self._inbox: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._closing = Event()
        self._thread = start("link", self._keep_connected, self._inbox.put)

    def send(self, data: bytes) -> None:
        self._conversation.send(data)

    def receive(self) -> bytes | None:
        """The next message; None if the server has ended this conversation and wants another.

        Raises whatever has ended one of the threads, as often as it is called.
        """
        item = self._inbox.get()
        if isinstance(item, BaseException):
            self._inbox.put(item)
            raise item
        if item is not None:
            self._conversation.consumed()
        return item

    def finish(self) -> None:
        """Let the server know that everything has arrived."""
        self._closing.set()
        self._conversation.close()
        self._thread.join(self._dialler.timeouts.connect_s)

    def leave(self, error: Exception) -> None:
        """Tell the server why this side will not go on, if it can be told."""
        reason = visible(str(error) or type(error).__name__, PEER_CHARACTERS)
        failure = Failure(reason=reason, diverged=isinstance(error, (NonFiniteError, OutOfRangeError)))
        self.send(Message(failure=failure).SerializeToString())
        self.finish()

    def close(self) -> None:
        """Break off; the server sees a client that is gone and may come back."""
        self._closing.set()
        self._conversation.abandon()

    def _keep_connected(self) -> None:
        while True:
            try:
                with self._dialler.channel() as channel:
                    over = self._connection(channel)
                error: grpc.RpcError | None = None
            except grpc.RpcError as lost:
                over, error = False, lost
            if over or self._closing.is_set():
                return
            self._dialler.wait_after(error)

    def _connection(self, channel: grpc.Channel) -> bool:
        """One connection from its beginning to its end; returns whether the conversation is over."""
        conversation = self._conversation
        connection, position = conversation.connect()
        opening = Open(
            protocol_version=TRANSPORT_VERSION,
            conversation=conversation.identifier,
            resumes=self._dialler.succeeded and conversation.connections > 1,
            position=position,
        )

        def frames() -> Iterator[bytes]:
            with handed_to(self._inbox.put):
                yield pack(Parcel(Frame(open=opening)))
                yield from conversation.outgoing(connection)

        converse: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/Converse")
        call = converse(frames())
        timer = Timer(self._dialler.timeouts.connect_s, call.cancel)
        timer.start()
        try:
            for answer in call:
                parcel = unpack(answer)
                frame = parcel.frame
                match frame.WhichOneof("kind"):
                    case "opened":
                        timer.cancel()
                        conversation.resume(connection, frame.opened.position)
                        self._dialler.note_success()
                    case "reset":
                        self._inbox.put(None)
                        return True
                    case "refused":
                        reason = visible(frame.refused.reason, PEER_CHARACTERS)
                        raise RefusedError(f"the server has refused {conversation.client}: {reason}")
                    case _:
                        message = conversation.incoming(connection, parcel)
                        if message is not None:
                            self._inbox.put(message)
            return False
        except Superseded:
            return False
        finally:
            timer.cancel()
            conversation.disconnect(connection)
            call.cancel()
