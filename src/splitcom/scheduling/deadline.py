"""Rounds that are driven by what arrives, and end without those who are late.

The body steps on the batches that are there when the first one is due, so nobody waits for a slow client's:

    client a ─┬──┬──┬──┬──┬─ …          body steps on  a, a+b, a, a+b, a, …
    client b ──┴─────┴─────┴ …

When something arrives is told by the transport: by a virtual clock in one process, so that the same seed gives the
same bits, and by the time of day over a network.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from splitcom.aggregation import Update
from splitcom.amount import counted
from splitcom.engines.engine import Arrival
from splitcom.scheduling.sampling import sample_clients
from splitcom.scheduling.scheduled import Scheduled
from splitcom.server.conversations import Rejoined
from splitcom.server.part import ServerRun
from splitcom.server.state import Task
from splitcom.server.steps import Steps
from splitcom.training.plan import num_round_batches, progress_of
from splitcom.training.segments import segment_due


class ArrivalDriven(Scheduled, ABC):
    """What deadlines and asynchronous scheduling have in common."""

    def __init__(self, run: ServerRun, steps: Steps) -> None:
        super().__init__(run, steps)
        self._num_steps = 0  # of the body, in this round

    @abstractmethod
    def _progress(self, round_index: int, names: list[str]) -> float:
        """That of the run, at a step on batches of these clients."""

    def _training(self) -> list[str]:
        """The clients that are at work on their tasks, or wait for an answer."""
        peers = self._clients.peers
        return [
            name
            for name in self._clients.present
            if self._states[name].task is not None and not peers[name].is_idle
        ]

    def _num_batches(self, name: str) -> int:
        task, num_samples = self._states[name].task, self._clients.peers[name].num_samples
        return num_round_batches(num_samples, self._config.of_client(name), 1 if task is None else task.round)

    def _advance(
        self, round_index: int, until_s: float | None = None, *, pause: bool = False
    ) -> dict[str, Update]:
        """Take what has arrived and step on it; the updates of clients that have ended their round.

        Waits until something arrives, or until `until_s` of the transport's clock.
        """
        brought = self._steps.receive(self._clients.collect_arrived(self._training(), until_s))
        if brought.arrivals:
            self._step(brought.arrivals, round_index, pause=pause)
        return brought.updates

    def _step(self, arrivals: Mapping[str, Arrival], round_index: int, *, pause: bool) -> None:
        position = (round_index, self._num_steps)
        self._num_steps += 1
        foreseen = max(self._num_batches(name) for name in self._clients.present)
        progress = self._progress(round_index, list(arrivals))
        self._steps.step(arrivals, position, max(foreseen, self._num_steps), progress, pause=pause)

    def _abandon_all(self) -> None:
        """Whatever is under way is too late."""
        for name in self._training():
            task = self._states[name].task
            assert task is not None
            task.is_abandoned = True


class Deadline(ArrivalDriven):
    """Synchronous rounds that end at a deadline, or with the first clients of more than are needed.

    What those who are late have trained in the round is discarded. They are told so when they send their next batch,
    which may be in the next round; until then they take no part. A deadline passes while fewer than
    `federation.min_clients` have ended the round.
    """

    def train(self, round_index: int) -> None:
        """Run a round; raises Rejoined where too few clients come to its end."""
        self._num_steps = 0
        settings, peers = self._config.federation, self._clients.peers
        sampled = sample_clients(
            self._clients.present, settings.num_sampled, self._config.seed, round_index, settings.over_select
        )
        least = settings.min_clients
        if sum(peers[name].is_idle for name in sampled) < least:
            self.settle(round_index, is_last=False)  # late clients are needed
        chosen = [name for name in sampled if peers[name].is_idle]
        for place, name in enumerate(chosen):
            segment = segment_due(place, round_index, settings.segments)
            self._steps.begin(name, Task(round_index, self._adapter.version, segment=segment))
        updates = self._collect_updates(chosen, round_index, least)
        self._abandon_all()
        if len(updates) < least:
            raise Rejoined(f"round {round_index} ended with {counted(len(updates), 'client')}")
        self._adapter.merge([updates[name] for name in chosen if name in updates])

    def _collect_updates(self, chosen: list[str], round_index: int, least: int) -> dict[str, Update]:
        settings, now = self._config.federation, self._clients.transport.now
        deadline = None if settings.deadline_s is None else now() + settings.deadline_s
        updates: dict[str, Update] = {}
        while len(updates) < settings.num_sampled and set(chosen) & set(self._training()):
            is_over = deadline is not None and now() >= deadline
            if is_over and len(updates) >= least:
                break
            updates |= self._advance(round_index, None if is_over else deadline)
        return updates

    def _progress(self, round_index: int, names: list[str]) -> float:
        """That of the client which is furthest."""
        return max(
            progress_of(self._config, task.round, task.next_step, self._num_batches(name))
            for name in names
            if (task := self._states[name].task) is not None
        )

    def settle(self, round_index: int, *, is_last: bool) -> None:
        """Wait for what late clients are at, which is a step, or where nothing is split a round."""
        while self._training():
            self._advance(round_index)
