"""Who writes down what a run tells: the lines of metrics.jsonl, as each round ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from splitcom.metrics.record import RunFolder
from splitcom.server.observe import Observer


class Record(Observer):
    """Keeps a run folder's metrics.jsonl; a run that cannot be recorded ends, and is resumed from its last round."""

    is_essential = True

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines in place of those that a round which is repeated has left."""
        self._folder.append_metrics(lines)
