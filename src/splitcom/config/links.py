"""The settings of links, for the virtual clock."""

from pydantic import Field

from splitcom.settings import NonNegativeFloat, PositiveFloat, Section


class LinkConfig(Section):
    """The link of a client, for the virtual clock; false is infinitely fast."""

    up_mbps: PositiveFloat | None = None
    """Mbit/s from client to server; None: no limit."""
    down_mbps: PositiveFloat | None = None
    """Mbit/s from server to client; None: no limit."""
    latency_ms: NonNegativeFloat = 0.0
    """Milliseconds that a message needs beside its bytes."""
    jitter_ms: NonNegativeFloat = 0.0
    """Standard deviation of the latency."""
    step_s: NonNegativeFloat | None = None
    """Seconds of computing in a client's step, in the U-shape in each of its two halves; false measures
    them.
    """


class LinksConfig(LinkConfig):
    """The link of every client, with exceptions by client name."""

    server_step_s: NonNegativeFloat | None = None
    """Seconds of the server's computing in a step; false measures them."""
    clients: dict[str, LinkConfig] = Field(default={})
    """Links of single clients, by name: `[links.clients.client-0]`."""
