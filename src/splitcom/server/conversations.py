"""The server's conversations with its clients: who is there, what each has said, and that all of it is counted.

Nothing here knows what training is. A client whose connection is lost is waited for, and dropped after a deadline; so
is one that says it has failed, since it may be started again, and one that is connected and silent. One that begins a
new conversation in the middle of something has lost what it was doing, which `Rejoined` tells; one that does so again
and again is excluded. A client that says what it must not is refused: whoever reads its message raises
RemoteProtocolError or PacketError within `refusing`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import TypeVar

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.errors import NonFiniteError, PacketError, RemoteProtocolError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.limits import LIMITS, KindLimits
from splitcom.protocol.messages_pb2 import Failure, Finish, Hello, Message
from splitcom.protocol.session import Form, Role, Session, State
from splitcom.server.claims import check_hello
from splitcom.server.peers import Peer, Standing
from splitcom.server.phases import Phases
from splitcom.server.waits import Missing, say_who_is_waited_for
from splitcom.transports.events import (
    Admitted,
    Back,
    Excluded,
    Gone,
    Joined,
    NothingComes,
    Received,
    Transport,
)

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
        self._excluded: dict[str, Excluded] = {}
        self._gathers_since: float | None = None
        self.phases = Phases()
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

    @property
    def num_expected(self) -> int:
        """How many clients a run begins with: all that have a seat, and never fewer than a round needs."""
        lost = sum(not excluded.replaced for excluded in list(self._excluded.values()))
        return max(self._config.federation.clients - lost, self._config.federation.min_clients)

    def standings(self) -> dict[str, Standing]:
        """Where each client stands; may be called from any thread."""
        now, excluded = self.transport.now(), dict(self._excluded)
        reasons = {name: order.reason for name, order in excluded.items()}
        unheard = {name: Peer() for name in excluded}
        peers = unheard | dict(self.peers)
        return {name: peer.standing(now, reasons.get(name)) for name, peer in peers.items()}

    def missing(self) -> Missing | None:
        """Who is waited for to come before a round begins; may be called from any thread."""
        since, peers = self._gathers_since, dict(self.peers)
        here = [name for name, peer in peers.items() if peer.is_present]
        if since is None or (number := self.num_expected - len(here)) <= 0:
            return None
        return Missing(number, self.num_expected, self.transport.now() - since, here)

    def gather(self) -> None:
        """Wait until all clients of the run have said hello.

        With `federation.drop_after_s`, for no longer than that if `federation.min_clients` are there.
        """
        settings, notice_s, now = self._config.federation, self.transport.notice_s, self.transport.now
        deadline = None if settings.drop_after_s is None else now() + settings.drop_after_s
        self._gathers_since = said_at = now()
        while len(self.present) < self.num_expected:
            enough = len(self.present) >= settings.min_clients
            if deadline is not None and now() >= deadline and enough:
                break
            silent = [name for name, peer in self.peers.items() if not peer.is_present]
            notice = None if notice_s is None else said_at + notice_s
            self._wait(silent, *(at for at in (deadline if enough else None, notice) if at is not None))
            while self._next(now()):  # of many that come at once, all are heard before they are counted again
                pass
            if notice is not None and now() >= notice:
                said_at = now()
                _LOG.warning("%s", self.missing())
        self._gathers_since = None
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
            self._wait(waiting, *([] if until_s is None else [until_s]))
        while self._next(self.transport.now()):
            pass
        self._look_after(names)  # also if others always have something to say
        return self._take_from_inbox(names)

    def await_back(self) -> None:
        """Wait for those that are gone while they have nothing to do, since what all are asked next waits for them.

        One that begins anew meanwhile disturbs nobody; one that does not come is dropped, as ever. Raises Rejoined.
        """
        while self.transport.notice_s is not None and self._next(self.transport.now()):  # who is gone
            pass
        absent = [self.peers[name] for name in self.ready if self.peers[name].gone_since is not None]
        try:
            for peer in absent:
                peer.is_wanted = True
            while missing := [
                name for name, peer in self.peers.items() if peer.is_wanted and peer.is_missing
            ]:
                self._wait(missing)
        finally:
            for peer in absent:
                peer.is_wanted = False

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
        reason = visible(reason, PEER_CHARACTERS)  # what the client has sent may be part of it
        _LOG.warning("%s is refused: %s", name, reason)
        self.peers[name].refusals += 1
        self._dismiss(name, reason)

    def exclude(self, order: Excluded) -> None:
        """Have a client take no part any more, now and when it comes again."""
        _LOG.warning("%s is excluded: %s", order.client, order.reason)
        self._excluded[order.client] = order
        if order.client in self.peers:
            self._dismiss(order.client, order.reason)

    def _dismiss(self, name: str, reason: str) -> None:
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
        peer.note_turn(self.transport.now())
        peer.is_kept = message.WhichOneof("kind") in ("welcome", "save_state")
        self._count(name, message, len(data), upwards=False)
        self.transport.send(name, data)

    def idle(self) -> None:
        """Nothing is under way: a client that begins anew now disturbs nobody."""
        self._busy.clear()

    def saved(self) -> None:
        """All that has been done is saved: nothing is under way, and clients have their restarts again."""
        self.idle()
        for peer in self.peers.values():
            peer.restarts_since_save = 0

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

    def _wait(self, names: Iterable[str], *until_s: float) -> None:
        """Wait for the next event, and look after those of `names` that have been waited for too long."""
        takes_time = self.transport.notice_s is not None
        if takes_time and self._next(self.transport.now()):  # it is there: nobody is waited for
            return
        due = [
            at
            for peer in map(self.peers.__getitem__, names)
            for at in (peer.overdue_at(self._config.federation), peer.notice_at(self.transport.notice_s))
            if at is not None
        ]
        try:
            if not self._next(min([*due, *until_s], default=None)):
                self._look_after(names)
        except NothingComes:  # in one process nobody comes back: for ever is over at once
            if not (lost := [name for name in names if self.peers[name].gone_since is not None]):
                raise
            for name in lost:
                _LOG.warning("%s is gone for good and is dropped", name)
                self._leave(name)

    def _next(self, deadline: float | None) -> bool:
        """Take the next event; False if time is up before there is one. Raises Rejoined."""
        timeout_s = None if deadline is None else max(deadline - self.transport.now(), 0.0)
        with self.phases("waiting"):
            event = self.transport.receive(timeout_s)
        match event:
            case None:
                return False
            case Joined(name):
                self._join(name)
            case Gone(name):
                self.peers.setdefault(name, Peer()).gone_since = self.transport.now()
            case Back(name):
                peer = self.peers.setdefault(name, Peer())
                peer.gone_since = None
                peer.note_turn(self.transport.now())
            case Received(name, data):
                with self.refusing(name):
                    self._take(name, data)
            case Excluded() as order:
                self.exclude(order)
            case Admitted(name):
                if self._excluded.pop(name, None) is not None:
                    _LOG.warning("%s may take part again", name)
        return True

    def _join(self, name: str) -> None:
        """A client begins a conversation. Raises Rejoined if others depend on what it was at."""
        if (excluded := self._excluded.get(name)) is not None:
            self.transport.refuse(name, excluded.reason)
            return
        peer = self.peers.setdefault(name, Peer())
        peer.begins(self._session(), self.transport.now())
        self._inbox.pop(name, None)
        if name not in self._busy:
            return
        peer.restarts += 1
        peer.restarts_since_save += 1
        most = self._config.federation.max_restarts
        if most is None or peer.restarts_since_save <= most:
            raise Rejoined(name)
        reason = (
            f"it has begun anew {counted(peer.restarts_since_save, 'time')} since the last saved round, and "
            f"federation.max_restarts = {most}"
        )
        self.exclude(Excluded(name, reason))

    def _take(self, name: str, data: bytes) -> None:
        session = self.peers[name].session
        if session is None:  # of a conversation that has been ended
            return
        peer, now, before = self.peers[name], self.transport.now(), copy(session)
        message = session.receive(data)
        peer.note_turn(now)
        self._count(name, message, len(data), upwards=True)
        match message.WhichOneof("kind"):
            case "failure":
                self._fail(name, message.failure, before)
            case "hello":
                self._hear(name, message.hello)
            case _:
                self._inbox[name] = message

    def _fail(self, name: str, failure: Failure, before: Session) -> None:
        """A client says why it has ended, in the middle of the conversation `before`."""
        peer, reason = self.peers[name], visible(failure.reason, PEER_CHARACTERS)
        if failure.diverged:  # started again it would do so again
            _LOG.warning("%s has ended its session: %s", name, reason)
            self._leave(name)
            if not self.present:
                raise NonFiniteError(f"{name}, the last client, has ended: {reason}")
            return
        # As if it had crashed: it may be started again, and others depend on what it was at until then.
        peer.session, peer.gone_since, peer.failure = before, self.transport.now(), reason
        _LOG.warning("%s has failed, and is waited for as if it were gone: %s", name, reason)

    def _hear(self, name: str, hello: Hello) -> None:
        check_hello(hello, name, self._fingerprint, self._config)
        peer = self.peers[name]
        peer.num_samples, peer.num_held_out = hello.num_samples, hello.num_held_out
        peer.saved_rounds = list(hello.saved_rounds)
        peer.adapter_digest = hello.adapter_digest

    def _count(self, name: str, message: Message, size: int, *, upwards: bool) -> None:
        if self._counts:
            self._ledger.count(name, flows_of(message, size), upwards=upwards)

    def _look_after(self, names: Iterable[str]) -> None:
        """Go on without those that have been waited for too long, which may join anew; say who is waited for."""
        now = self.transport.now()
        for name in names:
            peer = self.peers[name]
            if (due := peer.overdue_at(self._config.federation)) is not None and due <= now:
                self._drop(name)
            elif (notice := peer.notice_at(self.transport.notice_s)) is not None and notice <= now:
                peer.noticed_at = now
                say_who_is_waited_for(name, peer.standing(now, None))

    def _drop(self, name: str) -> None:
        """Go on without a client, which may join anew."""
        peer = self.peers[name]
        what = "silent" if peer.gone_since is None else "gone"
        waited_s = self.transport.now() - (peer.awaited_since or 0.0)
        _LOG.warning("%s has been %s for %g s and is dropped", name, what, round(waited_s, 3))
        self._leave(name)
        self.transport.reset(name)

    def _session(self) -> Session:
        return Session(Role.SERVER, form=self._form, limits=self._limits)

    def _leave(self, name: str) -> None:
        self._busy.discard(name)
        self._inbox.pop(name, None)
        self.peers[name].session = None
        self.peers[name].asked_at = None
        self._on_leave(name)
