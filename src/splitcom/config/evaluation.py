"""The settings of evaluation: how often, in which form, and what is generated."""

from splitcom.codecs.config import CodecText
from splitcom.settings import NonNegativeInt, PositiveInt, Section


class EvaluationConfig(Section):
    """Held-out loss after a round; what it sends is a flow like others, and in all totals."""

    every: PositiveInt = 1  # rounds
    batch_size: PositiveInt = 16
    codec: CodecText = "delta > int8 > zstd"  # of held-out samples, in the U-shape both ways
    exact_last: bool = True  # after the last round once more, without a codec
    # of generation, not of classification
    generate: NonNegativeInt = 2  # sentences generated before and after training
    text_samples: NonNegativeInt = 0  # held-out prompts whose continuations are scored at the end
    beams: PositiveInt = 1  # 1: greedy
    max_new_tokens: PositiveInt = 64
