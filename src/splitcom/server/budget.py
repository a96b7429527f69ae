"""How much of what crosses the network evaluation may be (`evaluation.share`); knows no message.

The same rows of each client every time and with every method, so that losses can be compared: as many as the share
leaves room for, and no fewer than tell something. Those few are evaluated even where they are more than the share.
"""

from collections.abc import Mapping

from splitcom.config import Config
from splitcom.flows import FLOWS
from splitcom.state import State

_LEAST = 12  # rows of all clients
_LEAST_OF_CLASSES = 200  # of which a row has one label, and a row of text has many
_PASSES = 4  # first visits that a row takes before, during and after training, and some room
_LATER = 0.25  # of a first visit, until a later one has been measured: half to a tenth with the default codec


class Budget:
    """What evaluation may send, from what it and training have sent so far; without a share, everything."""

    def __init__(self, share: float | None, least: int = _LEAST) -> None:
        self._share, self._least = share, least
        self._first = 0.0  # bytes of a row's first visit; the exact pass is about as dear
        self._later: float | None = None
        self._num_clients = 0  # the most that have been there: one that goes changes nothing for the others

    @classmethod
    def of(cls, config: Config) -> "Budget":
        """That of a run."""
        return cls(config.evaluation.share, _LEAST if config.data.classes is None else _LEAST_OF_CLASSES)

    def rows(self, num_samples: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
        """How many of each client's `held` rows are evaluated each time.

        As many training samples make several times as much, in one epoch or more.

        >>> Budget(0.1).rows({"a": 800, "b": 8}, {"a": 40, "b": 40}), Budget(None).rows({"a": 8}, {"a": 40})
        ({'a': 20, 'b': 6}, {'a': 40})
        """
        if self._share is None:
            return dict(held)
        part, least = self._share / _PASSES, self._least_of_each(held)
        return {
            name: min(number, max(least, round(part * num_samples[name]))) for name, number in held.items()
        }

    def take_note(self, num_bytes: float, num_rows: int) -> None:
        """An evaluation of so many rows has sent so much."""
        if num_rows and num_bytes / num_rows > self._first:
            self._first = num_bytes / num_rows
        elif num_rows:
            self._later = num_bytes / num_rows

    def has_room(self, sent: Mapping[str, float], rows: Mapping[str, int]) -> bool:
        """Whether these rows of clients may be evaluated now, and exactly at the end."""
        if self._share is None or all(number <= self._least_of_each(rows) for number in rows.values()):
            return True
        # without control: of that a run that has been interrupted has a little more, and is to go on to the same bits
        trained = sum(sent[flow] for flow in sent.keys() & FLOWS.keys() - {"evaluation", "control"})
        later = _LATER * self._first if self._later is None else self._later
        return self._share * trained - sent["evaluation"] >= sum(rows.values()) * (later + self._first)

    def _least_of_each(self, rows: Mapping[str, int]) -> int:
        self._num_clients = max(self._num_clients, len(rows), 1)
        return -(-self._least // self._num_clients)

    def state(self) -> State:
        """What a checkpoint keeps."""
        return State({}, {"first": self._first, "later": self._later, "clients": self._num_clients})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        self._first, self._later = state.scalars["first"], state.scalars["later"]
        self._num_clients = state.scalars.get("clients", 0)
