"""The server's part in the steps of a round: decode what clients send, step the body, answer with gradients.

Which clients step together, and when a round is over, is the business of scheduling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch

from splitcom.config import Config
from splitcom.federation.arrivals import Arrivals
from splitcom.federation.body import Arrival, BodyTrainer, StepResult
from splitcom.federation.channel import steered
from splitcom.federation.conversations import Conversations
from splitcom.federation.observe import Observer, StepReport
from splitcom.federation.shared import SharedAdapter
from splitcom.federation.tails import Tails
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import Gradient, Message, RoundEnd


@dataclass(frozen=True)
class Update:
    """What a client has made of the shared adapter in a round, from so many tokens."""

    adapter: dict[str, torch.Tensor]
    num_tokens: int


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
        self.server_s = 0.0  # of the body's, since this was last set to zero

    def caught_up(self, name: str, message: Message) -> Message:
        """What a client says, after it has been sent its last gradient again where it has lost a reference.

        Raises Ended where the client is lost or refused on the way.
        """
        resend = partial(self._send_gradient, name, message.reference_lost.step, self_contained=True)
        return self._clients.caught_up(name, message, resend)

    def decode(self, name: str, message: Message) -> Arrival:
        """Decode an activation; where this side has lost a reference, have the packet sent again first, once.

        Raises Ended where the client is lost or refused on the way.
        """
        assert self._arrivals is not None
        return self._arrivals.activation(name, message)

    def take(
        self, arrivals: Mapping[str, Arrival], round_index: int, step: int, num_steps: int, progress: float
    ) -> None:
        """Step the body on what has arrived and send every client its gradient; `progress` is that of the run."""
        assert self._body is not None
        together = self._config.training.body_update == "parallel"
        groups = [arrivals] if together else [{name: arrival} for name, arrival in arrivals.items()]
        results: dict[str, StepResult] = {}
        for index, group in enumerate(groups):
            position = (round_index, step * len(groups) + index)
            if self._tails is None:
                started = perf_counter()
                results |= self._body.step(group, position, progress)
                self.server_s += perf_counter() - started
            else:
                done, seconds = self._tails.step(group, position, (round_index, step), progress)
                results |= done
                self.server_s += seconds
        if not results:  # all clients of the step were lost in the middle of it
            return
        for name, result in results.items():
            peer, arrival = self._clients.peers[name], arrivals[name]
            peer.steps += 1
            peer.tokens += len(arrival.decoded.batch.values)
            peer.loss_sum += result.loss_sum
            peer.num_labels += result.num_labels
            peer.gradient = None if result.gradient is None else (result.gradient, arrival.decoded.ids)
            peer.position = (round_index, step)
            self._send_gradient(name, step)
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
                thresholds=steered(self._clients.peers[next(iter(results))].channels),
            )
        )

    def end(self, name: str, end: RoundEnd, round_index: int) -> Update:
        """A client's update, weighing the tokens it has trained on; raises Ended where it is refused."""
        peer = self._clients.peers[name]
        if self._body is None:
            self._note_unseen(name, end, round_index)
        elif self._tails is not None:
            peer.loss_sum = end.loss_sum
        return Update(self._parse_adapter(name, end.adapter), peer.tokens)

    def _note_unseen(self, name: str, end: RoundEnd, round_index: int) -> None:
        """Believe what a client tells of steps that only itself can see."""
        peer = self._clients.peers[name]
        limit = peer.num_samples * self._config.data.max_tokens * self._config.training.local_epochs
        if not 0 < end.num_tokens <= limit:
            self._clients.refuse(name, f"{end.num_tokens} tokens trained on; {limit} are possible")
        peer.steps, peer.tokens = end.num_steps, end.num_tokens
        peer.loss_sum, peer.num_labels = end.loss_sum, end.num_labels
        mean = end.loss_sum / max(end.num_labels, 1)
        total = self._ledger.totals()["total"]
        self._observer.on_step(StepReport(round_index, end.num_steps, end.num_steps, mean, 0.0, total))

    def _parse_adapter(self, name: str, data: bytes) -> Any:
        return self._clients.parse(name, self._adapter.read, data)

    def _send_gradient(self, name: str, step: int, *, self_contained: bool = False) -> None:
        peer = self._clients.peers[name]
        message = Gradient(step=step)
        if peer.gradient is not None:
            channel = peer.channels["gradient_down"]
            message.gradient = channel.encode(*peer.gradient, peer.position, self_contained=self_contained)
        self._clients.send(name, Message(gradient=message))
