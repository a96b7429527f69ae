"""The server's conversations with its clients: who is there, what each has said, and that all of it is counted.

Nothing here knows what training is. A client whose connection is lost is waited for, and dropped after a deadline; one
that begins a new conversation in the middle of something has lost what it was doing, which `Rejoined` tells. A client
that says what it must not is refused: whoever reads its message raises RemoteProtocolError or PacketError within
`refusing`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from splitcom.config import Config
from splitcom.errors import NonFiniteError, PacketError, RemoteProtocolError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.limits import LIMITS, KindLimits
from splitcom.protocol.messages_pb2 import Failure, Finish, Hello, Message
from splitcom.protocol.session import PROTOCOL_VERSION, Form, Role, Session, State
from splitcom.server.peers import Peer
from splitcom.transports.events import Back, Gone, Joined, Received, Transport

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class Rejoined(Exception):  # noqa: N818  (an event, no error)
    """A client has begun anew in the middle of something: it must be done again by all."""


class Conversations:
    """All clients of a run; `on_leave` is told the name of each that leaves, is dropped or is refused."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        ledger: Ledger,
        model_fingerprint: str,
        on_leave: Callable[[str], None] = lambda name: None,
        limits: KindLimits = LIMITS,
    ) -> None:
        self.peers: dict[str, Peer] = {}
        self.transport = transport
        self._config = config
        self._ledger = ledger
        self._fingerprint = model_fingerprint
        self._on_leave = on_leave
        self._limits = limits
        self._form = Form.of(config.model.tail_blocks)
        self._busy: set[str] = set()  # in the conversation in which they were last waited for
        self._inbox: dict[str, Message] = {}  # a client says one thing and waits for the answer
        # A single party that holds model and data has nobody to send anything to.
        self._counts = config.training.split or config.federation.clients > 1

    @property
    def present(self) -> list[str]:
        """The clients that have said hello, in their order."""
        return [name for name, peer in self.peers.items() if peer.is_present]

    @property
    def greeted(self) -> list[str]:
        """The clients that have said hello and are not welcomed yet."""
        return [name for name, peer in self.peers.items() if peer.is_greeted]

    @property
    def ready(self) -> list[str]:
        """The clients that wait for something to do; not those that have come back and are not welcomed yet."""
        return [name for name, peer in self.peers.items() if peer.is_idle]

    def gather(self) -> None:
        """Wait until all clients of the run have said hello.

        With `federation.drop_after_s`, for no longer than that if `federation.min_clients` are there.
        """
        settings = self._config.federation
        now = self.transport.now
        deadline = None if settings.drop_after_s is None else now() + settings.drop_after_s
        while len(self.present) < settings.clients:
            enough = len(self.present) >= settings.min_clients
            if deadline is not None and now() >= deadline and enough:
                break
            self._next(deadline if enough else None)
        self.peers = dict(sorted(self.peers.items(), key=lambda item: (len(item[0]), item[0])))

    def collect(self, names: Iterable[str]) -> dict[str, Message]:
        """One message from each of these clients, in their order, whatever the order of arrival.

        A client that is dropped, refused or leaves meanwhile is missing from the result. Raises Rejoined.
        """
        names = self._expect(names)
        while waiting := [name for name in names if name not in self._inbox and self.peers[name].owes]:
            self._wait(waiting)
        return self._take_from_inbox(names)

    def collect_arrived(self, names: Iterable[str], until_s: float | None = None) -> dict[str, Message]:
        """Wait for a message from any of these clients; what is there by then, in their order.

        Nothing if none of them is left, or has said anything by `until_s` of the transport's clock. Raises Rejoined.
        """
        names = self._expect(names)
        while not any(name in self._inbox for name in names):
            waiting = [name for name in names if self.peers[name].owes]
            if not waiting or (until_s is not None and self.transport.now() >= until_s):
                break
            self._wait(waiting, until_s)
        while self._next(self.transport.now()):
            pass
        return self._take_from_inbox(names)

    def next_of(self, name: str) -> Message | None:
        """The next message of one client; None if it is dropped, refused or leaves. Raises Rejoined."""
        return self.collect([name]).get(name)

    def each(self, collected: Mapping[str, _T]) -> Iterator[tuple[str, _T]]:
        """What clients have said, or what came of it, but for those that have left while others were answered."""
        for name, content in collected.items():
            if name in self._busy:
                yield name, content

    @contextmanager
    def refusing(self, name: str) -> Iterator[None]:
        """Refuse a client if what is read of it raises RemoteProtocolError or PacketError, which ends the block."""
        try:
            yield
        except (PacketError, RemoteProtocolError) as error:
            self.refuse(name, str(error))

    def refuse(self, name: str, reason: str) -> None:
        """End a client's conversation for good, telling it why."""
        _LOG.warning("%s is refused: %s", name, reason)
        session = self.peers[name].session
        if session is not None and session.state is not State.CLOSED:
            self.send(name, Message(failure=Failure(reason=reason)))
        self._leave(name)
        self.transport.refuse(name, reason)

    def send(self, name: str, message: Message) -> None:
        """Send a message and count it."""
        peer = self.peers[name]
        assert peer.session is not None
        data = peer.session.send(message)
        self._count(name, message, len(data), upwards=False)
        self.transport.send(name, data)

    def idle(self) -> None:
        """Nothing is under way: a client that begins anew now disturbs nobody."""
        self._busy.clear()

    def finish(self) -> None:
        """Tell every client that the run is over."""
        for name in self.ready:
            self.send(name, Message(finish=Finish()))

    def reset(self) -> None:
        """End all conversations that have got further than a hello, so that everybody begins anew."""
        self.idle()
        self._inbox.clear()
        for name in self.present:
            self.peers[name].session = None
            self.transport.reset(name)

    def _expect(self, names: Iterable[str]) -> list[str]:
        """Those that have said something or are to; not those that have left and come back since."""
        expected = [name for name in names if name in self._inbox or self.peers[name].owes]
        self._busy |= set(expected)
        return expected

    def _take_from_inbox(self, names: Iterable[str]) -> dict[str, Message]:
        return {name: self._inbox.pop(name) for name in names if name in self._inbox}

    def _wait(self, names: Iterable[str], until_s: float | None = None) -> None:
        """Wait for the next event, and drop those of `names` that have been gone for too long."""
        deadlines = [at for at in (self._deadline(names), until_s) if at is not None]
        if not self._next(min(deadlines, default=None)):
            self._drop(names)

    def _next(self, deadline: float | None) -> bool:
        """Take the next event; False if time is up before there is one. Raises Rejoined."""
        timeout_s = None if deadline is None else max(deadline - self.transport.now(), 0.0)
        match self.transport.receive(timeout_s):
            case None:
                return False
            case Joined(name):
                peer = self.peers.setdefault(name, Peer())
                peer.session, peer.gone_since = self._session(), None
                self._inbox.pop(name, None)
                if name in self._busy:
                    raise Rejoined(name)
            case Gone(name):
                self.peers.setdefault(name, Peer()).gone_since = self.transport.now()
            case Back(name):
                self.peers.setdefault(name, Peer()).gone_since = None
            case Received(name, data):
                with self.refusing(name):
                    self._take(name, data)
        return True

    def _take(self, name: str, data: bytes) -> None:
        session = self.peers[name].session
        if session is None:  # of a conversation that has been ended
            return
        message = session.receive(data)
        self._count(name, message, len(data), upwards=True)
        match message.WhichOneof("kind"):
            case "failure":
                _LOG.warning("%s has ended its session: %s", name, message.failure.reason)
                self._leave(name)
                if message.failure.diverged and not self.present:
                    raise NonFiniteError(f"{name}, the last client, has ended: {message.failure.reason}")
            case "hello":
                self._hear(name, message.hello)
            case _:
                self._inbox[name] = message

    def _hear(self, name: str, hello: Hello) -> None:
        for what, theirs, ours in (
            ("protocol version", hello.protocol_version, PROTOCOL_VERSION),
            ("client name", hello.client, name),
            ("model fingerprint", hello.model_fingerprint, self._fingerprint),
        ):
            if theirs != ours:
                raise RemoteProtocolError(f"{what} is {theirs}, the server's is {ours}")
        peer = self.peers[name]
        peer.num_samples, peer.num_held_out = hello.num_samples, hello.num_held_out
        peer.saved_rounds = list(hello.saved_rounds)

    def _count(self, name: str, message: Message, size: int, *, upwards: bool) -> None:
        if self._counts:
            self._ledger.count(name, flows_of(message, size), upwards=upwards)

    def _deadline(self, names: Iterable[str]) -> float | None:
        """When the first of these clients that are gone is to be dropped."""
        patience = self._config.federation.drop_after_s
        gone = [since for name in names if (since := self.peers[name].gone_since) is not None]
        return min(gone) + patience if gone and patience is not None else None

    def _drop(self, names: Iterable[str]) -> None:
        """Go on without those that have been gone for too long; they may join anew."""
        patience = self._config.federation.drop_after_s
        for name in names:
            since = self.peers[name].gone_since
            if since is not None and patience is not None and since + patience <= self.transport.now():
                _LOG.warning("%s has been gone for %g s and is dropped", name, patience)
                self._leave(name)
                self.transport.reset(name)

    def _session(self) -> Session:
        return Session(Role.SERVER, form=self._form, limits=self._limits)

    def _leave(self, name: str) -> None:
        self._busy.discard(name)
        self._inbox.pop(name, None)
        self.peers[name].session = None
        self._on_leave(name)
