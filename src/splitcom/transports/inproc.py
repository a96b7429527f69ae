"""All clients in this process: the same bytes as on a network, carried by function calls, timed by a virtual clock."""

from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from splitcom.transports.link import VirtualClock


class Peer(Protocol):
    """A client as a transport sees it."""

    def connect(self) -> bytes:
        """Its first message."""

    def receive(self, data: bytes) -> bytes | None:
        """Work on a message; the answer, if there is one."""


class InProcess:
    """Delivers at once, in order, and never loses anything."""

    def __init__(self, peers: Mapping[str, Peer], clock: VirtualClock) -> None:
        self._peers = peers
        self._clock = clock
        self._arrived: deque[tuple[float, str, bytes]] = deque()
        self._working_since: float | None = None
        self._reported_s = {name: clock.client_compute_s(name) for name in peers}
        self._connected = False

    @property
    def clients(self) -> list[str]:
        """Names of the connected clients."""
        return list(self._peers)

    def send(self, client: str, data: bytes) -> None:
        """Hand a message to a client, which works on it before this returns."""
        if self._working_since is not None:
            self._clock.server_computed(perf_counter() - self._working_since)
            self._working_since = None
        self._clock.down(client, len(data))
        started = perf_counter()
        answer = self._peers[client].receive(data)
        self._clock.client_computed(client, perf_counter() - started)
        if answer is not None:
            self._answer(client, answer)

    def receive(self) -> tuple[str, bytes]:
        """The next message and its sender; raises LookupError where none is under way, since none can come."""
        if not self._connected:  # not before: a client may have to load a checkpoint first
            self._connected = True
            for name, peer in self._peers.items():
                self._answer(name, peer.connect())
        if not self._arrived:
            raise LookupError("no client has anything to say")
        arrival_s, client, data = self._arrived.popleft()
        self._clock.server_received(arrival_s)
        if self._working_since is None:
            self._working_since = perf_counter()
        return client, data

    def take_seconds(self, client: str) -> dict[str, float]:
        """Seconds that the client has computed since the last call, and the virtual time."""
        total = self._clock.client_compute_s(client)
        since, self._reported_s[client] = total - self._reported_s[client], total
        return {"client": since, "virtual": self._clock.server_time_s}

    def _answer(self, client: str, data: bytes) -> None:
        self._arrived.append((self._clock.up(client, len(data)), client, data))
