"""A client's end of the network: calls to the server, and a conversation that goes on however often it is cut.

    peer ◄── inbox ◄── the thread that connects and reads ◄──┐
      │                                                      ├── gRPC over mutual TLS
      └──► the conversation's outbox ──► gRPC's own thread ──┘

The connection is kept up in the background while the peer computes.
"""

import logging
import os
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread, Timer
from time import monotonic, perf_counter, sleep
from typing import Protocol, Self, TypeVar

import grpc

from splitcom.errors import RemoteProtocolError, SplitComError
from splitcom.protocol.messages_pb2 import Failure, Message
from splitcom.transports.conversation import Conversation, Superseded
from splitcom.transports.endpoint import Limits
from splitcom.transports.events import Peer
from splitcom.transports.frames_pb2 import (
    Description,
    FilePiece,
    Frame,
    FrontRequest,
    Inquiry,
    Open,
    Probe,
)
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import (
    PROBE_BYTES,
    SERVICE,
    TRANSPORT_VERSION,
    RefusedError,
    Timeouts,
    TransportError,
    channel_options,
)
from splitcom.transports.tls import Identity

_ResultT = TypeVar("_ResultT")
_LOG = logging.getLogger(__name__)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(json|safetensors|txt|model|jinja)")
_MAX_FILES = 100
_PROBE_S = 0.3  # a probe that takes that long measures a rate well enough


class FinishingPeer(Peer, Protocol):
    """A peer that knows when its conversation is over."""

    @property
    def finished(self) -> bool:
        """Whether the server has said that the run is over."""


@dataclass(frozen=True)
class LinkMeasurement:
    """What a link can do; rates in bits per second."""

    round_trip_s: float
    up_bps: float
    down_bps: float


