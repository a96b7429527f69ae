"""What a run tells whoever watches it, such as a progress bar; knows nobody who does.

A new observer is one class that overrides what is of interest; `train(..., observers=[...])` takes it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitcom.aggregation import Update
from splitcom.server.peers import Standing
from splitcom.server.waits import Missing

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """After each optimisation step of the server, or each round of clients that train alone."""

    round: int
    step: int
    num_steps: int
    loss: float | None  # nats per labelled token, mean over the step's clients; None in the U-shape
    skip_ratio: float  # of activation_up, over the step's samples
    total_bytes: int  # since the start of the run
    thresholds: Mapping[str, float] = field(
        default_factory=dict
    )  # or steps, by flow, of those a controller sets
    seconds: Mapping[str, float] = field(
        default_factory=dict
    )  # of the server since the step before, by phase


class Observer:
    """Hears of everything and does nothing; override what is of interest."""

    is_essential = False
    """Whether the run cannot go on if this one fails; the failure of any other is a warning."""

    def on_begin(self, standings: Callable[[], Mapping[str, Standing]]) -> None:
        """The server is there; `standings` tells where each client stands, from any thread."""

    def on_gather(self, missing: Callable[[], Missing | None]) -> None:
        """The server is there; `missing` tells who has not come yet that a round waits for, from any thread."""

    def on_saved(self, round_index: int) -> None:
        """All state after this round is on the disk."""

    def on_rows(self, what: str, done: int, total: int) -> None:
        """While data are loaded, from time to time: what is done, of how many rows; a total of 0 is not known yet."""

    def on_data(self, encoding: str, partition: str) -> None:
        """The data are loaded; what encoding cut, and which client got what."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_merge(self, updates: Sequence[Update]) -> None:
        """What clients have made of the shared adapter is to be merged now; under masks their mean, as one update."""

    def on_evaluation(self, round_index: int, done: int, total: int) -> None:
        """`done` of `total` held-out samples have been evaluated."""

    def on_text(self, done: int, total: int) -> None:
        """`done` of `total` held-out prompts have been continued, after training."""

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """A round is done; its lines of metrics.jsonl, one for each client. One that was repeated is told again."""


class Observers(Observer):
    """Tells all of them, in their order; one that fails is warned of once and hears of what follows all the same.

    >>> class Loud(Observer):
    ...     def on_text(self, done, total):
    ...         print(f"{done} of {total}")
    >>> Observers([Observer(), Loud()]).on_text(3, 8)
    3 of 8
    """

    is_essential = True  # it lets the failures of those pass that are

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self._failed: set[int] = set()  # places

    def on_begin(self, standings: Callable[[], Mapping[str, Standing]]) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_begin(standings))

    def on_gather(self, missing: Callable[[], Missing | None]) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_gather(missing))

    def on_saved(self, round_index: int) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_saved(round_index))

    def on_rows(self, what: str, done: int, total: int) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_rows(what, done, total))

    def on_data(self, encoding: str, partition: str) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_data(encoding, partition))

    def on_step(self, report: StepReport) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_step(report))

    def on_merge(self, updates: Sequence[Update]) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_merge(updates))

    def on_evaluation(self, round_index: int, done: int, total: int) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_evaluation(round_index, done, total))

    def on_text(self, done: int, total: int) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_text(done, total))

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Tell all of them."""
        self._tell(lambda observer: observer.on_round(lines))

    def _tell(self, event: Callable[[Observer], None]) -> None:
        for place, observer in enumerate(self._observers):
            try:
                event(observer)
            except Exception as error:
                if observer.is_essential:
                    raise
                if place not in self._failed:
                    self._failed.add(place)
                    name = type(observer).__name__
                    _LOG.warning("%s has failed, and training goes on: %r", name, error)
                    _LOG.debug("how %s has failed", name, exc_info=error)
