"""The settings of models and adapters; knows no model."""

from typing import Annotated, Literal

from pydantic import Field

from splitcom.settings import NonNegativeInt, Part, PartBelowOne, Place, PositiveFloat, PositiveInt, Section


class ModelConfig(Section):
    """The base model and where it is cut."""

    source: Annotated[str, Field(min_length=1), Place(("bundled",))] = "bundled"
    """The base model: "bundled", a local folder, or a name on the hub."""
    cut: PositiveInt = 2
    """How many blocks the front has, which is the client's part of the model."""
    tail_blocks: NonNegativeInt = 0
    """How many blocks the tail has; 0 is the standard form, without one. With a tail (the U-shape),
    clients also have the end of the model and the loss.
    """
    bottleneck: Part | None = None
    """The part of the hidden width that crosses the cut, through two matrices that learn with the adapters (as in
    ResBM), such as 0.0625; not in the U-shape. None: all of it, and no matrices.
    """
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The number format of the frozen weights, and of what is computed with them; what is trained is float32."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Whether the body's frozen weights are held in 4 or 8 bits (bitsandbytes; fast on CUDA); front and tail keep
    `dtype`.
    """
    device: str = "auto"
    """A torch device; "auto" takes cuda if there is one."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """The implementation of attention; "auto" takes sdpa if the family has it."""

    def crossing_width(self, hidden_size: int) -> int:
        """How many numbers of a token cross the cut, in a model of this hidden width."""
        return max(1, round(hidden_size * (self.bottleneck or 1.0)))


class LoraConfig(Section):
    """The trainable adapters; the same on both sides of the cut."""

    rank: PositiveInt = 8
    """The adapters' rank (r)."""
    cut_rank: PositiveInt | None = None
    """The rank in the last block of each front, at most `rank`, at the same scale (SplitFT); None: the same."""
    alpha: PositiveFloat = 16.0
    """The adapters' scale: what they add is multiplied by alpha / rank."""
    use_rslora: bool = False
    """Whether what adapters add is multiplied by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023,
    2312.03732).
    """
    use_dora: bool = False
    """Whether the size of each output's weights is learnt beside their direction (DoRA, Liu et al. 2024,
    2402.09353); it takes more time and memory.
    """
    init: Annotated[str, Field(min_length=1), Place()] | None = None
    """A folder with a PEFT adapter of this model to begin from; rank, alpha, targets, use_rslora and use_dora are
    taken from it.
    """
    dropout: PartBelowOne = 0.0
    """The part of an adapter's inputs that is dropped in training."""
    targets: Annotated[list[str], Field(min_length=1)] | Annotated[str, Field(min_length=1)] | None = (
        "all-linear"
    )
    """The modules that get adapters: "all-linear" (of the blocks, without experts), names, or a regular expression
    of whole names; None takes peft's choice for the family, which sends less and learns less.
    """
    modules_to_save: Annotated[list[str], Field(min_length=1)] | None = None
    """Modules outside the blocks that are trained as a whole beside the adapters, as peft's setting of
    this name does: such as ["embed_tokens", "lm_head"] for tokens that were added. They are sent as a
    whole in every round. Not possible if the LM head is tied to the embeddings.
    """
    train_front: bool | Literal["auto"] = "auto"
    """Whether the front gets an adapter; if it has none and no soft prompt, each activation is the same in every
    epoch, and no gradient comes back. "auto": yes, but not in the method splitcom if a controller may freeze
    fronts, as in all presets but paper, and the front is a tenth of the model's blocks at most, which
    have little to learn.
    """
    train_body: bool = True
    """Whether the body gets an adapter; if false, gradients pass through it, and clients alone learn."""
    prompt_tokens: NonNegativeInt = 0
    """How many vectors stand before each text and are learnt in place of words (a soft prompt, of the front); they
    count in data.max_tokens and cross the cut like tokens.
    """
    train_a: bool = True
    """Whether both of LoRA's matrices learn; if false, only B does, and A stays as it was drawn (FFA-
    LoRA).
    """
    train_head: bool = False
    """Whether the LM head gets an adapter; not possible if it is tied to the embeddings."""

    @property
    def front_learns(self) -> bool:
        """Whether a front has anything to learn, so that it needs gradients and its activations change."""
        return self.train_front is not False or self.prompt_tokens > 0
