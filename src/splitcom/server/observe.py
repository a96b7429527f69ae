"""What a run tells whoever watches it, such as a progress bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """After each optimisation step of the server, or each round of clients that train alone."""

    round: int
    step: int
    num_steps: int
    loss: float | None  # nats per labelled token, mean over the step's clients; None in the U-shape
    skip_ratio: float  # of activation_up, over the step's samples
    total_bytes: int  # since the start of the run, evaluation not included
    thresholds: Mapping[str, float] = field(default_factory=dict)  # by flow, of those that a controller sets


class Observer:
    """Hears of everything and does nothing; override what is of interest."""

    def on_data(self, encoding: str, partition: str) -> None:
        """The data are loaded; what encoding cut, and which client got what."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_evaluation(self, round_index: int, done: int, total: int) -> None:
        """`done` of `total` held-out samples have been evaluated."""

    def on_text(self, done: int, total: int) -> None:
        """`done` of `total` held-out prompts have been continued, after training."""

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """A round is done; its lines of metrics.jsonl, one for each client."""
