"""The server's side of a run: the round loop.

    for every round:  sample clients ─► send adapter ─► steps ─► collect adapters ─► average ─► evaluate ─► save

A client that begins anew in the middle of this has lost its part of it: everybody goes back to the state after the last
saved round, so that the run ends with the same bits as an undisturbed one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from time import perf_counter
from typing import Any, TypeVar

import torch

from splitcom.codecs import ReferenceStore
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError, UnknownReference
from splitcom.federation.aggregate import weighted_average
from splitcom.federation.body import Arrival, BodyTrainer, StepResult
from splitcom.federation.channel import Channels
from splitcom.federation.conversations import Conversations, Ended, Peer, Rejoined
from splitcom.federation.lines import line_of
from splitcom.federation.observe import Observer, StepReport
from splitcom.federation.plan import num_round_batches, progress_of
from splitcom.federation.sampling import sample_clients
from splitcom.federation.store import PartyStore, sections_of
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.adapters import pack_adapter, unpack_adapter
from splitcom.protocol.labels import pack_labels, unpack_labels
from splitcom.protocol.messages_pb2 import (
    EvaluationNext,
    EvaluationStart,
    Gradient,
    Message,
    ReferenceLost,
    RoundEnd,
    RoundStart,
    SaveState,
)
from splitcom.transports.events import Transport

_Start = TypeVar("_Start", RoundStart, EvaluationStart)


class Federation:
    """One run as the server sees it; `body` is None where clients train the whole model."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        body: BodyTrainer | None,
        front_adapter: Mapping[str, torch.Tensor],
        open_channels: Callable[[str], Channels],
        model_fingerprint: str,
        store: PartyStore,
        observer: Observer | None = None,
    ) -> None:
        self.config = config
        self.body = body
        self.ledger = Ledger()
        self.round = 0
        self.adapter_version = 1
        self.eval_losses: dict[int, float] = {}
        self.uncompressed: Counter[str] = Counter()
        self.wall_s = 0.0
        self._adapter_dtype = getattr(torch, config.federation.adapter_dtype)
        self.adapter = self._as_sent(front_adapter)
        self._store = store
        self._saved_round = 0
        self._observer = observer or Observer()
        self._server_s = 0.0
        self._clients = Conversations(config, transport, self.ledger, open_channels, model_fingerprint)

    @property
    def peers(self) -> dict[str, Peer]:
        """What is known of each client, by name."""
        return self._clients.peers

    def run(self) -> Iterator[list[dict[str, Any]]]:
        """Run all rounds that are left, from the last saved one; yields the lines of metrics.jsonl after each.

        Round 0 is the evaluation before training. A round is saved after its lines have been taken, and one that had
        to be repeated may be yielded twice.
        """
        if self._store.rounds():
            self._restore()
        else:
            self._keep()
        started = perf_counter() - self.wall_s
        while self.round < self.config.training.rounds:
            try:
                for lines in self._rounds():
                    self.wall_s = perf_counter() - started
                    yield lines
                    if self._is_due:
                        self._keep()
            except Rejoined:
                self._clients.reset()
                self._restore()
        self._clients.finish()
        for counted in self.ledger.close_round().values():  # the last messages, after the last line
            self.uncompressed.update(counted)

    @property
    def _is_due(self) -> bool:
        return self._is_last or self.round % self.config.training.checkpoint_every == 0

    @property
    def _is_last(self) -> bool:
        return self.round == self.config.training.rounds

    def _rounds(self) -> Iterator[list[dict[str, Any]]]:
        self._clients.gather()
        if not self.eval_losses:
            self._clients.welcome(self._saved_round)
            self._evaluate()
            self._save_clients()
            yield self._close_round()
        while not self._is_last:
            if len(self._clients.present) < self.config.federation.min_clients:
                self._clients.gather()
            self._clients.welcome(self._saved_round)
            self._round()
            if self._is_due:
                self._save_clients()
            yield self._close_round()

    def _round(self) -> None:
        self.round += 1
        names = list(self.peers)
        sampled = sample_clients(names, self.config.federation.sample, self.config.seed, self.round)
        chosen = [name for name in sampled if self.peers[name].present]
        for name in chosen:
            self._clients.send(
                name, Message(round_start=self._adapter_for(name, RoundStart(round=self.round)))
            )
        ends = self._train(chosen)
        if len(ends) < min(self.config.federation.min_clients, len(sampled)):
            raise Rejoined(f"round {self.round} ended with {len(ends)} clients")
        average = weighted_average(*zip(*ends.values(), strict=True))
        self.adapter = self._as_sent(average)
        self.adapter_version += 1
        if self._is_last or self.round % self.config.evaluation.every == 0:
            self._evaluate()

    def _train(self, chosen: list[str]) -> dict[str, tuple[dict[str, torch.Tensor], int]]:
        """Steps until every client has ended its round; a client with fewer batches simply ends earlier."""
        num_steps = max(
            (num_round_batches(self.peers[name].num_samples, self.config) for name in chosen), default=1
        )
        training = list(chosen)
        ends: dict[str, tuple[dict[str, torch.Tensor], int]] = {}
        step = 0
        while training:
            arrivals: dict[str, Arrival] = {}
            messages = self._clients.collect(training)
            training = [name for name in training if name in messages]
            for name, message in messages.items():
                try:
                    if message.WhichOneof("kind") == "round_end":
                        training.remove(name)
                        ends[name] = self._end_of(name, message.round_end)
                        self._note_end(name, message.round_end)
                    else:
                        arrivals[name] = self._decode(name, message)
                except Ended:
                    training = [other for other in training if other != name]
            if arrivals:
                self._step(arrivals, step, num_steps)
                step += 1
        return {name: ends[name] for name in chosen if name in ends}

    def _step(self, arrivals: dict[str, Arrival], step: int, num_steps: int) -> None:
        assert self.body is not None
        together = self.config.training.body_update == "parallel"
        groups = [arrivals] if together else [{name: arrival} for name, arrival in arrivals.items()]
        progress = progress_of(self.config, self.round, min(step, num_steps - 1), num_steps)
        results: dict[str, StepResult] = {}
        for index, group in enumerate(groups):
            started = perf_counter()
            results |= self.body.step(group, (self.round, step * len(groups) + index), progress)
            self._server_s += perf_counter() - started
        for name, result in results.items():
            peer, arrival = self.peers[name], arrivals[name]
            peer.steps += 1
            peer.tokens += len(arrival.decoded.batch.values)
            peer.loss_sum += result.loss_sum
            peer.num_labels += result.num_labels
            peer.gradient = None if result.gradient is None else (result.gradient, arrival.decoded.ids)
            self._send_gradient(name, step)
        self._observer.on_step(
            StepReport(
                round=self.round,
                step=step + 1,
                num_steps=num_steps,
                loss=sum(r.loss_sum for r in results.values()) / sum(r.num_labels for r in results.values()),
                skip_ratio=float(torch.cat([a.decoded.skipped for a in arrivals.values()]).float().mean()),
                total_bytes=self.ledger.totals()["total"],
            )
        )

    def _send_gradient(self, name: str, step: int, *, self_contained: bool = False) -> None:
        peer = self.peers[name]
        message = Gradient(step=step)
        if peer.gradient is not None:
            channel = peer.channels["gradient_down"]
            message.gradient = channel.encode(
                *peer.gradient, (self.round, step), self_contained=self_contained
            )
        self._clients.send(name, Message(gradient=message))

    def _decode(self, name: str, message: Message) -> Arrival:
        """Decode an activation; where either side has lost a reference, have the packet sent again first, once."""
        assert self.body is not None
        peer = self.peers[name]
        for _ in range(3):
            if message.WhichOneof("kind") == "reference_lost":
                self._send_gradient(name, message.reference_lost.step, self_contained=True)
            else:
                activation = message.activation
                peer.labels |= self._parse(
                    name, unpack_labels, activation.labels, self.config.data.max_tokens
                )
                if len(peer.labels) > peer.num_samples:
                    self._clients.refuse(name, f"labels of more samples than the {peer.num_samples} it has")
                decode = peer.channels["activation_up"].decode
                try:
                    decoded = self._parse(name, decode, activation.activation, self.body.max_batch_bytes)
                    missing = [sample for sample in decoded.ids if sample not in peer.labels]
                    if not missing:
                        arrival: Arrival = self._parse(name, self.body.admit, decoded, peer.labels)
                        return arrival
                    lost = UnknownReference(missing)
                except UnknownReference as error:
                    lost = error
                answer = ReferenceLost(step=activation.step, sample_ids=lost.sample_ids)
                self._clients.send(name, Message(reference_lost=answer))
            if not (messages := self._clients.collect([name])):
                raise Ended(name)
            message = messages[name]
        self._clients.refuse(name, "references are lost again and again in one step")

    def _parse(self, name: str, parser: Callable[..., Any], *arguments: Any) -> Any:
        return self._clients.parse(name, parser, *arguments)

    def _end_of(self, name: str, end: RoundEnd) -> tuple[dict[str, torch.Tensor], int]:
        """A client's adapter and its weight in the average: the tokens it has trained on in this round."""
        peer = self.peers[name]
        if self.body is None:
            peer.steps, peer.tokens = end.num_steps, end.num_tokens
            peer.loss_sum, peer.num_labels = end.loss_sum, end.num_labels
            limit = peer.num_samples * self.config.data.max_tokens * self.config.training.local_epochs
            if not 0 < end.num_tokens <= limit:
                self._clients.refuse(name, f"{end.num_tokens} tokens trained on; {limit} are possible")
        return self._parse(name, self._checked_adapter, end.adapter), peer.tokens

    def _checked_adapter(self, data: bytes) -> dict[str, torch.Tensor]:
        adapter = unpack_adapter(data)
        theirs = {name: tensor.shape for name, tensor in adapter.items()}
        if theirs != {name: tensor.shape for name, tensor in self.adapter.items()}:
            raise RemoteProtocolError(
                f"an adapter of {len(theirs)} tensors whose names or shapes are not the model's"
            )
        return adapter

    def _evaluate(self) -> None:
        """Held-out loss of the averaged adapter over all present clients' held-out samples."""
        names = [name for name in self._clients.present if self.peers[name].num_held_out]
        total = sum(self.peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter_for(name, EvaluationStart())
            self._clients.send(name, Message(evaluation_start=start))
        loss_sum, num_labels, done = 0.0, 0, 0
        while names:
            messages = self._clients.collect(names)
            names = list(messages)
            for name, message in messages.items():
                if message.WhichOneof("kind") == "evaluation_end":
                    names.remove(name)
                    end = message.evaluation_end
                    if self.body is None and isfinite(end.loss_sum):
                        loss_sum += end.loss_sum
                        num_labels += end.num_labels
                    continue
                try:
                    arrival = self._held_out(name, message)
                except Ended:
                    names.remove(name)
                    continue
                assert self.body is not None
                batch_loss, batch_labels = self.body.evaluate(arrival)
                loss_sum += batch_loss
                num_labels += batch_labels
                done += len(arrival.labels)
                self._observer.on_evaluation(self.round, done, total)
                self._clients.send(name, Message(evaluation_next=EvaluationNext()))
        if num_labels:
            self.eval_losses[self.round] = loss_sum / num_labels

    def _held_out(self, name: str, message: Message) -> Arrival:
        assert self.body is not None
        batch, decode = message.evaluation_batch, self.peers[name].channels["evaluation"].decode
        decoded = self._parse(name, decode, batch.activation, self.body.max_batch_bytes)
        labels = self._parse(name, unpack_labels, batch.labels, self.config.data.max_tokens)
        arrival: Arrival = self._parse(name, self.body.admit, decoded, labels)
        return arrival

    def _adapter_for(self, name: str, message: _Start) -> _Start:
        """Put the adapter into a message, but for a client that holds this version already."""
        peer = self.peers[name]
        message.adapter_version = self.adapter_version
        if peer.adapter_version != self.adapter_version:
            message.adapter = pack_adapter(self.adapter, self._adapter_dtype)
            peer.adapter_version = self.adapter_version
        return message

    def _as_sent(self, adapter: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The adapter as clients will have it; the server goes on with the same numbers."""
        return unpack_adapter(pack_adapter(adapter, self._adapter_dtype))

    def _note_end(self, name: str, end: RoundEnd) -> None:
        if self.body is None:
            mean = end.loss_sum / max(end.num_labels, 1)
            total = self.ledger.totals()["total"]
            self._observer.on_step(StepReport(self.round, end.num_steps, end.num_steps, mean, 0.0, total))

    def _close_round(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl for this round; what was counted for it starts anew."""
        counted = self.ledger.close_round()
        lines = []
        for name, peer in self.peers.items():
            sent = counted.get(name, {})
            if peer.steps or sent:
                seconds = {"server": self._server_s, **self._clients.transport.take_seconds(name)}
                line = line_of(name, self.round, self.eval_losses.get(self.round), peer, sent, seconds)
                self.uncompressed.update(line["uncompressed_bytes"])
                lines.append(line)
            peer.forget_round()
        self._server_s = 0.0
        return lines

    def _save_clients(self) -> None:
        """Have every client keep its state; the server's follows when the lines of the round have been taken."""
        for name in self._clients.present:
            self._clients.send(name, Message(save_state=SaveState(round=self.round)))
        for name in self._clients.collect(self._clients.present):
            self.peers[name].acknowledged_round = self.round

    def _keep(self) -> None:
        """Keep the server's own state."""
        self._saved_round = self.round
        tensors = {f"front.{name}": tensor for name, tensor in self.adapter.items()}
        if self.body is not None:
            tensors |= {f"body.{name}": tensor for name, tensor in self.body.state().items()}
        for name, peer in self.peers.items():
            if peer.labels:
                tensors[f"labels.{name}"] = torch.frombuffer(
                    bytearray(pack_labels(peer.labels)), dtype=torch.uint8
                )
        scalars = {
            "wall_s": self.wall_s,
            "adapter_version": self.adapter_version,
            "eval_losses": self.eval_losses,
            "ledger": self.ledger.state(),
            "uncompressed": self.uncompressed,
            "transport": self._clients.transport.state(),
            "clients": {
                name: [peer.acknowledged_round, peer.adapter_version] for name, peer in self.peers.items()
            },
        }
        self._store.save(self.round, tensors, scalars, self._references())
        self._clients.idle()

    def _restore(self) -> None:
        """Go back to the last saved round."""
        self.round = self._saved_round = max(self._store.rounds())
        tensors, scalars = self._store.load(self.round)
        sections = sections_of(tensors)
        self.adapter = sections["front"]
        if self.body is not None:
            self.body.load_state(sections["body"])
        for name, (acknowledged_round, adapter_version) in scalars["clients"].items():
            peer = self._clients.peer(name)
            peer.acknowledged_round, peer.adapter_version = acknowledged_round, adapter_version
            packed = sections["labels"].get(name)
            peer.labels = (
                {} if packed is None else unpack_labels(packed.numpy().tobytes(), self.config.data.max_tokens)
            )
            peer.forget_round()
        self._store.load_references(self.round, self._references())
        self.wall_s = max(self.wall_s, scalars["wall_s"])
        self.adapter_version = scalars["adapter_version"]
        self.eval_losses = {int(index): loss for index, loss in scalars["eval_losses"].items()}
        self.uncompressed = Counter(scalars["uncompressed"])
        self.ledger.load_state(scalars["ledger"])
        self._clients.transport.load_state(scalars["transport"])
        self._server_s = 0.0

    def _references(self) -> Iterator[tuple[str, ReferenceStore]]:
        for name, peer in self.peers.items():
            for flow, channel in peer.channels.items():
                if channel.references is not None:
                    yield f"{name}-{flow}", channel.references

    def close(self) -> None:
        """Let go of references that are kept in files."""
        for _, references in self._references():
            references.close()
