"""The settings of where the body runs."""

from typing import Annotated

from pydantic import Field

from splitcom.settings import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class RayConfig(Section):
    """Of "ray": the actors that clients are in, and where they may run."""

    address: str | None = None
    """Of the cluster, such as "10.0.0.1:6379" or "auto"; None: that of RAY_ADDRESS, or else one that is begun on this
    machine and ends with the run.
    """
    actors: PositiveInt | None = None
    """How many processes have the clients; None: as many as there is room for. In each, one client at a time works."""
    cpus: PositiveFloat = 1.0
    """CPUs of each of them, such as 0.5."""
    gpus: NonNegativeFloat = 0.0
    """GPUs of each of them, such as 0.25: four share one. Without any, clients run on the CPU."""


class EngineConfig(Section):
    """Where the body runs, and how much of a step at once."""

    kind: str = "local"
    """Where the body runs: "local" is the server's own process, on one device; "placed" lays its blocks over several
    devices of the machine, for memory; "sharded" shares weights and passes out to several processes on one machine or
    more, for memory and speed; "ray" is as "local", with the clients of `splitcom train` in actors of a Ray cluster.
    """
    processes: PositiveInt | None = None
    """Of "sharded": how many processes the command starts on its machine; None: one for each CUDA device."""
    devices: Annotated[list[str], Field(min_length=1)] | None = None
    """Of "placed": the devices, in order, such as ["cuda:0", "cuda:1"]; None: all CUDA devices."""
    checkpointing: bool = False
    """Whether the server keeps only what goes into each block, and computes the rest again for the
    gradients: less memory, more time, the same gradients.
    """
    max_tokens_per_pass: PositiveInt | None = 2048
    """How many tokens, padding included, go through the body at once; None: all of a step, however many clients it has.
    Less needs less memory, and gradients are the same but for rounding. A longer sample goes alone. In the U-shape a
    step of several passes takes a third more computing.
    """
    ray: RayConfig = RayConfig()
