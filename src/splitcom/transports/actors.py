"""Clients in the actors of a Ray cluster: the same bytes as in one process, on the same virtual clock, many at a time.

             ┌─► actor ─► client-7, client-2031 …      an actor has the clients that are at work in it;
    server ──┼─► actor ─► client-12 …                  all others are at rest: no more than what they
             └─► actor ─► client-0, client-5 …         have saved, and begun from that when they are sent something

An event is heard when no answer that is still due could come before it on the virtual clock, so that events are in the
order in which one process would have them. Whoever was at work in an actor that has died begins anew elsewhere.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from time import perf_counter
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from splitcom.errors import TransportError
from splitcom.protocol.limits import kind_of
from splitcom.transports.events import Joined, Received
from splitcom.transports.link import VirtualClock
from splitcom.transports.virtual import Virtual

_LOG = logging.getLogger(__name__)
_ALL_S = 60.0  # to wait for all actors in the beginning: a cluster may be in use by others, too
_PATIENCE_S = 600.0  # for one: a cluster may have to get a machine for it


@dataclass(frozen=True)
class Said:
    """What an actor says of one of its clients."""

    answer: bytes | None
    seconds: float = 0.0  # of computing
    refused: str | None = None  # why, by the server
    welcome: bytes | None = None  # brings a new client to where this one is, which is gone; None: it stays


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: Any  # what comes when it has started
    num_asked: int = 0
    num_clients: int = 0


class _Due(NamedTuple):
    """An answer that is still to come: the first moment at which it may arrive, and its place among those."""

    earliest_s: float
    order: int
    client: str
    actor: _Actor
    said: Any
    begins: bool


class Actors(Virtual):
    """`start` starts an actor; its `say(client, data, given, welcome)` gives `Said`, and `ready()` whether it can.

    `given` is what a client begins with, by name. With `welcome` a client begins as one that was sent that; if `data`
    is None what it says is its hello.
    """

    def __init__(
        self,
        clients: Iterable[str],
        given: Callable[[str], object],
        start: Callable[[], Any],
        number: int,
        clock: VirtualClock,
    ) -> None:
        super().__init__(clients, clock)
        self._given = given
        self._start = start
        self._starting: list[_Actor] = []
        self._actors: list[_Actor] = []
        self._at: dict[str, _Actor] = {}  # of those that are at work
        self._welcomes: dict[str, bytes] = {}  # of those that are at rest
        self._due: list[_Due] = []  # a heap
        for _ in range(number):
            self._start_one()
        self._take_started(number, _ALL_S)

    def close(self) -> None:
        """End all actors."""
        for actor in (*self._starting, *self._actors):
            ray.kill(actor.handle)

    @override
    def state(self) -> dict[str, Any]:
        self._hear_all()
        return super().state()

    @override
    def load_state(self, state: Mapping[str, Any]) -> None:
        self._hear_all()
        super().load_state(state)

    @override
    def take_seconds(self, client: str) -> dict[str, float]:
        self._hear_all()
        return super().take_seconds(client)

    @override
    def _begin(self, client: str) -> None:
        self._put(0.0, Joined(client))
        self._submit(client, None, begins=True)

    @override
    def _ask(self, client: str, data: bytes) -> None:
        if client not in self._at:
            kind = kind_of(data)
            if kind == "welcome":
                self._welcomes[client] = data
            if kind in ("welcome", "finish"):  # nobody need be there for that
                self._clock.client_computed(client, 0.0)
                return
        self._submit(client, data, begins=False)

    def _submit(self, client: str, data: bytes | None, *, begins: bool) -> None:
        actor = self._at.get(client) or self._idlest()
        given, welcome = None, self._welcomes.pop(client, b"")
        if begins or client not in self._at:
            given, welcome = self._given(client), b"" if begins else welcome
        if client not in self._at:
            self._at[client] = actor
            actor.num_clients += 1
        actor.num_asked += 1
        said = actor.handle.say.options(name=client).remote(client, data, given, welcome)
        earliest_s = self._clock.next_up_s(client, computes=not begins)
        heappush(self._due, _Due(earliest_s, next(self._order), client, actor, said, begins))

    @override
    def _gather(self) -> None:
        super()._gather()
        while self._due and (not self._arrived or self._due[0][:2] < self._arrived[0][:2]):
            self._hear(heappop(self._due))
            super()._gather()  # those whose actor has died

    def _hear_all(self) -> None:
        while self._due:
            self._hear(heappop(self._due))

    def _hear(self, due: _Due) -> None:
        """Wait for an answer."""
        started = perf_counter()
        try:
            said: Said = _got(due.said)
        except RayError as error:
            self._lose(due.actor, error)
            return
        if self._working_since is not None:  # the server has not
            self._working_since += perf_counter() - started
        client = due.client
        due.actor.num_asked -= 1
        if said.welcome is not None:
            self._welcomes[client] = said.welcome
            self._rest(client)
        if said.refused is not None:
            self._refused[client] = said.refused
        if not due.begins:
            self._clock.client_computed(client, said.seconds)
        if said.answer is not None:
            arrival_s = self._clock.up(client, len(said.answer))
            heappush(self._arrived, (arrival_s, due.order, Received(client, said.answer)))

    def _rest(self, client: str) -> None:
        if (actor := self._at.pop(client, None)) is not None:
            actor.num_clients -= 1

    @override
    def _drop(self, client: str) -> None:
        super()._drop(client)
        for due in self._due:
            if due.client == client:
                due.actor.num_asked -= 1
        self._due = [due for due in self._due if due.client != client]
        heapify(self._due)

    def _idlest(self) -> _Actor:
        """The actor with the fewest clients that are at work now, or else with the fewest at all."""
        if self._starting:
            self._take_started()
        if not self._actors:
            self._take_started(patience_s=_PATIENCE_S)
        if not self._actors:
            raise TransportError(
                f"no actor of the Ray cluster has started within {_PATIENCE_S:g} s: there is too little room for one "
                "with engine.ray.cpus and engine.ray.gpus; add nodes, or ask for less, and go on with --resume"
            )
        return min(self._actors, key=lambda actor: (actor.num_asked, actor.num_clients))

    def _start_one(self) -> None:
        handle = self._start()
        self._starting.append(_Actor(handle, handle.ready.remote()))

    def _take_started(self, number: int = 1, patience_s: float = 0.0) -> None:
        """Take into use the actors that have started, after waiting for so many of them, but not for ever."""
        waited_for = [actor.ready for actor in self._starting]
        if not waited_for:
            return
        started, _ = ray.wait(waited_for, num_returns=number, timeout=patience_s)
        for actor in [actor for actor in self._starting if actor.ready in started]:
            self._starting.remove(actor)
            try:
                _got(actor.ready)
                self._actors.append(actor)
            except RayError as error:
                if not self._actors and not self._starting:
                    raise TransportError(f"no actor can be started: {error}") from error
                _LOG.warning("an actor cannot be started, and the others do its part: %s", _first_line(error))

    def _lose(self, actor: _Actor, error: RayError) -> None:
        """Have another actor in the place of one that has died, and its clients begin anew."""
        self._actors.remove(actor)
        ray.kill(actor.handle)  # if it only cannot be reached
        lost = [client for client, at in self._at.items() if at is actor]
        _LOG.warning(
            "an actor has died; %d clients that were at work in it begin anew: %s",
            len(lost),
            _first_line(error),
        )
        self._start_one()
        for client in lost:
            self._rest(client)
            self.reset(client)


def _got(promise: Any) -> Any:
    """What has come of a call; raises the package's own errors as they are, and RayError if the actor has died."""
    try:
        return ray.get(promise)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise


def _first_line(error: RayError) -> str:
    return str(error).strip().splitlines()[0]
