"""The server's side of an evaluation: the shared adapter's loss over all present clients' held-out samples."""

from math import isfinite

from splitcom.config import Config
from splitcom.federation.arrivals import Arrivals
from splitcom.federation.body import BodyTrainer
from splitcom.federation.conversations import Conversations, Ended
from splitcom.federation.observe import Observer
from splitcom.federation.shared import SharedAdapter
from splitcom.federation.tails import Tails
from splitcom.protocol.messages_pb2 import EvaluationNext, EvaluationStart, Message


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
        self._clients = clients
        self._adapter = adapter
        self._body = body
        self._arrivals = None if body is None else Arrivals(config, body, clients)
        self._tails = Tails(body, clients) if body is not None and config.model.tail_blocks else None
        self._observer = observer

    def run(self, round_index: int) -> float | None:
        """Loss in nats per labelled token; None where there is none to know."""
        peers = self._clients.peers
        names = [name for name in self._clients.present if peers[name].num_held_out]
        total = sum(peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter.offer(peers[name], EvaluationStart())
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels, done = 0.0, 0, 0
        while names:
            messages = self._clients.collect(names)
            names = list(messages)
            for name, message in messages.items():
                if message.WhichOneof("kind") == "evaluation_end":
                    names.remove(name)
                    end = message.evaluation_end
                    clients_know = self._body is None or self._tails is not None
                    if clients_know and isfinite(end.loss_sum):
                        loss_sum += end.loss_sum
                        num_labels += end.num_labels
                    continue
                assert self._body is not None and self._arrivals is not None
                try:
                    arrival = self._arrivals.held_out(name, message)
                except Ended:
                    names.remove(name)
                    continue
                if self._tails is None:
                    batch_loss, batch_labels = self._body.evaluate(arrival)
                    loss_sum += batch_loss
                    num_labels += batch_labels
                    answer = Message(evaluation_next=EvaluationNext())
                else:
                    answer = self._tails.evaluate(name, arrival)
                done += arrival.num_samples
                self._observer.on_evaluation(round_index, done, total)
                self._clients.send(name, answer)
        return loss_sum / num_labels if num_labels else None
