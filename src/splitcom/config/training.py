"""The settings of training: how long and how fast."""

from typing import Literal

from pydantic import field_validator

from splitcom.settings import NonNegativeFloat, PartBelowOne, PositiveFloat, PositiveInt, Section


class TrainingConfig(Section):
    """How long and how fast."""

    rounds: PositiveInt = 5
    local_epochs: PositiveInt = 1  # passes of a client over its data per round
    batch_size: PositiveInt = 8  # per client
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: PartBelowOne = 0.02  # part of the run
    clip_norm: NonNegativeFloat | None = 1.0  # per part: no party knows the other's norm; 0 or None: off
    body_update: Literal["parallel", "sequential"] = "parallel"
    checkpoint_every: PositiveInt = 1  # rounds
    split: bool = True  # false: clients train the whole model and only adapters travel

    @field_validator("clip_norm")
    @classmethod
    def _zero_is_off(cls, clip_norm: float | None) -> float | None:
        return clip_norm or None
