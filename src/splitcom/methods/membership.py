"""What a client keeps on its disk of a run that it takes part in; knows nothing of what is in its states.

    STATE/<name>/<run>/
        .lock             held by the one process that is this client
        joined.json       where the server is, how long the run is, what was agreed to, whether it is over
        rows.json         fingerprints of the rows
        round-00007/      states, see training/store.py
        references/       scratch space

The name is that of the certificate, so that clients that share a folder have nothing in common. All of it is its
owner's alone. When the run is over, only joined.json is left, by which a client that is started again knows that it is.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from splitcom.durable import is_partial, make_folder, make_private, write_atomic
from splitcom.errors import RunError
from splitcom.lock import NAME as LOCK
from splitcom.lock import locked
from splitcom.training.store import PartyStore

_NOTE = "joined.json"


@dataclass(frozen=True)
class Note:
    """What a client writes down when it joins; `agreed` is what it lets leave this machine."""

    address: str
    rounds: int
    agreed: Mapping[str, Any] = field(default_factory=dict)
    is_over: bool = False


class Membership:
    """One client's folder of one run; `run` is the server's identifier of it, which names no other folder."""

    def __init__(self, state: Path, name: str, run: str) -> None:
        self._state = state
        self._name = name
        self.folder = state / name / run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and be the one process that uses it; raises RunError where another is, or it cannot be."""
        refusal = f"{self._name} takes part in this run there already; stop that one first, or let it go on"
        with ExitStack() as stack:
            try:
                make_folder(self._state.parent)
                make_folder(self.folder, private=True)
                self.folder.parent.chmod(0o700)
                stack.enter_context(locked(self.folder / LOCK, refusal))
                for path in self.folder.iterdir():
                    if is_partial(path):  # of a process that was killed
                        _remove(path)
                make_private(self.folder)
            except OSError as error:
                raise RunError(
                    f"{self.folder}: cannot be written ({error.strerror or error}); choose another folder with --state"
                ) from error
            yield

    @property
    def note(self) -> Note | None:
        """What was written down; None if this client has not joined, or the file is damaged."""
        try:
            return Note(**json.loads((self.folder / _NOTE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, note: Note) -> None:
        """Write it down."""
        content = json.dumps(asdict(note), indent=1)
        write_atomic(self.folder / _NOTE, content.encode(), private=True)

    def end(self, note: Note, *, keeps_state: bool) -> None:
        """The run is over: only the note is left, unless the state is to be kept."""
        self.write(replace(note, is_over=True))
        if not keeps_state:
            self._clear()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in (_NOTE, LOCK):
                _remove(path)

    def is_complete(self, address: str) -> bool:
        """Whether the server at this address has nothing left for this client to do."""
        note = self.note
        return (
            note is not None
            and note.address == address
            and (note.is_over or note.rounds in PartyStore(self.folder).rounds())
        )


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def last_membership(state: Path, name: str, address: str) -> Membership | None:
    """The client's folder of the run at this address that it has joined last."""
    found = []
    for path in (state / name).glob(f"*/{_NOTE}"):
        membership = Membership(state, name, path.parent.name)
        if (note := membership.note) is not None and note.address == address:
            found.append((path.stat().st_mtime_ns, membership))
    return max(found, key=lambda pair: pair[0])[1] if found else None
