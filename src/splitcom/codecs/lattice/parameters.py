"""The parameters of the lattice, as the text of a codec names them: predict > klt > uniform > range.

They say what `codec` does and do nothing themselves.
"""

from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from splitcom.codecs.element import Element, Place, register
from splitcom.language import ArgumentError

COLUMN_BITS = 8
MAX_COLUMNS = (1 << COLUMN_BITS) - 1
"""Most other sums that a packet makes right."""
DIMENSION_BITS = 12
"""A basis has fewer than 2 to this power directions."""


@dataclass(frozen=True)
class Parameter(Element):
    """One of the four."""


@register
@dataclass(frozen=True)
class Predict(Parameter):
    """Code what a prediction misses: from a reference moved by a drift map, or from a token sent before.

    Args:
        window: how many recent tokens a pointer can name; 0 for none.
        rank: of an update of the drift map in one packet; 0 for no map.
        gain: how much of a token that a pointer names is taken for the prediction: all of it, or by direction what has
            been "fitted" to the packet's tokens. Similar tokens are alike in strong directions, less so in weak ones.
        guess: what else tokens of samples without a reference are predicted from: nothing, or what the base model's
            front makes of the "labels", which the receiver holds too.
    """

    name = "predict"
    example = "predict > klt > uniform(0.75) > range"
    place = Place.PREDICT

    window: int = 8192
    rank: int = 4
    gain: Literal["one", "fitted"] = "one"
    guess: Literal["none", "labels"] = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1 << 20:
            raise ArgumentError("window", f"must be 0 to {1 << 20}, not {self.window}")
        if not 0 <= self.rank <= 255:
            raise ArgumentError("rank", f"must be 0 to 255, not {self.rank}")


@register
@dataclass(frozen=True)
class Klt(Parameter):
    """The directions in which a flow varies most (Karhunen-Loève), each sent once, when first needed.

    Args:
        dims: most directions; what varies outside of them is lost. Without it, as many as are worth having.
        threshold: a direction is worth having where the values vary by more than this part of a step along it.
        centre: what a token is that has no coordinates: "mean", that of the first packet; or "sum", zero but for what
            makes the sum of the packet's tokens right. Of gradients sums are what counts: they are small sums of large
            terms, and what all tokens' errors have in common adds up where the rest cancels.
        along: with "sum", how many other sums are made right: of the tokens' products with the strongest directions of
            what both ends have of them already, such as the activations that gradients answer. 0: none. Packets of
            few tokens have one for each 16.
    """

    name = "klt"
    example = "klt(128) > uniform(0.75) > range"
    place = Place.TRANSFORM

    dims: int = (1 << DIMENSION_BITS) - 1
    threshold: float = 0.5
    centre: Literal["mean", "sum"] = "mean"
    along: int = 0

    @override
    def __str__(self) -> str:
        # packets name their codec by its text, which stays as it was when dims had to be given
        return super().__str__().replace("dims=", "")

    def __post_init__(self) -> None:
        if not 1 <= self.dims < 1 << DIMENSION_BITS:
            raise ArgumentError("dims", f"must be 1 to {(1 << DIMENSION_BITS) - 1}, not {self.dims}")
        if not self.threshold > 0:
            raise ArgumentError("threshold", f"must be above 0, not {self.threshold:g}")
        if not 0 <= self.along <= MAX_COLUMNS:
            raise ArgumentError("along", f"must be 0 to {MAX_COLUMNS}, not {self.along}")
        if self.along and self.centre != "sum":
            raise ArgumentError("along", "needs centre=sum")


@register
@dataclass(frozen=True)
class Uniform(Parameter):
    """One step for all directions.

    Args:
        step: in units of the root mean square of the values around their mean over the tokens (around zero, where klt
            keeps the sum): of the first packet; of each, where klt keeps the sum and nothing is predicted. A
            controller can set another for a packet, from 1/8 to 32 times this one in eighths of it.
        dead_zone: values up to this part of a step beyond half a step are taken for zero.
        first: of samples without a reference the dead zone is this part as wide, 0 for none: what it shrinks there
            costs more than a larger step does.
        prompt: tokens that nothing is learnt from or at (a prompt's) have a step this many times as large. Where this
            is more than 1, packets say which tokens these are, about a byte for each sample: so the receiver knows.
    """

    name = "uniform"
    example = "klt > uniform(0.75, dead_zone=0.3) > range"
    place = Place.NUMBER

    step: float
    dead_zone: float = 0.0
    prompt: int = 1
    first: float = 1.0

    def __post_init__(self) -> None:
        if not 1e-3 <= self.step <= 1e3:
            raise ArgumentError("step", f"must be 0.001 to 1000, not {self.step:g}")
        if not -0.5 <= self.dead_zone <= 0.5:
            raise ArgumentError("dead_zone", f"must be -0.5 to 0.5, not {self.dead_zone:g}")
        if not 0 <= self.first <= 1:
            raise ArgumentError("first", f"must be 0 to 1, not {self.first:g}")
        if not 1 <= self.prompt <= 16:
            raise ArgumentError("prompt", f"must be 1 to 16, not {self.prompt}")


@register
@dataclass(frozen=True)
class Range(Parameter):
    """Adaptive range coding of the steps of `uniform`, with statistics that last as long as the flow."""

    name = "range"
    example = "klt > uniform(0.75) > range"
    place = Place.ENTROPY
