"""The count of bytes per flow, client and round, as serialised; knows no message and no codec."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from splitcom.flows import FLOWS, SUMS
from splitcom.metrics.tally import Tally


class Ledger:
    """Counts bytes; up, down and total are of all flows, evaluation included.

    What was counted after the last checkpoint is lost with a process that dies. `tally` tells how much that was.

    >>> ledger = Ledger()
    >>> ledger.count("clinic", {"activation_up": 100, "control": 7}, upwards=True)
    >>> ledger.count("clinic", {"evaluation": 50}, upwards=True)
    >>> totals = ledger.totals()
    >>> totals["up"], totals["down"], totals["total"], totals["evaluation"]
    (157, 0, 157, 50)
    """

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally
        self._bytes: dict[str, Counter[str]] = defaultdict(Counter)
        self._round: dict[str, Counter[str]] = defaultdict(Counter)
        self._total: Counter[str] = Counter()  # of both
        self.repeated_bytes = 0

    def count(self, client: str, flows: Mapping[str, int], *, upwards: bool) -> None:
        """Add bytes by flow; control goes both ways, so the direction is told."""
        for flow, size in flows.items():
            if flow not in FLOWS:
                raise ValueError(f"no flow is called '{flow}'; there are {', '.join(FLOWS)}")
            for key in (flow, "up" if upwards else "down", "total"):
                self._round[client][key] += size
                self._total[key] += size
        if self._tally is not None:
            with suppress(OSError):  # on a full disk it is the checkpoint that says so
                self._tally.write(self._ever)

    @property
    def _ever(self) -> int:
        """All bytes that this run has counted, also those that were sent in vain."""
        return self._total["total"] + self.repeated_bytes

    def close_round(self) -> dict[str, dict[str, int]]:
        """The bytes by client and flow since the last call; they now belong to the totals."""
        closed = {client: dict(counter) for client, counter in self._round.items()}
        for client, counter in self._round.items():
            self._bytes[client].update(counter)
        self._round.clear()
        return closed

    def totals(self) -> dict[str, int]:
        """Bytes by flow over all clients and rounds, with up, down and total."""
        return {key: self._total[key] for key in (*FLOWS, *SUMS)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "bytes": {client: dict(counter) for client, counter in self._bytes.items()},
            "repeated_bytes": self.repeated_bytes,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint; what has been counted since then, also before a crash, becomes `repeated_bytes`."""
        before = max(self._ever, 0 if self._tally is None else self._tally.read())
        self._round.clear()
        self._bytes.clear()
        self._total.clear()
        for client, counter in state["bytes"].items():
            self._bytes[client].update(counter)
            self._total.update(counter)
        self.repeated_bytes = max(state["repeated_bytes"], before - self._total["total"])

    def close(self) -> None:
        """Let go of the tally's file."""
        if self._tally is not None:
            self._tally.close()
