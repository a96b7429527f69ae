"""The server's side of an evaluation: the shared adapter's loss over all present clients' held-out samples."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import EvaluationNext, EvaluationStart, Message
from splitcom.server.body import ServerBody
from splitcom.server.claims import bounded_losses, check_evaluation_end
from splitcom.server.conversations import Conversations
from splitcom.server.observe import Observer
from splitcom.server.shared import SharedAdapter
from splitcom.server.state import ClientStates


class HeldOut(NamedTuple):
    """Loss in nats per label, and the part of the labels that was right; of tokens that is not looked at."""

    loss: float
    accuracy: float
    rows: Mapping[str, int]  # samples, by client; losses over others cannot be compared


class Evaluation:
    """Speaks to clients that are idle; `body` is None if they hold the whole model."""

    def __init__(
        self,
        config: Config,
        clients: Conversations,
        states: ClientStates,
        adapter: SharedAdapter,
        body: ServerBody | None,
        observer: Observer,
    ) -> None:
        self._config = config
        self._clients = clients
        self._states = states
        self._adapter = adapter
        self._body = body
        self._observer = observer

    def run(self, round_index: int) -> HeldOut | None:
        """What came of all held-out samples; None if there are none to know of. Raises Rejoined."""
        peers = self._clients.peers
        names = [name for name in self._clients.ready if peers[name].num_held_out]
        total = sum(peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter.offer(name, self._states[name], EvaluationStart())
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels, num_correct = 0.0, 0, 0
        done: Counter[str] = Counter()
        claimed: dict[str, StepResult] = {}
        while names:
            messages = self._clients.collect(names)
            names = [name for name, said in messages.items() if said.WhichOneof("kind") != "evaluation_end"]
            for name, message in self._clients.each(messages):
                with self._clients.refusing(name):
                    part = self._receive(name, message, done)
                    if message.WhichOneof("kind") == "evaluation_end" and part.num_labels:
                        claimed[name], part = part, _NOTHING
                    loss_sum += part.loss_sum
                    num_labels += part.num_labels
                    num_correct += part.num_correct
                    self._observer.on_evaluation(round_index, done.total(), total)
        for part in bounded_losses(claimed, self._config.federation.max_weight_ratio):
            loss_sum += part.loss_sum
            num_labels += part.num_labels
            num_correct += part.num_correct
        return HeldOut(loss_sum / num_labels, num_correct / num_labels, done) if num_labels else None

    def _receive(self, name: str, message: Message, done: Counter[str]) -> StepResult:
        """What comes of a message: of a batch, which is answered and counted in `done`, or of what a client sums up."""
        num_held_out = self._clients.peers[name].num_held_out
        if message.WhichOneof("kind") == "evaluation_end":
            end = message.evaluation_end
            seen = num_held_out if self._body is None else done[name]
            check_evaluation_end(end, seen, self._config)
            if self._body is not None and self._body.tails is None:
                return _NOTHING  # the server has computed it
            done[name] = seen
            return StepResult(None, end.loss_sum, end.num_labels, min(end.num_correct, end.num_labels))
        if self._body is None:
            raise RemoteProtocolError("an activation, in a run that is not split")
        arrival = self._body.arrivals.held_out(name, message)
        done[name] += arrival.num_samples
        if done[name] > num_held_out:
            raise RemoteProtocolError(f"more than the {num_held_out} held-out samples it has")
        if self._body.tails is not None:
            self._body.tails.evaluate(name, arrival)
            return _NOTHING
        if (result := self._body.engine.evaluate(name, arrival)) is None:
            return _NOTHING
        self._clients.send(name, Message(evaluation_next=EvaluationNext()))
        return result


_NOTHING = StepResult(None, 0.0, 0, 0)
