"""The settings of links, for the virtual clock."""

from pydantic import Field

from splitcom.settings import NonNegativeFloat, PositiveFloat, Section


class LinkConfig(Section):
    """The link of a client, for the virtual clock; None is infinitely fast."""

    up_mbps: PositiveFloat | None = None
    """Mbit/s from client to server; None: no limit."""
    down_mbps: PositiveFloat | None = None
    """Mbit/s from server to client; None: no limit."""
    latency_ms: NonNegativeFloat = 0.0
    """Milliseconds that a message needs beside its bytes."""
    jitter_ms: NonNegativeFloat = 0.0
    """Standard deviation of the latency."""
    step_s: NonNegativeFloat | None = None
    """Seconds that a client computes for in a step, in the U-shape for each of its two halves; None measures
    them.
    """


class LinksConfig(LinkConfig):
    """The link of every client, with exceptions by client name."""

    server_step_s: NonNegativeFloat | None = None
    """Seconds that the server computes for in a step; None measures them."""
    clients: dict[str, LinkConfig] = Field(default={})
    """Links of single clients, by name: `[links.clients.client-0]`."""
