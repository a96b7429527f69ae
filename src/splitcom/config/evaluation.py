"""The settings of evaluation: how often, in which form, and what is generated."""

from pydantic import field_validator

from splitcom.codecs import parse
from splitcom.codecs.config import CodecText
from splitcom.settings import NonNegativeInt, PositiveInt, Section


class EvaluationConfig(Section):
    """Held-out loss after a round; its traffic is counted apart."""

    every: PositiveInt = 1  # rounds
    batch_size: PositiveInt = 16
    codec: CodecText = "none"
    # of generation, not of classification
    generate: NonNegativeInt = 2  # sentences generated before and after training
    text_samples: NonNegativeInt = 0  # held-out prompts whose continuations are scored at the end
    beams: PositiveInt = 1  # 1: greedy
    max_new_tokens: PositiveInt = 64

    @field_validator("codec")
    @classmethod
    def _self_contained(cls, codec: str) -> str:
        if parse(codec).needs_references:
            raise ValueError(
                "builds on what a sample sent before, and evaluation keeps nothing of it; use a codec without temporal "
                "and delta, such as 'none' or 'int8'"
            )
        return codec
