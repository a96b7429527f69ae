"""How dense adapters are sent, by how far the training loss has fallen; knows no codec and no message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any


@dataclass
class Density:
    """EcoLoRA's rule (2506.02001): density = least + (most - least) * exp(-rate * (first loss - last loss)).

    `share` is the exponential, at most 1; None with a rate of 0, or before there are two losses to compare. Losses are
    the means over a round's labels, in training: those the server has without an evaluation. The first is that of the
    first round.

    >>> density = Density(2.0)
    >>> for loss in (3.0, 2.5):
    ...     density.observe([{"loss": loss, "labels": 4}])
    >>> round(density.share, 4)
    0.3679
    """

    rate: float
    first: float | None = None
    last: float | None = None

    @property
    def share(self) -> float | None:
        """Of the way from the least density to the most, 0 to 1."""
        if not self.rate or self.first is None or self.last is None:
            return None
        return exp(min(-self.rate * (self.first - self.last), 0.0))

    def observe(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hear of a round by its lines of metrics.jsonl."""
        losses = [(line["loss"], line["labels"]) for line in lines if line["loss"] is not None]
        if not (total := sum(labels for _, labels in losses)):
            return
        self.last = sum(loss * labels for loss, labels in losses) / total
        if self.first is None:
            self.first = self.last
