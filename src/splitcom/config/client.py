"""The settings of what a client does to what it trains and sends."""

from splitcom.privacy.config import MechanismText
from splitcom.settings import NonNegativeFloat, PositiveFloat, Section


class ClientConfig(Section):
    """What a client does to what it trains and sends."""

    checkpointing: bool = False
    """Whether what a client holds of the model keeps only what goes into its blocks, and computes the rest once
    more: less memory, more time, the same gradients.
    """
    clip_update: PositiveFloat | None = None
    """The largest L2 norm of what a round changes in the adapter, over all its tensors; None: any."""
    privacy: MechanismText | None = None
    """Noise on the hidden states that leave a client, and in the U-shape on the tail's gradients, such as
    gaussian(0.5, clip=60); None: none. What it is worth is in result.json.
    """
    proximal: PositiveFloat | None = None
    """How strongly a client's loss draws it back to where a round began (mu in FedProx), such as 0.01; None: not
    at all.
    """
    mixing: NonNegativeFloat | None = None
    """How fast a client forgets its own adapter (beta in EcoLoRA): a round begins from the shared one and a part
    exp(-mixing * rounds since its last one) of what it made then; None: from the shared one.
    """
