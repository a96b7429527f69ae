"""The settings of where the body runs."""

from splitcom.settings import PositiveInt, Section


class EngineConfig(Section):
    """Where the body runs, and how much of a step at once."""

    kind: str = "local"
    """Where the body runs: "local" is the server's own process."""
    checkpointing: bool = False
    """Whether the body holds only what goes into its blocks, and computes the rest once more: less memory, more
    time, the same gradients.
    """
    max_tokens_per_pass: PositiveInt | None = None
    """How many tokens, padding included, go through the body at once; None: all of a step. Less needs less
    memory, and gradients are the same but for rounding. A longer sample goes alone.
    """
