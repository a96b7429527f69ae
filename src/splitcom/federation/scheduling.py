"""Who trains when, and when a round is over; knows nothing of tensors but that adapters are averaged."""

from collections.abc import Mapping

import torch

from splitcom.config import Config
from splitcom.federation.aggregate import weighted_average
from splitcom.federation.body import Arrival
from splitcom.federation.channel import steered
from splitcom.federation.conversations import Conversations, Ended, Rejoined
from splitcom.federation.plan import num_round_batches, progress_of
from splitcom.federation.sampling import sample_clients
from splitcom.federation.shared import SharedAdapter
from splitcom.federation.steps import Steps, Update
from splitcom.protocol.messages_pb2 import Message, RoundStart


class Lockstep:
    """Every step waits for one batch of each client, and a round for every client's last one."""

    def __init__(self, config: Config, clients: Conversations, adapter: SharedAdapter, steps: Steps) -> None:
        self._config = config
        self._clients = clients
        self._adapter = adapter
        self._steps = steps

    def train(self, round_index: int) -> None:
        """Run one round; raises Rejoined where too few clients come to its end."""
        settings = self._config.federation
        peers = self._clients.peers
        sampled = sample_clients(list(peers), settings.sample, self._config.seed, round_index)
        chosen = [name for name in sampled if peers[name].present]
        for name in chosen:
            start = RoundStart(round=round_index, thresholds=steered(peers[name].channels))
            self._adapter.offer(peers[name], start)
            self._clients.send(name, Message(round_start=start))
        updates = self._collect_updates(chosen, round_index)
        if len(updates) < min(settings.min_clients, len(sampled)):
            raise Rejoined(f"round {round_index} ended with {len(updates)} clients")
        self._adapter.replace(average_of(updates))

    def _collect_updates(self, chosen: list[str], round_index: int) -> dict[str, Update]:
        """Steps until every client has ended its round; one with fewer batches simply ends earlier."""
        num_steps = max(
            (num_round_batches(self._clients.peers[name].num_samples, self._config) for name in chosen),
            default=1,
        )
        training = list(chosen)
        updates: dict[str, Update] = {}
        step = 0
        while training:
            arrivals: dict[str, Arrival] = {}
            messages = self._clients.collect(training)
            training = [name for name in training if name in messages]
            for name, message in messages.items():
                try:
                    message = self._steps.caught_up(name, message)
                    if message.WhichOneof("kind") == "round_end":
                        training.remove(name)
                        updates[name] = self._steps.end(name, message.round_end, round_index)
                    else:
                        arrivals[name] = self._steps.decode(name, message)
                except Ended:
                    training = [other for other in training if other != name]
            if arrivals:
                progress = progress_of(self._config, round_index, min(step, num_steps - 1), num_steps)
                self._steps.take(arrivals, round_index, step, num_steps, progress)
                step += 1
        return {name: updates[name] for name in chosen if name in updates}


def average_of(updates: Mapping[str, Update]) -> dict[str, torch.Tensor]:
    """FedAvg: the mean of the clients' adapters, weighted by tokens."""
    adapters = [update.adapter for update in updates.values()]
    return weighted_average(adapters, [update.num_tokens for update in updates.values()])
