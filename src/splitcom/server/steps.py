"""The server's part in the steps of a round: decode what clients send, step the body, answer with gradients.

Which clients step together, and when a round is over, is the business of scheduling.
"""

from collections.abc import Mapping
from time import perf_counter

import torch

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.engines.local import Arrival, BodyTrainer, StepResult
from splitcom.errors import NonFiniteError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import Gradient, Message, RoundAbort, RoundEnd, RoundStart
from splitcom.server.arrivals import Arrivals
from splitcom.server.claims import check_lost_gradient, check_round_end, without_spoilers
from splitcom.server.conversations import Conversations, Task
from splitcom.server.observe import Observer, StepReport
from splitcom.server.shared import SharedAdapter
from splitcom.server.tails import Tails
from splitcom.training.steering import announce, settings_of


class Steps:
    """`body` is None where clients train the whole model and a round has no steps that the server sees."""

    def __init__(
        self,
        config: Config,
        clients: Conversations,
        adapter: SharedAdapter,
        body: BodyTrainer | None,
        ledger: Ledger,
        observer: Observer,
    ) -> None:
        self._config = config
        self._clients = clients
        self._adapter = adapter
        self._body = body
        self._ledger = ledger
        self._observer = observer
        self._arrivals = None if body is None else Arrivals(config, body, clients)
        self._tails = Tails(body, clients) if body is not None and config.model.tail_blocks else None
        self.freezes_fronts = False  # in rounds that are begun from now on
        self.server_s = 0.0  # of the body's, since this was last set to zero

    def begin(self, name: str, task: Task) -> None:
        """Have a client train a round, or go on with one that it has paused."""
        peer = self._clients.peers[name]
        if task.next_step == 0:
            task.is_frozen = self.freezes_fronts
        start = RoundStart(
            round=task.round,
            first_step=task.next_step,
            place=task.place,
            frozen=task.is_frozen,
        )
        announce(peer.channels, start)
        if task.next_step == 0:
            self._adapter.offer(name, peer, start)
        peer.task = task
        task.is_pausing = False
        self._clients.send(name, Message(round_start=start))

    def caught_up(self, name: str, message: Message) -> Message:
        """What a client says, after it has been sent its last gradient again where it has lost a reference.

        Raises Ended where the client is lost or refused on the way.
        """

        def resend() -> None:
            self._clients.parse(
                name, check_lost_gradient, message.reference_lost.step, self._clients.peers[name]
            )
            self._send_gradient(name, self_contained=True)

        return self._clients.caught_up(name, message, resend)

    def decode(self, name: str, message: Message) -> Arrival:
        """Decode an activation; where this side has lost a reference, have the packet sent again first, once.

        Raises Ended where the client is lost or refused on the way.
        """
        if self._arrivals is None:
            self._clients.refuse(name, "an activation, in a run that is not split")
        return self._arrivals.activation(name, message)

    def abandon(self, name: str, message: Message) -> None:
        """Take what a client says that is too late, and have it forget its round.

        What it has encoded is decoded all the same, so that its references and the server's stay alike. Raises Ended.
        """
        peer = self._clients.peers[name]
        if message.WhichOneof("kind") == "activation" and self._arrivals is not None:
            self._arrivals.late(name, message)
        peer.task = None
        if not peer.is_idle:  # else it has just ended the round
            self._clients.send(name, Message(round_abort=RoundAbort()))

    def take(
        self,
        arrivals: Mapping[str, Arrival],
        position: tuple[int, int],
        num_steps: int,
        progress: float,
        *,
        pause: bool = False,
    ) -> None:
        """Step the body on what has arrived and send every client its gradient.

        Args:
            position: the round and the step in it, which no two steps have in common.
            num_steps: of the round, as far as they can be foreseen.
            progress: that of the run, in [0, 1].
            pause: have these clients stop after this step.
        """
        assert self._body is not None
        round_index, step = position
        together = self._config.training.body_update == "parallel"
        groups = [arrivals] if together else [{name: arrival} for name, arrival in arrivals.items()]
        results: dict[str, StepResult] = {}
        for index, group in enumerate(groups):
            draw = (round_index, step * len(groups) + index)
            if self._tails is None:
                started = perf_counter()
                results |= self._step(group, draw, progress)
                self.server_s += perf_counter() - started
            else:
                done, seconds = self._tails.step(group, draw, position, progress)
                results |= done
                self.server_s += seconds
        if not results:  # all clients of the step were lost or refused in the middle of it
            return
        for name, result in results.items():
            peer, arrival = self._clients.peers[name], arrivals[name]
            num_tokens = len(arrival.decoded.batch.values)
            peer.steps += 1
            peer.tokens += num_tokens
            peer.loss_sum += result.loss_sum
            peer.num_labels += result.num_labels
            peer.num_correct += result.num_correct
            peer.gradient = None if result.gradient is None else (result.gradient, arrival.decoded.ids)
            assert peer.task is not None
            peer.task.next_step += 1
            peer.task.num_tokens += num_tokens
            peer.task.is_pausing = pause
            self._send_gradient(name)
        self._observer.on_step(
            StepReport(
                round=round_index,
                step=step + 1,
                num_steps=num_steps,
                loss=None
                if self._tails is not None
                else sum(r.loss_sum for r in results.values()) / sum(r.num_labels for r in results.values()),
                skip_ratio=float(torch.cat([a.decoded.skipped for a in arrivals.values()]).float().mean()),
                total_bytes=self._ledger.totals()["total"],
                thresholds=settings_of(self._clients.peers[next(iter(results))].channels),
            )
        )

    def _step(
        self, arrivals: Mapping[str, Arrival], draw: tuple[int, int], progress: float
    ) -> dict[str, StepResult]:
        """A step without the clients whose batches spoil it."""
        assert self._body is not None
        try:
            return self._body.step(arrivals, draw, progress)
        except NonFiniteError:
            body = self._body
            rest = without_spoilers(arrivals, lambda name: body.is_sound(arrivals[name]), self._clients)
        return self._step({name: arrivals[name] for name in rest}, draw, progress) if rest else {}

    def end(self, name: str, end: RoundEnd) -> Update:
        """A client's update, weighing the tokens it has trained on; raises Ended where it is refused."""
        peer = self._clients.peers[name]
        task = peer.task
        assert task is not None
        self._clients.parse(name, check_round_end, end, peer, task, self._config)
        if self._body is None:
            self._note_unseen(name, end, task)
        elif self._tails is not None:
            peer.loss_sum, peer.num_correct = end.loss_sum, min(end.num_correct, peer.num_labels)
        is_new = self._renews(task)
        adapter = (
            self._clients.parse(name, self._adapter.read, name, end.adapter, task.version)
            if is_new
            else self._adapter.tensors
        )
        update = Update(adapter, task.num_tokens, task.version, is_new, name)
        peer.task = None
        peer.updates += 1
        return update

    def _renews(self, task: Task) -> bool:
        """Whether a round ends with a new adapter: not where the front is frozen and there is no tail."""
        return not task.is_frozen or self._tails is not None

    def _note_unseen(self, name: str, end: RoundEnd, task: Task) -> None:
        """Count steps that only the client itself has seen."""
        peer = self._clients.peers[name]
        task.num_tokens = end.num_tokens
        peer.steps += end.num_steps
        peer.tokens += end.num_tokens
        peer.loss_sum += end.loss_sum
        peer.num_labels += end.num_labels
        peer.num_correct += min(end.num_correct, end.num_labels)
        mean = end.loss_sum / end.num_labels
        total = self._ledger.totals()["total"]
        self._observer.on_step(StepReport(task.round, end.num_steps, end.num_steps, mean, 0.0, total))

    def _send_gradient(self, name: str, *, self_contained: bool = False) -> None:
        peer = self._clients.peers[name]
        assert peer.task is not None
        step = peer.task.next_step - 1
        message = Gradient(step=step, pause=peer.task.is_pausing)
        if peer.gradient is not None:
            channel = peer.channels["gradient_down"]
            message.gradient = channel.encode(
                *peer.gradient, (peer.task.round, step), self_contained=self_contained
            )
        self._clients.send(name, Message(gradient=message))
