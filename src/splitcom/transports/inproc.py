"""All clients in this process: the same bytes as on a network, carried by function calls, on a virtual clock."""

from collections.abc import Callable, Iterable
from time import perf_counter

from typing_extensions import override

from splitcom.errors import RefusedError
from splitcom.transports.events import Joined, Peer
from splitcom.transports.link import VirtualClock
from splitcom.transports.virtual import Virtual


class InProcess(Virtual):
    """Clients work before `send` returns; `make_peer` begins a client's conversation."""

    def __init__(self, clients: Iterable[str], make_peer: Callable[[str], Peer], clock: VirtualClock) -> None:
        super().__init__(clients, clock)
        self._make_peer = make_peer
        self._peers: dict[str, Peer] = {}

    @override
    def _begin(self, client: str) -> None:
        self._peers[client] = self._make_peer(client)
        self._put(0.0, Joined(client))
        self._answer(client, self._peers[client].connect())

    @override
    def _ask(self, client: str, data: bytes) -> None:
        started = perf_counter()
        try:
            answer = self._peers[client].receive(data)
        except RefusedError as error:
            self._refused[client] = str(error)
            answer = None
        self._clock.client_computed(client, perf_counter() - started)
        if answer is not None:
            self._answer(client, answer)
