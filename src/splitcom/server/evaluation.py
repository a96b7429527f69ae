"""The server's side of an evaluation: the shared adapter's loss over all present clients' held-out samples.

standard   evaluation_batch ─► body, loss ─► evaluation_next
U-shape    evaluation_up ─► body ─► evaluation_down ─► (tail, loss) ─► evaluation_end, with the sums

Held-out samples come again in every evaluation, so their packets may build on those of the last one. Whoever lacks what
a packet builds on says `reference_lost`, and is sent it again.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from splitcom.codecs import Ragged
from splitcom.engines.engine import Arrival, StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import EvaluationDown, EvaluationNext, EvaluationStart, Message
from splitcom.server.arrivals import Lost
from splitcom.server.body import ServerBody
from splitcom.server.budget import Budget
from splitcom.server.claims import bounded_losses, check_evaluation_end
from splitcom.server.observe import Observer
from splitcom.server.part import ServerPart, ServerRun
from splitcom.server.recovery import Recovery
from splitcom.training.channel import held_out, passing_held_out
from splitcom.training.plan import num_kept


class HeldOut(NamedTuple):
    """Loss in nats per label, and the part of the labels that was right; of tokens that is not looked at."""

    loss: float
    accuracy: float
    rows: Mapping[str, int]  # samples, by client; losses over others cannot be compared


@dataclass
class _Progress:
    """How far a client is in an evaluation."""

    position: tuple[int, int]  # round and number of the batch
    exact: bool
    most: int  # samples
    num_samples: int = 0
    num_tokens: int = 0  # of these, as far as the server sees them
    loss_sum: float = 0.0  # of what has come of them
    num_labels: int = 0
    arrival: Arrival | None = None  # its last batch
    hidden: Ragged | None = None  # what its tail needs of that
    recovery: Recovery = field(default_factory=Recovery)


class Evaluation(ServerPart):
    """Speaks to clients that are idle; `body` is None if they hold the whole model."""

    def __init__(
        self, run: ServerRun, body: ServerBody | None, observer: Observer, ledger: Ledger | None = None
    ) -> None:
        super().__init__(run)
        self._body = body
        self.losses: dict[str, float] = {}  # nats per label, by client, in the last evaluation
        self._observer = observer
        self._ledger = ledger or Ledger()
        self.budget = Budget.of(self._config)

    def is_due(self, round_index: int) -> bool:
        """Whether there is to be an evaluation after a round that is not the last."""
        if round_index % self._config.evaluation.every:
            return False
        # also those who are at work now: they are evaluated, too
        return self.budget.has_room(self._ledger.totals(), self._rows(self._clients.present))

    def _rows(self, names: Iterable[str]) -> dict[str, int]:
        """How many held-out samples of each of these clients are evaluated."""
        peers = [(name, self._clients.peers[name]) for name in names]
        held = {name: peer.num_held_out for name, peer in peers if peer.num_held_out}
        sizes = {name: num_kept(peer.num_samples, self._config) for name, peer in peers}
        return self.budget.rows(sizes, held)

    def run(self, round_index: int, *, exact: bool = False) -> HeldOut | None:
        """What came of all held-out samples; None if there are none to know of. Raises Rejoined.

        If `exact`, hidden states arrive as good as they are, and what the flows build on stays as it was.
        """
        with ExitStack() as passes:
            for name in self._clients.ready:
                passes.enter_context(passing_held_out(self._states[name].channels, exact=exact))
            before = self._ledger.totals()["evaluation"]
            found = self._run(round_index, exact)
        if found is not None and not exact:
            sent = self._ledger.totals()["evaluation"] - before
            self.budget.take_note(sent, sum(found.rows.values()))
        return found

    def _run(self, round_index: int, exact: bool) -> HeldOut | None:
        rows = self._rows(self._clients.ready)
        names, total = list(rows), sum(rows.values())
        progress = {name: _Progress((round_index, 0), exact, rows[name]) for name in names}
        for name in names:
            few = rows[name] if rows[name] < self._clients.peers[name].num_held_out else 0
            start = EvaluationStart(round=round_index, exact=exact, max_samples=few)
            start = self._adapter.offer(name, self._states[name], start)
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels, num_correct = 0.0, 0, 0
        claimed: dict[str, StepResult] = {}
        while names:
            messages = self._clients.collect(names)
            names = [name for name, said in messages.items() if said.WhichOneof("kind") != "evaluation_end"]
            for name, message in self._clients.each(messages):
                with self._clients.refusing(name):
                    part = self._receive(name, message, progress[name])
                    progress[name].loss_sum += part.loss_sum
                    progress[name].num_labels += part.num_labels
                    if message.WhichOneof("kind") == "evaluation_end" and part.num_labels:
                        claimed[name], part = part, _NOTHING
                    loss_sum += part.loss_sum
                    num_labels += part.num_labels
                    num_correct += part.num_correct
                    done = sum(one.num_samples for one in progress.values())
                    self._observer.on_evaluation(round_index, done, total)
        for part in bounded_losses(claimed, self._config.federation.max_weight_ratio):
            loss_sum += part.loss_sum
            num_labels += part.num_labels
            num_correct += part.num_correct
        rows = {name: one.num_samples for name, one in progress.items() if one.num_samples}
        self.losses = {
            name: one.loss_sum / one.num_labels for name, one in progress.items() if one.num_labels
        }
        return HeldOut(loss_sum / num_labels, num_correct / num_labels, rows) if num_labels else None

    def _receive(self, name: str, message: Message, progress: _Progress) -> StepResult:
        """What comes of a message: of a batch, which is answered and counted, or of what a client sums up."""
        kind = message.WhichOneof("kind")
        if kind == "evaluation_end":
            return self._end(name, message, progress)
        if kind == "reference_lost":
            progress.recovery.of_client()
            self._send_hidden(name, progress, self_contained=True)
            return _NOTHING
        if self._body is None:
            raise RemoteProtocolError("an activation, in a run that is not split")
        arrival = self._body.arrivals.held_out(name, message, progress.position[1], exact=progress.exact)
        if isinstance(arrival, Lost):
            progress.recovery.of_server()
            self._clients.send(name, arrival.answer)
            return _NOTHING
        progress.recovery = Recovery()
        progress.num_samples += arrival.num_samples
        progress.num_tokens += len(arrival.decoded.batch.values)
        if progress.num_samples > progress.most:
            raise RemoteProtocolError(f"more than the {progress.most} held-out samples it has to send")
        progress.arrival = arrival
        result: StepResult | None = _NOTHING
        if self._body.tails is None:
            result = self._body.engine.evaluate(name, arrival)
            if result is not None:
                self._clients.send(name, Message(evaluation_next=EvaluationNext()))
        elif (hidden := self._body.engine.pass_held_out(name, arrival)) is not None:
            progress.hidden = replace(hidden, learnt=arrival.decoded.batch.learnt)
            self._send_hidden(name, progress)
        progress.position = (progress.position[0], progress.position[1] + 1)
        self._states[name].counts.held_out_batches += 1
        return result or _NOTHING  # of none the client is refused

    def _end(self, name: str, message: Message, progress: _Progress) -> StepResult:
        end = message.evaluation_end
        if self._body is None:
            progress.num_samples = self._clients.peers[name].num_held_out
        seen = None if self._body is None else progress.num_tokens
        check_evaluation_end(end, progress.num_samples, seen, self._config)
        state = self._states[name]
        state.num_released = max(state.num_released, end.num_released)
        if self._body is not None and self._body.tails is None:
            return _NOTHING  # the server has computed it
        return StepResult(None, end.loss_sum, end.num_labels, end.num_correct)

    def _send_hidden(self, name: str, progress: _Progress, *, self_contained: bool = False) -> None:
        """Send a client what its tail needs of its last batch."""
        arrival, hidden = progress.arrival, progress.hidden
        if arrival is None or hidden is None:
            raise RemoteProtocolError("a reference is lost before anything has been sent")
        assert self._body is not None
        channel = held_out(self._states[name].channels, "down", exact=progress.exact)
        packet = self._body.engine.packed(
            name,
            channel.flow,
            arrival,
            lambda: channel.encode(
                hidden, arrival.decoded.ids, progress.position, self_contained=self_contained
            ),
        )
        if packet is not None:
            self._clients.send(name, Message(evaluation_down=EvaluationDown(activation=packet)))


_NOTHING = StepResult(None, 0.0, 0, 0)
