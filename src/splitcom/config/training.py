"""The settings of training: how long and how fast."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from splitcom.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PartBelowOne,
    PositiveFloat,
    PositiveInt,
    Section,
)


class TrainingConfig(Section):
    """How long and how fast."""

    rounds: PositiveInt = 5
    """How often the clients' adapters are averaged."""
    local_epochs: PositiveInt = 1
    """How often a client goes through its data in a round."""
    batch_size: PositiveInt = 8
    """Samples of one client in a step."""
    lr: PositiveFloat = 1e-3
    """The highest learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: PartBelowOne = 0.02
    """The part of the run in which the learning rate rises."""
    clip_norm: NonNegativeFloat | None = 1.0
    """The largest norm of a gradient, of each part by itself, since no party knows the other's norm; None or
    0: off.
    """
    body_update: Literal["parallel", "sequential"] = "parallel"
    """Whether the body learns from the clients' batches of a step together, or from one after the other."""
    checkpoint_every: PositiveInt = 1
    """Rounds between two checkpoints."""
    keep: Literal["last", "best"] = "last"
    """Whether the adapter of the last round is left, or that with the lowest held-out loss of all evaluations,
    the one before training among them.
    """
    patience: NonNegativeInt = 0
    """Evaluations without a lower held-out loss after which the run ends; 0: it goes through all rounds."""
    keep_checkpoints: Annotated[int, Field(ge=2, strict=True)] = 2
    """How many checkpoints each party keeps, the last ones; a run can go back to a round that all of them have."""
    split: bool = True
    """Whether the model is split; if false, clients train the whole model and only adapters travel (FedLoRA).
    """

    @field_validator("clip_norm")
    @classmethod
    def _zero_is_off(cls, clip_norm: float | None) -> float | None:
        return clip_norm or None
