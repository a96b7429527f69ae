"""The settings of evaluation: how often, in which form, and what is generated."""

from splitcom.codecs.config import CodecText
from splitcom.settings import NonNegativeInt, Part, PositiveInt, Section
from splitcom.settings.presets import EVALUATION


class EvaluationConfig(Section):
    """The held-out loss after a round. What it sends is a flow like the others, and is in all totals."""

    every: PositiveInt = 1
    """Rounds between two evaluations."""
    batch_size: PositiveInt = 16
    """Held-out samples of one client in a step."""
    codec: CodecText = EVALUATION
    """The codec of held-out samples, in the U-shape both ways."""
    share: Part | None = 0.1
    """The most that evaluation may send, as a part of what training sends: the same few of the held-out rows are
    evaluated every time, a dozen at least, and after fewer rounds if there is no room for more. None: all rows.
    """
    exact_last: bool = True
    """Whether the last loss is measured once more, and exactly: in so fine a step that it is right to about a tenth of
    a per cent, or without a codec if this one has none so fine. With codec = "none" every loss is exact to the last
    bit.
    """
    generate: NonNegativeInt = 2
    """How many sentences are generated before and after training."""
    text_samples: NonNegativeInt = 0
    """How many held-out prompts are continued and scored at the end."""
    beams: PositiveInt = 1
    """Beams of the search that generates text; 1 is greedy."""
    max_new_tokens: PositiveInt = 64
    """The longest continuation, in tokens."""
