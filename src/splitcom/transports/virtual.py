"""Messages on a virtual clock: who is asked, and when the server hears what comes of it; not how clients are reached.

A client works on what it is sent as soon as there is room, but the server hears of it when the clock says so. One that
the server refuses has no part in the rest of the run, as on a network; what a client fails with is a failure of the
run.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from time import perf_counter
from typing import Any

from splitcom.transports.events import Event, Joined, NothingComes, Received
from splitcom.transports.link import VirtualClock


class Virtual(ABC):
    """Delivers in the order of arrival and never loses anything."""

    notice_s: float | None = None

    def __init__(self, clients: Iterable[str], clock: VirtualClock) -> None:
        self._clock = clock
        self._reported_s: dict[str, float] = {}
        self._to_join = deque(clients)
        self._unheard = set(self._to_join)
        self._refused: dict[str, str] = {}  # why, by client
        self._arrived: list[
            tuple[float, int, Event]
        ] = []  # a heap; what arrives together comes in order of sending
        self._order = count()
        self._working_since: float | None = None

    @abstractmethod
    def _begin(self, client: str) -> None:
        """Have a client begin a conversation: `Joined`, and its first message."""

    @abstractmethod
    def _ask(self, client: str, data: bytes) -> None:
        """Have a client work on a message."""

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; raises NothingComes if none is under way and it would wait for ever."""
        self._gather()
        if timeout_s is not None:
            until_s = self.now() + timeout_s
            if not self._arrived or self._arrived[0][0] > until_s:
                self._clock.server_received(until_s)
                return None
        if not self._arrived:
            raise NothingComes(
                "no client has anything to say, and the run cannot go on; refused: "
                + ("; ".join(f"{client}, {reason}" for client, reason in self._refused.items()) or "none")
            )
        arrival_s, _, event = heappop(self._arrived)
        if isinstance(event, Joined):
            self._unheard.discard(event.client)
        self._clock.server_received(arrival_s)
        if self._working_since is None:
            self._working_since = perf_counter()
        return event

    def now(self) -> float:
        """The server's virtual time in seconds."""
        return self._clock.server_time_s

    def send(self, client: str, data: bytes) -> None:
        """Hand a message to a client.

        It is dropped if the client has been refused, or has begun a new conversation of which the server has not heard
        yet.
        """
        if client in self._unheard or client in self._refused:
            return
        if self._working_since is not None:
            self._clock.server_computed(perf_counter() - self._working_since)
            self._working_since = None
        self._clock.down(client, len(data))
        self._ask(client, data)

    def reset(self, client: str) -> None:
        """Drop what the client has said, and let it join anew if it has not been refused."""
        self._drop(client)
        if client in self._refused or client in self._to_join:
            return
        self._to_join.append(client)
        self._unheard.add(client)

    def refuse(self, client: str, reason: str) -> None:
        """Drop the client."""
        self._refused.setdefault(client, reason)
        self._drop(client)

    def state(self) -> dict[str, Any]:
        """The virtual clock, for a checkpoint."""
        return self._clock.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the virtual clock to that of a checkpoint, where the server was about to go on."""
        self._clock.load_state(state)
        self._working_since = perf_counter()

    def take_seconds(self, client: str) -> dict[str, float]:
        """Seconds that the client has computed since the last call, and the virtual time."""
        total = self._clock.client_compute_s(client)
        since = total - self._reported_s.get(client, 0.0)
        self._reported_s[client] = total
        return {"client": max(since, 0.0), "virtual": self._clock.server_time_s}

    def _gather(self) -> None:
        """Have those join that are to, and hear what may be the next event."""
        while self._to_join:
            self._begin(self._to_join.popleft())

    def _answer(self, client: str, data: bytes) -> None:
        self._put(self._clock.up(client, len(data)), Received(client, data))

    def _put(self, arrival_s: float, event: Event) -> None:
        heappush(self._arrived, (arrival_s, next(self._order), event))

    def _drop(self, client: str) -> None:
        self._arrived = [item for item in self._arrived if item[2].client != client]
        heapify(self._arrived)
