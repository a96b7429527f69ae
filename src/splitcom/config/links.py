"""The settings of links, for the virtual clock."""

from pydantic import Field

from splitcom.settings import NonNegativeFloat, PositiveFloat, Section


class LinkConfig(Section):
    """The link of a client, for the virtual clock; None is infinitely fast."""

    up_mbps: PositiveFloat | None = None
    down_mbps: PositiveFloat | None = None
    latency_ms: NonNegativeFloat = 0.0
    jitter_ms: NonNegativeFloat = 0.0  # standard deviation, added to the latency
    # compute time of a client's step, in the U-shape of each of its two halves; None measures it
    step_s: NonNegativeFloat | None = None


class LinksConfig(LinkConfig):
    """The link of every client, with exceptions by client name."""

    server_step_s: NonNegativeFloat | None = None
    clients: dict[str, LinkConfig] = Field(default={})
