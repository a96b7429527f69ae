"""How much of what crosses the network evaluation may be (`evaluation.share`); knows no message.

rows that are evaluated: the same of each client every time ─► losses can be compared
rounds in between: only while enough is left for the end ─► the exact pass at the end: as many rows as are left for
"""

from collections.abc import Mapping

from splitcom.flows import FLOWS
from splitcom.state import State

_PASSES = 2  # before training and after it: what rows are chosen for
_EXACT = 1.8  # of a first visit: a row that is sent for the first time in the exact step; measured 1.7


class Budget:
    """What evaluation may send, from what it and training have sent so far; without a share, everything."""

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._row_bytes = 0.0  # of a first visit, the dearest

    def rows(self, num_samples: int, num_held_out: int) -> int:
        """How many of a client's held-out rows are evaluated each time: one at least.

        As many training samples make several times as much, in one epoch or more.

        >>> Budget(0.1).rows(200, 40), Budget(0.1).rows(8, 40), Budget(None).rows(8, 40)
        (10, 1, 40)
        """
        if self._share is None:
            return num_held_out
        return min(num_held_out, max(1, round(self._share * num_samples / _PASSES)))

    def take_note(self, num_bytes: int, num_rows: int) -> None:
        """An evaluation of so many rows has sent so much."""
        if num_rows:
            self._row_bytes = max(self._row_bytes, num_bytes / num_rows)

    def has_room(self, sent: Mapping[str, int], num_rows: int) -> bool:
        """Whether these rows may be evaluated now, and twice more at the end."""
        return self._left(sent) >= 3 * num_rows * self._row_bytes

    def exact_rows(
        self, sent: Mapping[str, int], rows: Mapping[str, int], held: Mapping[str, int]
    ) -> dict[str, int]:
        """How many of each client's `held` rows the last pass is over: the evaluated ones, and more if there is room.

        >>> budget = Budget(0.1)
        >>> budget.take_note(100, 2)
        >>> budget.exact_rows({"activation_up": 5_000, "evaluation": 220}, {"a": 2}, {"a": 40})
        {'a': 3}
        """
        unseen = sum(held[name] - rows[name] for name in rows)
        room = self._left(sent) - sum(rows.values()) * self._row_bytes
        part = (
            1.0 if self._share is None or not unseen else room / (_EXACT * unseen * max(self._row_bytes, 1.0))
        )
        part = min(max(part, 0.0), 1.0)
        return {name: few + int(part * (held[name] - few)) for name, few in rows.items()}

    def _left(self, sent: Mapping[str, int]) -> float:
        if self._share is None:
            return float("inf")
        # without control: of that a run that has been interrupted has a little more, and is to go on to the same bits
        trained = sum(sent[flow] for flow in sent.keys() & FLOWS.keys() - {"evaluation", "control"})
        return self._share * trained - sent["evaluation"]

    def state(self) -> State:
        """What a checkpoint keeps."""
        return State({}, {"row_bytes": self._row_bytes})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        self._row_bytes = state.scalars["row_bytes"]
