"""The settings of where the body runs."""

from splitcom.settings import PositiveInt, Section


class EngineConfig(Section):
    """Where the body runs, and how much of a step at once."""

    kind: str = "local"  # one of `ENGINES` in engines/__init__.py
    # tokens with their padding that go through the body together, of all clients of a step; None: all of them. Memory
    # grows with this number, and gradients are the same but for rounding; a longer sample goes alone
    max_tokens_per_pass: PositiveInt | None = None
