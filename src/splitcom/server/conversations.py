"""The server's conversations with its clients: who is there, what each has said, and that all of it is counted.

Nothing here knows what training is. A client whose connection is lost is waited for, and dropped after a deadline; one
that begins a new conversation in the middle of something has lost what it was doing, which `Rejoined` tells.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.errors import CodecError, RemoteProtocolError, UnknownReference
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.labels import Labels
from splitcom.protocol.messages_pb2 import Failure, Finish, Message, ReferenceLost, Welcome
from splitcom.protocol.session import PROTOCOL_VERSION, Form, Role, Session, State
from splitcom.training.channel import Channels
from splitcom.transports.events import Back, Gone, Joined, Received, Transport

_LOG = logging.getLogger(__name__)
_CLIENT_OWES = {State.TRAINING, State.IN_TAIL, State.EVALUATING, State.SAVING}
_LOST_AGAIN = "references are lost again and again in one step"
_ReadT = TypeVar("_ReadT")


class Rejoined(Exception):  # noqa: N818  (an event, no error)
    """A client has begun anew in the middle of something: it must be done again by all."""


class Ended(Exception):  # noqa: N818
    """The server has ended a client's conversation, since what the client sent was malformed or not allowed."""


@dataclass
class Task:
    """The round that a client is training or has paused; `round` names its batches and draws."""

    round: int
    version: int  # of the shared adapter, from which it began
    place: float | None = None  # where in the run, in rounds from 1; None: at `round`
    is_frozen: bool = False  # by a controller: the front, and in the U-shape the body
    next_step: int = 0
    num_tokens: int = 0
    is_pausing: bool = False
    is_abandoned: bool = False


@dataclass
class Peer:
    """What the server knows of one client; `session` is None while there is no conversation."""

    channels: Channels
    session: Session | None = None
    gone_since: float | None = None
    saved_rounds: list[int] = field(default_factory=list)  # that the client says it can go on from
    acknowledged_round: int | None = None  # after which both sides have kept their state
    num_samples: int = 0
    num_held_out: int = 0
    adapter_version: int = 0
    labels: dict[int, Labels] = field(default_factory=dict)
    gradient: tuple[Ragged, list[int]] | None = None  # of the last step, in case it must be sent again
    task: Task | None = None
    steps: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    num_labels: int = 0
    num_correct: int = 0
    updates: int = 0
    staleness: int = 0  # versions, summed over these updates

    @property
    def present(self) -> bool:
        """Whether it has said hello."""
        return self.session is not None and self.session.state is not State.CONNECTING

    @property
    def is_idle(self) -> bool:
        """Whether it waits for something to do."""
        return self.session is not None and self.session.state is State.IDLE

    @property
    def owes(self) -> bool:
        """Whether the next message is its own to send."""
        return self.session is not None and self.session.state in _CLIENT_OWES

    @property
    def is_training(self) -> bool:
        """Whether it is at work on its task, or waits for an answer."""
        return self.present and self.task is not None and not self.is_idle

    def forget_round(self) -> None:
        """Begin the counts of a round."""
        self.steps = self.tokens = self.num_labels = self.num_correct = self.updates = self.staleness = 0
        self.loss_sum = 0.0
        for channel in self.channels.values():
            channel.take_traffic()


