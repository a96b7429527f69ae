"""The settings of models and adapters; knows no model."""

from typing import Annotated, Literal

from pydantic import Field

from splitcom.settings import NonNegativeInt, PartBelowOne, Place, PositiveFloat, PositiveInt, Section


class ModelConfig(Section):
    """The base model and where it is cut."""

    source: Annotated[str, Field(min_length=1), Place(("bundled",))] = (
        "bundled"  # "bundled", a local folder, or a name on the hub
    )
    cut: PositiveInt = 2  # blocks in the front
    tail_blocks: NonNegativeInt = 0  # blocks that the client has behind the body; 0: no U-shape
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"  # "auto" takes cuda where there is one
    attention: Literal["auto", "eager", "sdpa"] = "auto"  # "auto" takes sdpa if the family has it


class LoraConfig(Section):
    """The trainable adapters; the same on both sides of the cut."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: PartBelowOne = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | None = (
        None  # module names; None takes peft's choice for the model's family
    )
    train_front: bool = True  # false: the frozen front, a baseline
    train_head: bool = False  # LoRA on the LM head too; impossible where it is tied to the embeddings
