"""What all ways of scheduling have in common: the run, its steps, and nothing to keep between rounds."""

from splitcom.server.part import ServerPart, ServerRun
from splitcom.server.steps import Steps
from splitcom.state import State


class Scheduled(ServerPart):
    """Keeps nothing between rounds, unless a way of scheduling says what."""

    def __init__(self, run: ServerRun, steps: Steps) -> None:
        super().__init__(run)
        self._steps = steps

    def state(self) -> State:
        """Nothing."""
        return State()

    def load_state(self, state: State) -> None:
        """Begin the next round with clients that have none."""
        self._states.forget_tasks()
