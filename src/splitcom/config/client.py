"""The settings of what a client does to what it trains and sends."""

from typing import Literal

from splitcom.privacy.config import MechanismText, ResponseText
from splitcom.settings import NonNegativeFloat, NonNegativeInt, Part, PositiveFloat, Section


class ClientConfig(Section):
    """What a client does to what it trains and sends."""

    checkpointing: bool = False
    """Whether a client keeps only what goes into each block, and computes the rest again for the
    gradients: less memory, more time, the same gradients.
    """
    clip_update: PositiveFloat | None = None
    """The largest L2 norm of what a round changes in the adapter, over all its tensors; None: any."""
    privacy: MechanismText | None = None
    """Noise on the hidden states that leave a client, and in the U-shape on the tail's gradients, such as
    gaussian(0.5, clip=60); false: none. The epsilon that it gives is in result.json.
    """
    label_noise: ResponseText | None = None
    """In classification: noise on the labels that a client trains on, such as randomised(1.0), whose argument is the
    epsilon of a label; false: none. Held-out labels stay as they are.
    """
    proximal: PositiveFloat | None = None
    """How strongly a client's loss draws it back to where a round began (mu in FedProx), such as 0.01; None: not
    at all.
    """
    mixing: NonNegativeFloat | None = None
    """How fast a client forgets its own adapter (beta in EcoLoRA): a round begins from the shared adapter
    and a part exp(-mixing * rounds since its last one) of what the client made then; false: from the
    shared adapter alone.
    """
    own_b: bool = False
    """Whether each client keeps LoRA's B, and all else that is not A, to itself, so that A alone is shared
    (FedSA-LoRA): models differ, and what the run leaves is A.
    """
    bypass_epochs: NonNegativeInt | None = None
    """In the U-shape: how many epochs of each round a client first trains by itself, with what leaves its front put
    straight into its tail (SFPrompt's local phase); None: for none, as with 0.
    """
    keep: Part | None = None
    """In the U-shape: the part of its samples that a client trains on through the body in a round; None: all, as
    with 1.
    """
    keep_by: Literal["el2n", "random"] = "el2n"
    """Which samples are kept: el2n those that front and tail by themselves predict worst (Paul et al. 2021,
    2107.07075), random others in each round.
    """
