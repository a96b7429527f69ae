"""The server's side of an evaluation: the shared adapter's loss over all present clients' held-out samples."""

from collections import Counter
from math import isfinite
from typing import NamedTuple

from splitcom.config import Config
from splitcom.engines.local import BodyTrainer, StepResult
from splitcom.protocol.messages_pb2 import EvaluationEnd, EvaluationNext, EvaluationStart, Message
from splitcom.server.arrivals import Arrivals
from splitcom.server.claims import check_evaluation_end
from splitcom.server.conversations import Conversations, Ended
from splitcom.server.observe import Observer
from splitcom.server.shared import SharedAdapter
from splitcom.server.tails import Tails


class HeldOut(NamedTuple):
    """Loss in nats per label, and the part of the labels that was right; of tokens that is not looked at."""

    loss: float
    accuracy: float


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

    def run(self, round_index: int) -> HeldOut | None:
        """What came of all held-out samples; None where there are none to know of."""
        peers = self._clients.peers
        names = [name for name in self._clients.ready if peers[name].num_held_out]
        total = sum(peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter.offer(name, peers[name], EvaluationStart())
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels, num_correct = 0.0, 0, 0
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
                loss_sum += part.loss_sum
                num_labels += part.num_labels
                num_correct += part.num_correct
        return HeldOut(loss_sum / num_labels, num_correct / num_labels) if num_labels else None

    def _end(self, name: str, end: EvaluationEnd) -> StepResult:
        """What a client tells of its samples; nothing where the server has computed it."""
        self._clients.parse(name, check_evaluation_end, end, self._clients.peers[name], self._config)
        if self._body is not None and self._tails is None:
            return _NOTHING
        return StepResult(None, end.loss_sum, end.num_labels, min(end.num_correct, end.num_labels))

    def _take(self, name: str, message: Message, done: Counter[str]) -> StepResult:
        """What comes of a batch, which is answered; counts its samples."""
        if self._body is None or self._arrivals is None:
            self._clients.refuse(name, "an activation, in a run that is not split")
        arrival = self._arrivals.held_out(name, message)
        num_held_out = self._clients.peers[name].num_held_out
        done[name] += arrival.num_samples
        if done[name] > num_held_out:
            self._clients.refuse(name, f"more than the {num_held_out} held-out samples it has")
        if self._tails is not None:
            self._clients.send(name, self._tails.evaluate(name, arrival))
            return _NOTHING
        result = self._body.evaluate(arrival)
        if not isfinite(result.loss_sum):
            self._clients.refuse(name, f"a held-out batch whose loss is {result.loss_sum}")
        self._clients.send(name, Message(evaluation_next=EvaluationNext()))
        return result


_NOTHING = StepResult(None, 0.0, 0, 0)
