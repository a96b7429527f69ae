"""A virtual clock: when each message would have arrived over given links; knows sizes and times, no messages.

Client and server each have a clock. A message leaves at its sender's time and arrives after latency and size over
bandwidth; its receiver's clock moves on to that, then on by the time it computes. Clients compute side by side.

    server ──┬─ compute ─┬───────────────────────────────┬─ compute ─
             │           └ latency + bytes/down ┐        │
    client ──┘                                  └ compute┴ latency + bytes/up …
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from splitcom.config import LinkConfig, LinksConfig
from splitcom.errors import ConfigError


@dataclass(frozen=True)
class Link:
    """Mbit/s of each client's link."""

    up_mbps: float
    down_mbps: float

    @classmethod
    def parse(cls, text: str) -> "Link":
        """Read "UP/DOWN".

        >>> Link.parse("10/40")
        Link(up_mbps=10.0, down_mbps=40.0)
        """
        up, slash, down = text.partition("/")
        try:
            link = cls(float(up), float(down))
            if slash and min(link.up_mbps, link.down_mbps) > 0:
                return link
        except ValueError:
            pass
        raise ConfigError(f"--link {text}: expected Mbit/s up and down, both above 0, such as 10/40")

    def seconds(self, up_bytes: float, down_bytes: float) -> float:
        """What so many bytes take, one after the other, as steps wait for one another."""
        return 8 * (up_bytes / self.up_mbps + down_bytes / self.down_mbps) / 1e6


@dataclass
class _ClientClock:
    link: LinkConfig
    time_s: float = 0.0
    compute_s: float = 0.0
    messages: int = 0


@dataclass
class VirtualClock:
    """Times of one run in seconds since its start; jitter is seeded. `link_of` gives a client's link, if not alike."""

    links: LinksConfig
    seed: int = 0
    link_of: Callable[[str], LinkConfig] | None = None
    server_time_s: float = 0.0
    server_compute_s: float = 0.0
    _clients: dict[str, _ClientClock] = field(default_factory=dict)

    def down(self, client: str, size_bytes: int) -> None:
        """A message leaves the server now; the client goes on when it is there."""
        clock = self._client(client)
        arrival = self.server_time_s + self._travel_s(client, clock, size_bytes, clock.link.down_mbps)
        clock.time_s = max(clock.time_s, arrival)

    def client_computed(self, client: str, measured_s: float) -> None:
        """The client has worked on what it received."""
        clock = self._client(client)
        seconds = measured_s if clock.link.step_s is None else clock.link.step_s
        clock.time_s += seconds
        clock.compute_s += seconds

    def up(self, client: str, size_bytes: int) -> float:
        """A message leaves the client now; returns when it is at the server."""
        clock = self._client(client)
        return clock.time_s + self._travel_s(client, clock, size_bytes, clock.link.up_mbps)

    def server_received(self, arrival_s: float) -> None:
        """The server has waited for a message."""
        self.server_time_s = max(self.server_time_s, arrival_s)

    def server_computed(self, measured_s: float) -> None:
        """The server has worked on what it received."""
        seconds = measured_s if self.links.server_step_s is None else self.links.server_step_s
        self.server_time_s += seconds
        self.server_compute_s += seconds

    def next_up_s(self, client: str, *, computes: bool) -> float:
        """Before this, nothing can arrive that a client says next, after it has computed or at once."""
        clock = self._client(client)
        step_s = clock.link.step_s or 0.0 if computes else 0.0
        return clock.time_s + step_s + clock.link.latency_ms / 1e3

    def client_compute_s(self, client: str) -> float:
        """Seconds that this client has computed since the start."""
        return self._client(client).compute_s

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "server": [self.server_time_s, self.server_compute_s],
            "clients": {name: [c.time_s, c.compute_s, c.messages] for name, c in self._clients.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._clients.clear()
        self.server_time_s, self.server_compute_s = state["server"]
        for name, (time_s, compute_s, messages) in state["clients"].items():
            self._clients[name] = _ClientClock(self._client(name).link, time_s, compute_s, messages)

    def _client(self, name: str) -> _ClientClock:
        if name not in self._clients:
            link = self.links if self.link_of is None else self.link_of(name)
            self._clients[name] = _ClientClock(link)
        return self._clients[name]

    def _travel_s(self, name: str, clock: _ClientClock, size_bytes: int, mbps: float | None) -> float:
        clock.messages += 1
        jitter_ms = 0.0
        if clock.link.jitter_ms:
            jitter_ms = abs(
                random.Random(f"{self.seed}/{name}/{clock.messages}").gauss(0, clock.link.jitter_ms)
            )
        transfer_s = 0.0 if mbps is None else size_bytes * 8 / (mbps * 1e6)
        return (clock.link.latency_ms + jitter_ms) / 1e3 + transfer_s