class ServerCalls:
    """The calls beside the conversation; a context manager. They wait for a server that is not there yet.

    All raise RefusedError with the server's reason, and TransportError where it cannot be reached in time.
    """

    def __init__(self, address: str, identity: Identity, timeouts: Timeouts | None = None) -> None:
        self._dialler = _Dialler(address, identity, timeouts or Timeouts())
        self._channel = self._dialler.channel()

    def describe(self, model_fingerprint: str = "") -> Description:
        """What the run is; with a fingerprint, refused where the server has another base model."""
        inquiry = Inquiry(
            protocol_version=TRANSPORT_VERSION,
            package_version=version("splitcom"),
            model_fingerprint=model_fingerprint,
        )
        call = self._channel.unary_unary(
            f"/{SERVICE}/Describe", Inquiry.SerializeToString, Description.FromString
        )
        description = self._patiently(lambda: call(inquiry, timeout=self._dialler.timeouts.connect_s))
        if description.protocol_version != TRANSPORT_VERSION:
            raise RefusedError(
                f"the server's protocol version is {description.protocol_version}, this one's {TRANSPORT_VERSION}: "
                "install the same release of splitcom"
            )
        return description

    def measure(self) -> LinkMeasurement:
        """Round trip with hardly any data, and the rate each way with as much as takes a moment."""
        call = self._channel.unary_unary(f"/{SERVICE}/Probe", Probe.SerializeToString, Probe.FromString)

        def seconds(up_bytes: int, down_bytes: int) -> float:
            probe = Probe(data=bytes(up_bytes), answer_bytes=down_bytes)
            started = perf_counter()
            self._patiently(lambda: call(probe, timeout=self._dialler.timeouts.give_up_s))
            return perf_counter() - started

        def rate(up: bool) -> float:
            size = 1 << 14
            while (took := seconds(size if up else 0, 0 if up else size)) < _PROBE_S and size < PROBE_BYTES:
                size *= 2
            return 8 * size / max(took - round_trip_s, 1e-6)

        round_trip_s = min(seconds(0, 0) for _ in range(4))
        return LinkMeasurement(round_trip_s, rate(up=True), rate(up=False))

    def fetch_front(self, folder: Path) -> Path:
        """Have the server send the front's files into `folder`, which is there whole or not at all.

        Raises RemoteProtocolError where the server sends what is no such folder.
        """
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        stream = self._channel.unary_stream(
            f"/{SERVICE}/Front", FrontRequest.SerializeToString, FilePiece.FromString
        )
        try:
            self._patiently(lambda: _write_pieces(stream(FrontRequest()), partial))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # else another process of this machine was faster
                    raise
        except OSError as error:
            raise TransportError(
                f"{folder}: cannot be written: {error.strerror or error}; choose another --cache"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _patiently(self, attempt: Callable[[], _ResultT]) -> _ResultT:
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                self._dialler.wait_after(error)


def run_client(
    address: str,
    identity: Identity,
    make_peer: Callable[[], FinishingPeer],
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> None:
    """Hold conversations with the server until one is finished; `make_peer` begins each of them.

    A connection that is lost is made again and gone on with. A new peer is made where the server has begun anew or
    asks for it. Raises RefusedError where either side will not go on, TransportError where the server cannot be
    reached for `give_up_s`, RemoteProtocolError where it breaks the protocol, and whatever the peer raises.
    """
    while True:
        link = _Link(_Dialler(address, identity, timeouts or Timeouts()), limits or Limits())
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
            link.leave(str(error) or type(error).__name__)
            raise
        finally:
            link.close()
        _LOG.info("the server asks to begin anew")


class _Link:
    """One conversation, and the thread that keeps it connected."""

    def __init__(self, dialler: "_Dialler", limits: Limits) -> None:
        self._dialler = dialler
        self._conversation = Conversation(dialler.identity.name, os.urandom(16), limits)
        self._inbox: SimpleQueue[bytes | Exception | None] = SimpleQueue()
        self._closing = Event()
        self._thread = Thread(target=self._keep_connected, name="link", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._conversation.send(data)

    def receive(self) -> bytes | None:
        """The next message; None where the server has ended this conversation and wants another."""
        item = self._inbox.get()
        if isinstance(item, Exception):
            raise item
        if item is not None:
            self._conversation.consumed()
        return item

    def finish(self) -> None:
        """Let the server know that everything has arrived."""
        self._closing.set()
        self._conversation.close()
        self._thread.join(self._dialler.timeouts.connect_s)

    def leave(self, reason: str) -> None:
        """Tell the server why this side will not go on, if it can be told."""
        self.send(Message(failure=Failure(reason=reason[:1000])).SerializeToString())
        self.finish()

    def close(self) -> None:
        """Break off; the server sees a client that is gone and may come back."""
        self._closing.set()
        self._conversation.abandon()

    def _keep_connected(self) -> None:
        try:
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
        except SplitComError as error:
            self._inbox.put(error)

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
                        raise RefusedError(
                            f"the server has refused {conversation.client}: {frame.refused.reason}"
                        )
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


class _Dialler:
    """How the server is reached, and when to stop trying."""

    def __init__(self, address: str, identity: Identity, timeouts: Timeouts) -> None:
        self.identity = identity
        self.timeouts = timeouts
        self.succeeded = False
        self._address = address
        self._lost_since: float | None = None
        self._attempts = 0

    def channel(self) -> grpc.Channel:
        """A new channel, with a connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            self.identity.authority, self.identity.key, self.identity.certificate
        )
        options = (*channel_options(self.timeouts), ("grpc.use_local_subchannel_pool", 1))
        return grpc.secure_channel(self._address, credentials, options)

    def note_success(self) -> None:
        """There is a connection."""
        if self._attempts:
            _LOG.info("connected to %s again", self._address)
        self.succeeded = True
        self._attempts, self._lost_since = 0, None

    def wait_after(self, error: grpc.RpcError | None) -> None:
        """Pause before the next attempt; raises where it would be of no use, or where patience is at an end."""
        code = error.code() if isinstance(error, grpc.Call) else None
        details = (error.details() if isinstance(error, grpc.Call) else None) or "the connection was closed"
        if code is grpc.StatusCode.PERMISSION_DENIED:
            raise RefusedError(f"the server has refused {self.identity.name}: {details}") from error
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise RefusedError(f"{self._address} is no SplitCom server of this release: {details}") from error
        if not self.succeeded and (reason := diagnose(self._address, self.identity)) is not None:
            raise RefusedError(f"{self._address}: {reason}") from error
        now = monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since > self.timeouts.give_up_s:
            raise TransportError(
                f"{self._address}: not reached for {now - self._lost_since:.0f} s; the last attempt ended with: "
                f"{details}"
            ) from error
        if not self._attempts:
            _LOG.warning("%s is not reached (%s); trying again", self._address, details)
        pause = min(self.timeouts.pause_s / 20 * 2**self._attempts, self.timeouts.pause_s)
        self._attempts = min(self._attempts + 1, 10)
        sleep(pause)


def diagnose(address: str, identity: Identity, timeout_s: float = 5.0) -> str | None:
    """Why TLS fails with the server, which gRPC does not say; None where that is not the trouble."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=identity.authority.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:  # readable by its owner alone
        file.write(identity.certificate + identity.key)
        file.flush()
        context.load_cert_chain(file.name)
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as connection,
        ):
            greeting = connection.recv(1)
    except ssl.SSLCertVerificationError as error:
        return (
            f"the server's certificate is not accepted: {error.verify_message}; it must be of the same authority as "
            f"the bundle of {identity.name}, and name the host as it is given here"
        )
    except ssl.SSLError as error:
        return f"no TLS connection: {error.reason or error}; is this the port of a SplitCom server?"
    except (OSError, ValueError):
        return None
    if greeting:
        return None
    return (
        f"the server does not accept the certificate of {identity.name}, valid until {identity.expires:%Y-%m-%d}: it "
        "is of another authority, or expired or not yet valid by the server's clock"
    )


def _write_pieces(pieces: Iterator[FilePiece], folder: Path) -> None:
    """Write the files of a model folder; nothing but plain files of known kinds, and each without gaps."""
    for path in folder.iterdir():  # of an attempt that was cut off
        path.unlink()
    written: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for piece in pieces:
        name, offset = piece.name, written.setdefault(piece.name, 0)
        if not _FILE_NAME.fullmatch(name) or len(written) > _MAX_FILES:
            raise RemoteProtocolError(f"the server sends a file {name!r}, which is no part of a model")
        end = offset + len(piece.data)
        if piece.offset != offset or end > piece.size or sizes.setdefault(name, piece.size) != piece.size:
            raise RemoteProtocolError(f"the server sends {len(piece.data)} bytes at {piece.offset} of {name}")
        with (folder / name).open("ab") as file:
            file.write(piece.data)
        written[name] = end
    if not {"config.json", "model.safetensors"} <= written.keys() or written != sizes:
        raise RemoteProtocolError("the server has sent an incomplete model")
