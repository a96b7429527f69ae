"""The settings of training: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

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
    """How many rounds there are; after each one, the clients' adapters are averaged."""
    local_epochs: PositiveInt = 1
    """How often a client goes through its data in a round."""
    max_steps: PositiveInt | None = None
    """The most steps of a client in the whole run, shared out evenly over its rounds; false: no limit, all
    of its batches in every round.
    """
    batch_size: PositiveInt = 8
    """Samples of one client in a step."""
    accumulate: PositiveInt = 1
    """In how many passes a client computes a step: the gradients are the same but for rounding, the memory is
    that of one pass. Samples of similar length go together, which saves padding. The server has
    engine.max_tokens_per_pass.
    """
    optimizer: Literal["adamw", "adamw_fused", "adafactor", "adamw8bit"] = "adamw"
    """The optimizer of all parts. adafactor needs the least memory; adamw8bit needs bitsandbytes and CUDA."""
    lr: PositiveFloat = 1e-3
    """The highest learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """How much of itself a weight loses in a step, times the learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    label_smoothing: PartBelowOne = 0.0
    """The part of a label's weight that is spread evenly over all tokens or classes; held-out losses have none."""
    warmup: PartBelowOne = 0.02
    """The part of the run in which the learning rate rises."""
    clip_norm: NonNegativeFloat | None = 1.0
    """The largest norm of a gradient, of each part by itself, since no party knows the other's norm; None or
    0: off.
    """
    body_update: Literal["parallel", "sequential"] = "parallel"
    """Whether the body learns from the clients' batches of a step together, or from one after the other."""
    body_steps: PositiveInt = 1
    """Steps that the body takes on each batch that arrives. Clients get the gradient of the first; the others cost
    them nothing and send nothing, and spare rounds where the link is slow: data echoing, Choi et al. 2019 (1907.05550).
    """
    checkpoint_every: PositiveInt = 1
    """Rounds between two checkpoints."""
    keep: Literal["last", "best"] = "last"
    """Which adapter is kept at the end: the "last" one, or the "best" one, with the lowest held-out loss
    of all evaluations, the one before training included.
    """
    patience: NonNegativeInt = 0
    """The run ends after so many evaluations in a row without a lower held-out loss; 0: it goes through
    all rounds.
    """
    keep_checkpoints: Annotated[int, Field(ge=2, le=2**31 - 1, strict=True)] = 2
    """How many checkpoints each party keeps, the last ones; a run can go back to a round that all of them have."""
    split: bool = True
    """Whether the model is split; if false, clients train the whole model and only adapters travel (FedLoRA).
    """

    @model_validator(mode="after")
    def _a_step_in_each_round(self) -> Self:
        if self.max_steps is not None and self.max_steps < self.rounds:
            raise ValueError(
                f"training.max_steps = {self.max_steps}: training.rounds = {self.rounds} share these steps, "
                "and each round needs one; lower training.rounds, or raise this"
            )
        return self

    @field_validator("clip_norm")
    @classmethod
    def _zero_is_off(cls, clip_norm: float | None) -> float | None:
        return clip_norm or None
