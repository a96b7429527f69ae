"""Asynchronous scheduling: every client trains its own rounds, and an update is merged when it comes.

A round of the run is over when as many updates have been merged as clients are sampled for a synchronous one, so that
runs of either scheduling do the same work. A client's own rounds do not end there: where the run's round is evaluated
or saved, clients pause between two steps and go on afterwards.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from splitcom.aggregation import Discount, Update
from splitcom.amount import counted
from splitcom.scheduling.deadline import ArrivalDriven
from splitcom.seeds import derive_seed
from splitcom.server.conversations import Rejoined
from splitcom.server.part import ServerRun
from splitcom.server.state import Task
from splitcom.server.steps import Steps
from splitcom.state import State
from splitcom.training.store import sections_of


class Asynchronous(ArrivalDriven):
    """FedAsync, and with a buffer FedBuff's way of collecting updates; stale ones count less, see `staleness`."""

    def __init__(self, run: ServerRun, steps: Steps) -> None:
        super().__init__(run, steps)
        self._num_updates = 0  # of the run
        self._due = (
            0  # of them, when this round is over; how many a round has may change when a run is resumed
        )
        self._buffer: list[Update] = []
        settings = self._config.federation.asynchronous
        self._discount = Discount(settings.mixing, settings.staleness)
        self._begun: Counter[str] = Counter()  # rounds, by client

    def train(self, round_index: int) -> None:
        """Go on until the updates of a round have come; raises Rejoined where too few clients are left."""
        self._num_steps = 0
        settings = self._config.federation
        self._due += settings.num_sampled
        while self._num_updates < self._due:
            left = len({*self._clients.ready, *self._training()})
            if left < settings.min_clients:
                raise Rejoined(f"round {round_index} has {counted(left, 'client')} left")
            self._occupy(round_index)
            self._receive(self._advance(round_index))

    def settle(self, round_index: int, *, is_last: bool) -> None:
        """Have everybody pause after the step it is at, or where the run is over forget its round.

        A round that is ended at this very step counts, so a round of the run may have some more updates. Fewer than
        the aggregator needs stay where they are: their mean would be merged, and one of them could be anything.
        """
        if is_last:
            self._abandon_all()
        while self._training():
            self._receive(self._advance(round_index, pause=True))
        if len(self._buffer) >= self._adapter.min_updates:
            self._merge()

    def _occupy(self, round_index: int) -> None:
        """Have paused clients go on, and idle ones begin, until as many train as are sampled."""
        settings = self._config.federation
        idle = self._clients.ready
        for name in idle:
            if (task := self._states[name].task) is not None:
                self._steps.begin(name, task)
        free = [name for name in idle if self._states[name].task is None]
        count = min(max(settings.num_sampled - len(self._training()), 0), len(free))
        draw = random.Random(
            derive_seed(self._config.seed, "clients", round_index, self._num_updates, len(free))
        )
        for index in sorted(draw.sample(range(len(free)), count)):
            name = free[index]
            self._begun[name] += 1
            place = self._num_effective(round_index) / settings.num_sampled + 1
            self._steps.begin(name, Task(self._begun[name], self._adapter.version, place))

    def _receive(self, updates: Mapping[str, Update]) -> None:
        for name, update in updates.items():
            self._states[name].counts.staleness += self._adapter.version - update.version
            self._num_updates += 1
            if update.is_new:
                self._buffer.append(update)
            if len(self._buffer) >= self._config.federation.asynchronous.buffer:
                self._merge()

    def _merge(self) -> None:
        if self._buffer:
            tensors, version = self._adapter.tensors, self._adapter.version
            self._adapter.merge([self._discount.apply(update, tensors, version) for update in self._buffer])
            self._buffer.clear()

    def _num_effective(self, round_index: int) -> int:
        """The updates of the run if each round had had as many as this one is to have."""
        return self._num_updates - self._due + round_index * self._config.federation.num_sampled

    def _progress(self, round_index: int, names: list[str]) -> float:
        """That of the updates: clients of different speed know no common step."""
        total = self._config.training.rounds * self._config.federation.num_sampled
        return min(self._num_effective(round_index) / total, 1.0)

    def state(self) -> State:
        """How far the run is, which rounds are paused, and which updates wait for others."""
        tasks = {name: asdict(state.task) for name, state in self._states.items() if state.task is not None}
        waiting = [(update.num_labels, update.version, update.client) for update in self._buffer]
        tensors = {
            f"{index}.{name}": tensor
            for index, update in enumerate(self._buffer)
            for name, tensor in update.adapter.items()
        }
        scalars = {
            "updates": self._num_updates,
            "due": self._due,
            "begun": dict(self._begun),
            "tasks": tasks,
            "waiting": waiting,
        }
        return State(tensors, scalars)

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        kept = state.scalars
        self._num_updates, self._due = kept["updates"], kept["due"]
        self._begun = Counter(kept["begun"])
        adapters = sections_of(state.tensors)
        self._buffer = [
            Update(adapters[str(index)], num_labels, version, client=client)
            for index, (num_labels, version, client) in enumerate(kept["waiting"])
        ]
        self._states.forget_tasks()
        for name, task in kept["tasks"].items():
            self._states[name].task = Task(**task)
