"""The settings of what a client does to what it trains and sends."""

from splitcom.settings import PositiveFloat, Section


class ClientConfig(Section):
    """What a client does to what it trains and sends."""

    # L2 norm of what a round may change of the adapter, over all its tensors; None: as it comes
    clip_update: PositiveFloat | None = None
