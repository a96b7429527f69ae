"""Who trains when, and when a round is over. This is the plain way: everybody waits for everybody."""

from splitcom.aggregation import Update
from splitcom.scheduling.sampling import sample_clients
from splitcom.scheduling.scheduled import Scheduled
from splitcom.server.conversations import Rejoined
from splitcom.server.state import Task
from splitcom.training.plan import num_round_batches, progress_of


class Lockstep(Scheduled):
    """Every step waits for one batch of each client, and a round for every client's last one."""

    def train(self, round_index: int) -> None:
        """Run a round; raises Rejoined where too few clients come to its end."""
        settings = self._config.federation
        chosen = sample_clients(self._clients.ready, settings.num_sampled, self._config.seed, round_index)
        for name in chosen:
            self._steps.begin(name, Task(round_index, self._adapter.version))
        updates = self._collect_updates(chosen, round_index)
        if len(updates) < settings.min_clients:
            raise Rejoined(f"round {round_index} ended with {len(updates)} clients")
        self._adapter.merge([updates[name] for name in chosen if name in updates])

    def _collect_updates(self, chosen: list[str], round_index: int) -> dict[str, Update]:
        """Steps until every client has ended its round; one with fewer batches simply ends earlier."""
        num_steps = max(
            (
                num_round_batches(self._clients.peers[name].num_samples, self._config, round_index)
                for name in chosen
            ),
            default=1,
        )
        training = list(chosen)
        updates: dict[str, Update] = {}
        step = 0
        while training:
            brought = self._steps.receive(self._clients.collect(training))
            updates |= brought.updates
            training = list(brought.arrivals)
            if training:
                progress = progress_of(self._config, round_index, min(step, num_steps - 1), num_steps)
                self._steps.step(brought.arrivals, (round_index, step), num_steps, progress)
                step += 1
        return updates

    def settle(self, round_index: int, *, is_last: bool) -> None:
        """Nothing to do: a round ends when everybody has ended it."""
