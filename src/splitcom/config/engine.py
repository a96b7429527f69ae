"""The settings of where the body runs."""

from typing import Annotated

from pydantic import Field

from splitcom.settings import PositiveInt, Section


class EngineConfig(Section):
    """Where the body runs, and how much of a step at once."""

    kind: str = "local"
    """Where the body runs: "local" is the server's own process, on one device; "placed" lays its blocks over several
    devices of the machine, for memory; "sharded" shares weights and passes out to the processes that torchrun has
    started on one machine or several, for memory and speed.
    """
    devices: Annotated[list[str], Field(min_length=1)] | None = None
    """Of "placed": the devices, in order, such as ["cuda:0", "cuda:1"]; None: all CUDA devices."""
    checkpointing: bool = False
    """Whether the server keeps only what goes into each block, and computes the rest again for the
    gradients: less memory, more time, the same gradients.
    """
    max_tokens_per_pass: PositiveInt | None = None
    """How many tokens, padding included, go through the body at once; None: all of a step. Less needs less
    memory, and gradients are the same but for rounding. A longer sample goes alone.
    """
