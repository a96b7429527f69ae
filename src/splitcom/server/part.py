"""What every part of the server works with in a run; knows nothing of what the parts do with it."""

from typing import NamedTuple

from splitcom.config import Config
from splitcom.server.conversations import Conversations
from splitcom.server.shared import SharedAdapter
from splitcom.server.state import ClientStates


class ServerRun(NamedTuple):
    """A run as all parts of the server see it."""

    config: Config
    clients: Conversations
    states: ClientStates
    adapter: SharedAdapter


class ServerPart:
    """Has the run's settings, conversations, client states and shared adapter at hand."""

    def __init__(self, run: ServerRun) -> None:
        self._config, self._clients, self._states, self._adapter = run
