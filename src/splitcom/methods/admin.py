"""What whoever runs a server may ask of it while it runs: who is there, and that a client be dropped or replaced.

    splitcom admin ─► OUT/.admin/socket ─► a thread of the server ─► orders to the federation, and who has a seat

The socket is in a folder that is its owner's alone (0700; itself 0600), so whoever can ask is the user that the server
runs as, or root; nothing of it is on the network. A question and its answer are a line of JSON each.
"""

import json
import logging
import os
import shutil
import socket
import socketserver
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splitcom.durable import make_folder, make_private
from splitcom.errors import RunError, SplitComError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.methods.monitor import Snapshot
from splitcom.methods.seats import Seats
from splitcom.server.observe import Observer
from splitcom.transports.events import Admitted, Excluded
from splitcom.transports.thread import start
from splitcom.transports.tls import check_name

_LOG = logging.getLogger(__name__)
_FOLDER, _SOCKET = ".admin", "socket"
_LONGEST_PATH = 100  # bytes; systems differ, and none takes less
_TIMEOUT_S = 5.0
_MOST_BYTES = 1 << 26
_AWAY = ("gone", "failed", "excluded", "not here")  # of standings


class Drained(RunError):  # noqa: N818  (an event, no error)
    """The server has ended after a saved round, as it was asked to."""


class Drain(Observer):
    """Ends a run after the next round that is saved, if that is asked for and it is not the last one."""

    is_essential = True

    def __init__(self, rounds: int) -> None:
        self.is_asked = False
        self._rounds = rounds

    def on_saved(self, round_index: int) -> None:
        """Raise Drained if it is asked for."""
        if self.is_asked and round_index < self._rounds:
            raise Drained(f"stopped after round {round_index}, which is saved; go on with --resume")


class Admin:
    """Answers questions; `order` takes what is decided to the federation, `snapshot` tells where the run stands."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        order: Callable[[Excluded | Admitted], None],
        seats: Seats,
        drain: Drain,
    ) -> None:
        self._snapshot = snapshot
        self._order = order
        self._seats = seats
        self._drain = drain

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked; raises RunError, and IdentityError for what is no name, if it cannot be."""
        match question:
            case {"ask": "list"}:
                return {"snapshot": asdict(self._snapshot())}
            case {"ask": "drop", "client": str(client), "reason": str(reason)}:
                return {"said": self._drop(client, reason)}
            case {"ask": "replace", "client": str(client), "by": str(successor)}:
                return {"said": self._replace(client, successor)}
            case {"ask": "admit", "client": str(client)}:
                return {"said": self._admit(client)}
            case {"ask": "drain"}:
                self._drain.is_asked = True
                return {"said": "the server ends when the next round is saved; clients wait for it"}
        raise RunError(f"{question}: no such question; both sides must be of the same release")

    def _drop(self, client: str, reason: str) -> str:
        self._check_known(client)
        self._exclude(Excluded(client, reason), None)
        return f"{client} takes no part any more; another may have its place"

    def _replace(self, client: str, successor: str) -> str:
        self._check_known(client)
        standing = self._snapshot().standings.get(check_name(successor))
        if standing is not None and standing.state not in _AWAY:
            raise RunError(f"{successor} takes part already, and cannot have the place of {client}, too")
        self._exclude(Excluded(client, f"{successor} has taken its place", replaced=True), successor)
        self._order(Admitted(successor))
        return f"{successor} may join in the place of {client}"

    def _admit(self, client: str) -> str:
        standing = self._snapshot().standings.get(client)
        if not self._seats.admit(client) and (standing is None or standing.state != "excluded"):
            raise RunError(f"{client} is not excluded")
        self._order(Admitted(client))
        return f"{client} may take part again"

    def _exclude(self, order: Excluded, successor: str | None) -> None:
        self._seats.exclude(order, successor)
        self._order(order)

    def _check_known(self, client: str) -> None:
        known = self._snapshot().standings
        if client not in known:
            raise RunError(
                f"{client} has not been seen since the server was started; there are "
                f"{', '.join(sorted(known)) or 'none'}. To begin without a client that never came, start the server "
                "with --resume and a smaller federation.clients"
            )


@contextmanager
def listening(run: Path, admin: Admin) -> Iterator[None]:
    """Answer questions until the block is left; where there can be no such socket, that is a warning."""
    folder = run / _FOLDER

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            connection.settimeout(_TIMEOUT_S)
            try:
                answer = admin.answer(json.loads(_line_of(connection)))
            except SplitComError as error:
                answer = {"error": str(error)}
            except (OSError, ValueError) as error:
                answer = {"error": f"no question: {error}"}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                _LOG.warning("splitcom admin: the answer could not be sent: %s", error)

    shutil.rmtree(folder, ignore_errors=True)  # of a server that was killed
    try:
        make_folder(folder, private=True)
        make_private(folder)
        with _address(folder) as address:
            server = socketserver.UnixStreamServer(address, Handler)
        (folder / _SOCKET).chmod(0o600)
    except (OSError, AttributeError) as error:  # AttributeError: Windows has none
        _LOG.warning("%s: `splitcom admin` cannot be used, as its socket cannot be made: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        yield
        return
    thread = start(
        "admin", server.serve_forever, lambda error: _LOG.error("no admin any more", exc_info=error)
    )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        shutil.rmtree(folder, ignore_errors=True)


def ask(run: Path, **question: str) -> dict[str, Any]:
    """Ask the server of a run something; raises RunError with its reason, or if no server is there."""
    folder = run / _FOLDER
    try:
        with _address(folder) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(address)
            connection.sendall(json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_line_of(connection))
    except PermissionError as error:
        raise RunError(f"{folder}: not yours; ask as the user that the server runs as") from error
    except (OSError, AttributeError, ValueError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error})"
        raise RunError(
            f"{run}: no server of this run answers on this machine{why}; name the folder that it has as --out"
        ) from error
    if "error" in answer:
        raise RunError(visible(answer["error"], PEER_CHARACTERS))
    return answer


def snapshot_of(run: Path) -> Snapshot:
    """Where a run stands that a server on this machine serves; raises RunError if there is none."""
    return Snapshot.of(ask(run, ask="list")["snapshot"])


def _line_of(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        return file.readline(_MOST_BYTES)


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's address, which may be no longer than systems take."""
    path = str(folder.absolute() / _SOCKET)
    if len(os.fsencode(path)) <= _LONGEST_PATH or sys.platform != "linux":
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)
