"""Who may take part in a run over a network: the names that are allowed, and what its operator has decided since.

    OUT/seats.json    who is excluded and why, whether another has taken the place, and who has been let in beside
                      `federation.names`; so that a server that is started again knows it, too

Knows no connection; may be used from any thread.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from splitcom.durable import write_atomic
from splitcom.errors import RunError
from splitcom.transports.events import Excluded
from splitcom.transports.tls import check_name

_FILE = "seats.json"


class Seats:
    """`names` are those of the run's clients, None if any certificate of the authority will do.

    Raises IdentityError if one of them is no name, RunError if the file below `folder` cannot be read.
    """

    def __init__(self, names: Sequence[str] | None, folder: Path) -> None:
        self._names = None if names is None else frozenset(map(check_name, names))
        self._path = folder / _FILE
        self._lock = Lock()
        self._excluded: dict[str, Excluded] = {}
        self._added: list[str] = []
        if self._path.exists():
            try:
                kept = json.loads(self._path.read_text(encoding="utf-8"))
                self._excluded = {order["client"]: Excluded(**order) for order in kept["excluded"]}
                self._added = [check_name(name) for name in kept["added"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{self._path}: cannot be read ({error}); remove it, and exclude again who is to be excluded"
                ) from error

    @property
    def excluded(self) -> list[Excluded]:
        """Who is to take no part."""
        with self._lock:
            return list(self._excluded.values())

    def barred(self, name: str) -> str | None:
        """Why a client may take no part; None if it may."""
        order = self._excluded.get(name)
        if order is not None:
            return order.reason
        if self._names is None or name in self._names or name in self._added:
            return None
        return f"{name} is none of this run's clients: its operator has not named it in federation.names"

    def exclude(self, order: Excluded, successor: str | None = None) -> None:
        """Keep one client out, and let in the one that takes its place."""
        with self._lock:
            self._excluded[order.client] = order
            if successor is not None:
                self._excluded.pop(successor, None)
                self._added.append(successor)
            self._keep()

    def admit(self, name: str) -> bool:
        """Let in again who has been excluded; returns whether it was."""
        with self._lock:
            was = self._excluded.pop(name, None) is not None
            self._keep()
            return was

    def _keep(self) -> None:
        kept = {"excluded": [asdict(order) for order in self._excluded.values()], "added": self._added}
        write_atomic(self._path, json.dumps(kept, indent=1).encode(), private=True)
