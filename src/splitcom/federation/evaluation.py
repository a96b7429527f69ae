"""The server's side of an evaluation: the shared adapter's loss over all present clients' held-out samples."""

from collections import Counter
from math import isfinite

from splitcom.config import Config
from splitcom.federation.arrivals import Arrivals
from splitcom.federation.body import BodyTrainer
from splitcom.federation.claims import check_evaluation_end
from splitcom.federation.conversations import Conversations, Ended
from splitcom.federation.observe import Observer
from splitcom.federation.shared import SharedAdapter
from splitcom.federation.tails import Tails
from splitcom.protocol.messages_pb2 import EvaluationEnd, EvaluationNext, EvaluationStart, Message


class Evaluation:
    """Speaks to clients that are idle; `body` is None where they hold the whole model."""

    def __init__(
        self,
        config: Config,
        clients: Conversations,
        adapter: SharedAdapter,
        body: BodyTrainer | None,
        observer: Observer,
    ) -> None:
        self._config = config
        self._clients = clients
        self._adapter = adapter
        self._body = body
        self._arrivals = None if body is None else Arrivals(config, body, clients)
        self._tails = Tails(body, clients) if body is not None and config.model.tail_blocks else None
        self._observer = observer

    def run(self, round_index: int) -> float | None:
        """Loss in nats per labelled token; None where there is none to know."""
        peers = self._clients.peers
        names = [name for name in self._clients.ready if peers[name].num_held_out]
        total = sum(peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter.offer(peers[name], EvaluationStart())
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels = 0.0, 0
        done: Counter[str] = Counter()
        while names:
            messages = self._clients.collect(names)
            names = list(messages)
            for name, message in messages.items():
                try:
                    if message.WhichOneof("kind") == "evaluation_end":
                        names.remove(name)
                        part = self._end(name, message.evaluation_end)
                    else:
                        part = self._take(name, message, done)
                        self._observer.on_evaluation(round_index, done.total(), total)
                except Ended:
                    names = [other for other in names if other != name]
                    continue
                loss_sum += part[0]
                num_labels += part[1]
        return loss_sum / num_labels if num_labels else None

    def _end(self, name: str, end: EvaluationEnd) -> tuple[float, int]:
        """Loss and number of labels that a client tells of; none where the server has computed them."""
        self._clients.parse(name, check_evaluation_end, end, self._clients.peers[name], self._config)
        clients_know = self._body is None or self._tails is not None
        return (end.loss_sum, end.num_labels) if clients_know else (0.0, 0)

    def _take(self, name: str, message: Message, done: Counter[str]) -> tuple[float, int]:
        """Loss and number of labels of a batch, which is answered; counts its samples."""
        if self._body is None or self._arrivals is None:
            self._clients.refuse(name, "an activation, in a run that is not split")
        arrival = self._arrivals.held_out(name, message)
        num_held_out = self._clients.peers[name].num_held_out
        done[name] += arrival.num_samples
        if done[name] > num_held_out:
            self._clients.refuse(name, f"more than the {num_held_out} held-out samples it has")
        if self._tails is not None:
            self._clients.send(name, self._tails.evaluate(name, arrival))
            return 0.0, 0
        loss_sum, num_labels = self._body.evaluate(arrival)
        if not isfinite(loss_sum):
            self._clients.refuse(name, f"a held-out batch whose loss is {loss_sum}")
        self._clients.send(name, Message(evaluation_next=EvaluationNext()))
        return loss_sum, num_labels
