"""The settings of links, for the virtual clock."""

from typing import Any

from pydantic import model_validator

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
    """The link of every client that has none of its own in `[clients.NAME.link]`, and the server."""

    server_step_s: NonNegativeFloat | None = None
    """Seconds of the server's computing in a step; false measures them."""

    @model_validator(mode="before")
    @classmethod
    def _clients_have_their_own(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and "clients" in settings:
            if settings["clients"]:
                raise ValueError(
                    "clients is no setting any more: write what was there for NAME into [clients.NAME.link]"
                )
            return {name: value for name, value in settings.items() if name != "clients"}
        return settings