class Conversations:
    """All clients of a run."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        ledger: Ledger,
        open_channels: Callable[[str], Channels],
        model_fingerprint: str,
    ) -> None:
        self.peers: dict[str, Peer] = {}
        self.transport = transport
        self._config = config
        self._ledger = ledger
        self._open_channels = open_channels
        self._fingerprint = model_fingerprint
        self._form = Form.of(config.model.tail_blocks)
        self._busy: set[str] = set()
        self._inbox: dict[str, Message] = {}  # a client says one thing and waits for the answer
        # A single party that holds model and data has nobody to send anything to.
        self._counts = config.training.split or config.federation.clients > 1

    @property
    def present(self) -> list[str]:
        """The clients that have said hello, in their order."""
        return [name for name, peer in self.peers.items() if peer.present]

    @property
    def ready(self) -> list[str]:
        """The clients that wait for something to do; not those that have come back and are not welcomed yet."""
        return [name for name, peer in self.peers.items() if peer.is_idle]

    def is_busy(self, name: str) -> bool:
        """Whether a client is still in the conversation in which it was last waited for."""
        return name in self._busy

    def gather(self) -> None:
        """Wait until all clients of the run have said hello.

        With `federation.drop_after_s`, for no longer than that where `federation.min_clients` are there.
        """
        settings = self._config.federation
        now = self.transport.now
        deadline = None if settings.drop_after_s is None else now() + settings.drop_after_s
        while len(self.present) < settings.clients:
            enough = len(self.present) >= settings.min_clients
            if deadline is not None and now() >= deadline and enough:
                break
            with suppress(Ended):
                self._next(deadline if enough else None)
        self.peers = dict(sorted(self.peers.items(), key=lambda item: (len(item[0]), item[0])))

    def welcome(self, saved_round: int) -> None:
        """Answer every hello: go on from the state after `saved_round` where both sides have it, else begin anew."""
        for name in self.present:
            peer = self.peers[name]
            if peer.session is None or peer.session.state is not State.GREETED:
                continue
            if peer.acknowledged_round != saved_round or saved_round not in peer.saved_rounds:
                self._renew(name)
            welcome = Welcome(config_toml=self._config.to_toml(), round=peer.acknowledged_round)
            self.send(name, Message(welcome=welcome))

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

        Nothing where none of them is left, or has said anything by `until_s` of the transport's clock. Raises Rejoined.
        """
        names = self._expect(names)
        while not any(name in self._inbox for name in names):
            waiting = [name for name in names if self.peers[name].owes]
            if not waiting or (until_s is not None and self.transport.now() >= until_s):
                break
            self._wait(waiting, until_s)
        with suppress(Ended):
            while self._next(self.transport.now()):
                pass
        return self._take_from_inbox(names)

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
        with suppress(Ended):
            if not self._next(min(deadlines, default=None)):
                self._drop(names)

    def send(self, name: str, message: Message) -> None:
        """Send a message and count it."""
        peer = self.peers[name]
        assert peer.session is not None
        data = peer.session.send(message)
        self._count(name, message, len(data), upwards=False)
        self.transport.send(name, data)

    def caught_up(self, name: str, message: Message, resend: Callable[[], None]) -> Message:
        """A client's message; where it is that the client has lost a reference, the one after `resend`.

        Raises Rejoined, and Ended also where the client has left since.
        """
        if not self.is_busy(name):
            raise Ended(name)
        if message.WhichOneof("kind") == "reference_lost":
            resend()
            message = self._next_of(name)
            if message.WhichOneof("kind") == "reference_lost":
                self.refuse(name, _LOST_AGAIN)
        return message

    def settle(self, name: str, message: Message, read: Callable[[Message], _ReadT]) -> _ReadT:
        """What `read` makes of a client's packet; where it raises UnknownReference, of the packet sent again.

        Raises Ended and Rejoined.
        """
        try:
            return read(message)
        except UnknownReference as lost:
            step = getattr(message, message.WhichOneof("kind") or "").step
            answer = ReferenceLost(step=step, sample_ids=lost.sample_ids)
        self.send(name, Message(reference_lost=answer))
        try:
            return read(self._next_of(name))
        except UnknownReference:
            self.refuse(name, _LOST_AGAIN)

    def _next_of(self, name: str) -> Message:
        """The next message of one client; raises Ended where it is gone."""
        if not (messages := self.collect([name])):
            raise Ended(name)
        return messages[name]

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

    def parse(self, name: str, parser: Callable[..., _ReadT], *arguments: Any) -> _ReadT:
        """Run a parser on what a client has sent; raises Ended where it is malformed, and tells the client."""
        try:
            return parser(*arguments)
        except UnknownReference:
            raise
        except (CodecError, RemoteProtocolError) as error:
            self.refuse(name, str(error))

    def _next(self, deadline: float | None) -> bool:
        """Take the next event; False where time is up before there is one."""
        timeout_s = None if deadline is None else max(deadline - self.transport.now(), 0.0)
        match self.transport.receive(timeout_s):
            case None:
                return False
            case Joined(name):
                peer = self.peer(name)
                peer.session, peer.gone_since = Session(Role.SERVER, form=self._form), None
                self._inbox.pop(name, None)
                if name in self._busy:
                    raise Rejoined(name)
            case Gone(name):
                self.peer(name).gone_since = self.transport.now()
            case Back(name):
                self.peer(name).gone_since = None
            case Received(name, data):
                self._take(name, data)
        return True

    def _take(self, name: str, data: bytes) -> None:
        peer = self.peers[name]
        if peer.session is None:  # of a conversation that has been ended
            return
        message = self.parse(name, peer.session.receive, data)
        self._count(name, message, len(data), upwards=True)
        kind = message.WhichOneof("kind")
        if kind == "failure":
            _LOG.warning("%s has ended its session: %s", name, message.failure.reason)
            self._leave(name)
            raise Ended(name)
        if kind == "hello":
            self._hear_hello(name, message)
        else:
            self._inbox[name] = message

    def _count(self, name: str, message: Message, size: int, *, upwards: bool) -> None:
        if self._counts:
            self._ledger.count(name, flows_of(message, size), upwards=upwards)

    def _hear_hello(self, name: str, message: Message) -> None:
        hello = message.hello
        for what, theirs, ours in (
            ("protocol version", hello.protocol_version, PROTOCOL_VERSION),
            ("client name", hello.client, name),
            ("model fingerprint", hello.model_fingerprint, self._fingerprint),
        ):
            if theirs != ours:
                self.refuse(name, f"{what} is {theirs}, the server's is {ours}")
        peer = self.peers[name]
        peer.num_samples, peer.num_held_out = hello.num_samples, hello.num_held_out
        peer.saved_rounds = list(hello.saved_rounds)

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

    def refuse(self, name: str, reason: str) -> NoReturn:
        """End a client's conversation for good, telling it why; raises Ended."""
        _LOG.warning("%s is refused: %s", name, reason)
        session = self.peers[name].session
        if session is not None and session.state is not State.CLOSED:
            self.send(name, Message(failure=Failure(reason=reason)))
        self._leave(name)
        self.transport.refuse(name, reason)
        raise Ended(f"{name}: {reason}")

    def _leave(self, name: str) -> None:
        self._busy.discard(name)
        self._inbox.pop(name, None)
        self._renew(name)
        self.peers[name].session = None

    def peer(self, name: str) -> Peer:
        """What is known of a client; made where it is new."""
        if name not in self.peers:
            self.peers[name] = Peer(self._open_channels(name))
        return self.peers[name]

    def _renew(self, name: str) -> None:
        """Forget what this side holds for a client that begins anew."""
        peer = self.peers[name]
        peer.adapter_version, peer.acknowledged_round, peer.task = 0, None, None
        peer.labels.clear()
        for channel in peer.channels.values():
            if channel.references is not None:
                channel.references.clear()
