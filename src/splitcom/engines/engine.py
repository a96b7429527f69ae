"""What the server asks of whatever runs the body: steps on the batches of clients, evaluation, state.

A new engine is one file beside this one, and its entry in `ENGINES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.models import Body
from splitcom.protocol.labels import Labels

LARGEST = 1e30  # of a step: codecs take up to 1e34, and gradients are weighed before

Position = tuple[int, ...]
"""Round and step, and more if a batch is stepped on again. No two steps have it in common: dropout is drawn from it."""
Gradient = tuple[Ragged | None, int]
"""At the tail's input, None if the body is frozen, and the number of labelled tokens."""


@dataclass(frozen=True)
class Arrival:
    """One client's batch as the server has decoded it; in the U-shape without labels."""

    decoded: Decoded
    labels: list[Labels]
    trains_front: bool = True  # false: the client needs no gradient
    cut: int | None = None  # the block at which it enters; None: the body's first

    @property
    def num_samples(self) -> int:
        """How many samples it holds."""
        return len(self.decoded.ids)


@dataclass(frozen=True)
class StepResult:
    """For one client: the gradient of its own mean loss at the cut, and its loss in nats over `num_labels`.

    `num_correct` of them were the likeliest class, if there are classes.

    The gradient is None if the front is frozen and needs none; the loss is 0 in the U-shape, in which the client
    keeps it.
    """

    gradient: Ragged | None
    loss_sum: float
    num_labels: int
    num_correct: int = 0


class Passage(Protocol):
    """The body between its forward and its backward pass."""

    def out_of(self, client: str) -> Ragged:
        """What the body gave for a client's batch."""


class Engine(Protocol):
    """The body, its adapter and its optimizer.

    Any of `step`, `forward`, `backward` and `pass_held_out` raises NonFiniteError, and changes nothing, if what comes
    of it is not finite.
    """

    hidden_size: int
    """Of what crosses the cut."""
    num_labels: int
    """The size of the vocabulary, or the number of classes."""
    device: torch.device
    """Where it wants batches."""

    def step(
        self, arrivals: Mapping[str, Arrival], position: Position, progress: float
    ) -> dict[str, StepResult]:
        """One optimisation step on the batches of all clients together.

            client a ─┐                                    ┌─► gradient a
            client b ─┼─► hidden [B, T, D] ─► body ─► loss ┼─► gradient b
            client c ─┘                          └─ AdamW  └─► gradient c

        The body learns from the mean over all labelled tokens; each client gets the gradient of the mean over its
        own, as if it were alone, so that its step does not shrink with the number of clients.
        """

    def forward(self, arrivals: Mapping[str, Arrival], position: Position, *, trains: bool = True) -> Passage:
        """The first half of a step in the U-shape: run the batches of all clients.

        If the body does not train it has no dropout: what it gives of a frozen front's activations never changes.
        """

    def backward(
        self, passage: Passage, gradients: Mapping[str, Gradient], progress: float
    ) -> dict[str, StepResult]:
        """The second half of a step in the U-shape, from each client's gradient and its number of labelled tokens.

            gradient a ─┐                                              ┌─► gradient a
            gradient b ─┼─► weighed ─► [B, T, D] ─► body ─► weighed back ┼─► gradient b
            (c is gone) ┘   by number                └─ AdamW

        What comes in is the gradient, at the tail's input, of the mean over the client's own labelled tokens; so body
        and fronts learn from the same means as in `step`. If the body is frozen there is nothing to do. After a
        NonFiniteError the same passage may be run again, with the gradients of fewer clients.
        """

    def evaluate(self, arrival: Arrival) -> StepResult:
        """Loss in nats summed over the labels of a held-out batch, their number, and how many were right."""

    def pass_held_out(self, arrival: Arrival) -> Ragged:
        """What a client's tail gets of a held-out batch, in the U-shape."""

    def is_sound(self, arrival: Arrival, gradient: Gradient | None = None, below: float = LARGEST) -> bool:
        """Whether a client's batch, in the U-shape with its gradient, passes the body as it was before training.

        That is, if all that comes out of it is of magnitudes `below` this one.
        """

    def adapter(self) -> dict[str, torch.Tensor]:
        """The body's adapter."""

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter in its place."""

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""


class EngineKind(Protocol):
    """What makes engines of one kind; the body comes with its adapter."""

    begins_on_cpu: bool
    """Whether the body comes on the CPU, and the engine brings it to where it runs; else on `model.device`."""

    def __call__(self, body: Body, config: Config) -> Engine:
        """Make one."""

    def check(self, config: Config) -> None:
        """Raise ConfigError if this process has not what the engine needs; before anything is loaded."""
