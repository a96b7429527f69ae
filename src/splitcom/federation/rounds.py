"""The server's side of a run: the round loop, and the conversations with the clients it is made of.

    for every round:  sample clients ─► send adapter ─► steps ─► collect adapters ─► average ─► evaluate ─► record

The transport is the only thing here that waits; it may be in this process or a network.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, TypeVar

import torch

from splitcom.codecs import Ragged, ReferenceStore
from splitcom.config import Config
from splitcom.errors import CodecError, RemoteProtocolError, UnknownReference
from splitcom.federation.aggregate import weighted_average
from splitcom.federation.body import Arrival, BodyTrainer, StepResult
from splitcom.federation.channel import Channels
from splitcom.federation.observe import Observer, StepReport
from splitcom.federation.plan import num_round_batches, progress_of
from splitcom.federation.sampling import sample_clients
from splitcom.metrics.ledger import FLOWS, Ledger
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.adapters import pack_adapter, unpack_adapter
from splitcom.protocol.labels import Labels, pack_labels, unpack_labels
from splitcom.protocol.messages_pb2 import (
    EvaluationNext,
    EvaluationStart,
    Failure,
    Finish,
    Gradient,
    Message,
    ReferenceLost,
    RoundEnd,
    RoundStart,
    Welcome,
)
from splitcom.protocol.session import PROTOCOL_VERSION, Role, Session, State

_Start = TypeVar("_Start", RoundStart, EvaluationStart)


class Transport(Protocol):
    """Carries bytes between the server and its clients."""

    @property
    def clients(self) -> list[str]:
        """Names of the connected clients."""

    def send(self, client: str, data: bytes) -> None:
        """Send a message."""

    def receive(self) -> tuple[str, bytes]:
        """Wait for a message; its sender and its bytes."""

    def take_seconds(self, client: str) -> dict[str, float]:
        """`client`: seconds it has computed since the last call; `virtual`: seconds since the run's start."""


@dataclass
class _Peer:
    """What the server knows of one client."""

    channels: Channels
    session: Session = field(default_factory=lambda: Session(Role.SERVER))
    num_samples: int = 0
    num_held_out: int = 0
    adapter_version: int = 0
    labels: dict[int, Labels] = field(default_factory=dict)
    gradient: tuple[Ragged, list[int]] | None = None  # of the last step, in case it must be sent again
    steps: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    num_labels: int = 0


class Federation:
    """One run as the server sees it; `body` is None where clients train the whole model."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        body: BodyTrainer | None,
        front_adapter: Mapping[str, torch.Tensor],
        channels: Mapping[str, Channels],
        model_fingerprint: str,
        observer: Observer | None = None,
    ) -> None:
        self.config = config
        self.body = body
        self.ledger = Ledger()
        self.round = 0
        self.adapter_version = 1
        self.eval_losses: dict[int, float] = {}
        self._adapter_dtype = getattr(torch, config.federation.adapter_dtype)
        self.adapter = self._as_sent(front_adapter)
        self._transport = transport
        self._fingerprint = model_fingerprint
        self._peers = {name: _Peer(channels[name]) for name in transport.clients}
        self._observer = observer or Observer()
        self.wall_s = 0.0
        self._server_s = 0.0
        self._uncompressed: Counter[str] = Counter()
        # A single party that holds model and data has nobody to send anything to.
        self._counts = config.training.split or len(self._peers) > 1

    def run(self) -> Iterator[list[dict[str, Any]]]:
        """Run all rounds that are left; yields the lines of metrics.jsonl after each (round 0: before training)."""
        started = perf_counter() - self.wall_s
        self._greet()
        if not self.eval_losses:
            self._evaluate()
            self.wall_s = perf_counter() - started
            yield self._close_round([])
        names = list(self._peers)
        while self.round < self.config.training.rounds:
            self.round += 1
            chosen = sample_clients(names, self.config.federation.sample, self.config.seed, self.round)
            for name in chosen:
                self._send(name, Message(round_start=self._adapter_for(name, RoundStart(round=self.round))))
            ends = self._train(chosen)
            average = weighted_average(
                [unpack_adapter(ends[name].adapter) for name in chosen],
                [ends[name].num_tokens for name in chosen],
            )
            self.adapter = self._as_sent(average)
            self.adapter_version += 1
            if self.round % self.config.evaluation.every == 0 or self.round == self.config.training.rounds:
                self._evaluate()
            if self.round == self.config.training.rounds:
                self._finish()
            self.wall_s = perf_counter() - started
            yield self._close_round(chosen)
        self._finish()

    def _finish(self) -> None:
        for name, peer in self._peers.items():
            if peer.session.state is not State.CLOSED:
                self._send(name, Message(finish=Finish()))

    def _greet(self) -> None:
        for name, message in self._collect(list(self._peers)).items():
            hello = message.hello
            for field_name, theirs, ours in (
                ("protocol version", hello.protocol_version, PROTOCOL_VERSION),
                ("client name", hello.client, name),
                ("model fingerprint", hello.model_fingerprint, self._fingerprint),
            ):
                if theirs != ours:
                    self._refuse(name, f"{field_name} is {theirs}, the server's is {ours}")
            peer = self._peers[name]
            peer.num_samples, peer.num_held_out = hello.num_samples, hello.num_held_out
            peer.adapter_version = hello.adapter_version
            self._send(name, Message(welcome=Welcome(config_toml=self.config.to_toml())))

    def _train(self, chosen: list[str]) -> dict[str, RoundEnd]:
        """Steps until every client has ended its round; a client with fewer batches simply ends earlier."""
        num_steps = max(num_round_batches(self._peers[name].num_samples, self.config) for name in chosen)
        ends: dict[str, RoundEnd] = {}
        step = 0
        while len(ends) < len(chosen):
            arrivals: dict[str, Arrival] = {}
            for name, message in self._collect([name for name in chosen if name not in ends]).items():
                if message.WhichOneof("kind") == "round_end":
                    ends[name] = message.round_end
                    self._note_end(name, message.round_end)
                else:
                    arrivals[name] = self._decode(name, message)
            if arrivals:
                self._step(arrivals, step, num_steps)
                step += 1
        return ends

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
            peer, arrival = self._peers[name], arrivals[name]
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
        peer = self._peers[name]
        message = Gradient(step=step)
        if peer.gradient is not None:
            channel = peer.channels["gradient_down"]
            message.gradient = channel.encode(
                *peer.gradient, (self.round, step), self_contained=self_contained
            )
        self._send(name, Message(gradient=message))

    def _decode(self, name: str, message: Message) -> Arrival:
        """Decode an activation; where either side has lost a reference, have the packet sent again first."""
        peer = self._peers[name]
        while True:
            if message.WhichOneof("kind") == "reference_lost":
                self._send_gradient(name, message.reference_lost.step, self_contained=True)
            else:
                activation = message.activation
                peer.labels |= self._parse(
                    name, unpack_labels, activation.labels, self.config.data.max_tokens
                )
                try:
                    decoded = self._parse(name, peer.channels["activation_up"].decode, activation.activation)
                    missing = [sample for sample in decoded.ids if sample not in peer.labels]
                    if not missing:
                        return Arrival(decoded, [peer.labels[sample] for sample in decoded.ids])
                    lost = UnknownReference(missing)
                except UnknownReference as error:
                    lost = error
                answer = ReferenceLost(step=activation.step, sample_ids=lost.sample_ids)
                self._send(name, Message(reference_lost=answer))
            message = self._collect([name])[name]

    def _evaluate(self) -> None:
        """Held-out loss of the averaged adapter over all clients' held-out samples."""
        names = [name for name, peer in self._peers.items() if peer.num_held_out]
        total = sum(self._peers[name].num_held_out for name in names)
        for name in names:
            start = self._adapter_for(name, EvaluationStart())
            self._send(name, Message(evaluation_start=start))
        loss_sum, num_labels, done = 0.0, 0, 0
        while names:
            for name, message in self._collect(names).items():
                if message.WhichOneof("kind") == "evaluation_end":
                    names = [other for other in names if other != name]
                    loss_sum += message.evaluation_end.loss_sum
                    num_labels += message.evaluation_end.num_labels
                    continue
                assert self.body is not None
                channel = self._peers[name].channels["evaluation"]
                decoded = self._parse(name, channel.decode, message.evaluation_batch.activation)
                labels = self._parse(
                    name, unpack_labels, message.evaluation_batch.labels, self.config.data.max_tokens
                )
                batch_loss, batch_labels = self.body.evaluate(
                    Arrival(decoded, [labels[sample] for sample in decoded.ids])
                )
                loss_sum += batch_loss
                num_labels += batch_labels
                done += len(decoded.ids)
                self._observer.on_evaluation(self.round, done, total)
                self._send(name, Message(evaluation_next=EvaluationNext()))
        if num_labels:
            self.eval_losses[self.round] = loss_sum / num_labels

    def _collect(self, names: list[str]) -> dict[str, Message]:
        """One message from each of these clients, in their order, whatever the order of arrival."""
        messages: dict[str, Message] = {}
        while len(messages) < len(names):
            name, data = self._transport.receive()
            message = self._peers[name].session.receive(data)
            self._count(name, message, len(data), upwards=True)
            if message.WhichOneof("kind") == "failure":
                raise RemoteProtocolError(f"{name} has ended its session: {message.failure.reason}")
            messages[name] = message
        return {name: messages[name] for name in names}

    def _send(self, name: str, message: Message) -> None:
        data = self._peers[name].session.send(message)
        self._count(name, message, len(data), upwards=False)
        self._transport.send(name, data)

    def _count(self, name: str, message: Message, size: int, *, upwards: bool) -> None:
        if self._counts:
            self.ledger.count(name, flows_of(message, size), upwards=upwards)

    def _refuse(self, name: str, reason: str) -> None:
        self._send(name, Message(failure=Failure(reason=reason)))
        raise RemoteProtocolError(f"{name} is refused: {reason}")

    def _parse(self, name: str, parser: Callable[..., Any], *arguments: Any) -> Any:
        """Run a parser on what a client has sent; what is malformed is told to the client, too."""
        try:
            return parser(*arguments)
        except UnknownReference:
            raise
        except (CodecError, RemoteProtocolError) as error:
            self._refuse(name, str(error))

    def _adapter_for(self, name: str, message: _Start) -> _Start:
        """Put the adapter into a message, but for a client that holds this version already."""
        peer = self._peers[name]
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
            peer = self._peers[name]
            peer.steps, peer.tokens = end.num_steps, end.num_tokens
            peer.loss_sum, peer.num_labels = end.loss_sum, end.num_labels
            mean = end.loss_sum / max(end.num_labels, 1)
            total = self.ledger.totals()["total"]
            self._observer.on_step(StepReport(self.round, end.num_steps, end.num_steps, mean, 0.0, total))

    def _close_round(self, chosen: list[str]) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl for this round; what was counted for it starts anew."""
        counted = self.ledger.close_round()
        lines = [self._close_peer(name, counted.get(name, {})) for name in self._peers]
        self._server_s = 0.0
        return [line for line in lines if line["client"] in chosen or not chosen or line["bytes"]["total"]]

    def _close_peer(self, name: str, counted: Mapping[str, int]) -> dict[str, Any]:
        peer = self._peers[name]
        traffic = {flow: channel.take_traffic() for flow, channel in peer.channels.items()}
        flows = {flow: counted.get(flow, 0) for flow in (*FLOWS, "up", "down", "total")}
        uncompressed = dict(flows)
        if "activation_up" in traffic:
            # The gradient has the shape of the activation, also where a frozen front saves it.
            for flow, direction in (("activation_up", "up"), ("gradient_down", "down")):
                uncompressed[flow] = traffic["activation_up"].uncompressed_bytes
                uncompressed[direction] += uncompressed[flow] - flows[flow]
            uncompressed["total"] = uncompressed["up"] + uncompressed["down"]
        self._uncompressed.update(uncompressed)
        line = {
            "round": self.round,
            "client": name,
            "steps": peer.steps,
            "tokens": peer.tokens,
            "loss": peer.loss_sum / peer.num_labels if peer.num_labels else None,
            "eval_loss": self.eval_losses.get(self.round),
            "threshold": {
                flow: channel.codec.threshold
                for flow, channel in peer.channels.items()
                if channel.codec.threshold is not None
            },
            "skip_ratio": {
                flow: passed.skipped / passed.samples
                for flow, passed in traffic.items()
                if passed.samples and flow != "evaluation"
            },
            "bytes": flows,
            "uncompressed_bytes": uncompressed,
            "seconds": {
                "server": self._server_s,
                "codec": sum(passed.seconds for passed in traffic.values()),
                **self._transport.take_seconds(name),
            },
        }
        peer.steps = peer.tokens = peer.num_labels = 0
        peer.loss_sum = 0.0
        return line

    def uncompressed_totals(self) -> dict[str, int]:
        """What the same rounds would have sent with fp16 flows; the keys of `Ledger.totals`."""
        return {flow: self._uncompressed[flow] for flow in (*FLOWS, "up", "down", "total")}

    def references(self) -> Iterator[tuple[str, str, ReferenceStore]]:
        """Client, flow and references of every channel that keeps some at the server."""
        for name, peer in self._peers.items():
            for flow, channel in peer.channels.items():
                if channel.references is not None:
                    yield name, flow, channel.references

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a checkpoint keeps but for the references: tensors, and what fits into JSON."""
        tensors = {f"front.{name}": tensor for name, tensor in self.adapter.items()}
        if self.body is not None:
            tensors |= {f"body.{name}": tensor for name, tensor in self.body.state().items()}
        for name, peer in self._peers.items():
            if peer.labels:
                tensors[f"labels.{name}"] = torch.frombuffer(
                    bytearray(pack_labels(peer.labels)), dtype=torch.uint8
                )
        return tensors, {
            "round": self.round,
            "wall_s": self.wall_s,
            "adapter_version": self.adapter_version,
            "eval_losses": self.eval_losses,
            "ledger": self.ledger.state(),
            "uncompressed": self._uncompressed,
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        sections: dict[str, dict[str, torch.Tensor]] = {"front": {}, "body": {}, "labels": {}}
        for name, tensor in tensors.items():
            section, _, rest = name.partition(".")
            sections[section][rest] = tensor
        self.adapter = sections["front"]
        if self.body is not None:
            self.body.load_state(sections["body"])
        for name, packed in sections["labels"].items():
            labels = unpack_labels(packed.numpy().tobytes(), self.config.data.max_tokens)
            self._peers[name].labels = labels
        self.round = scalars["round"]
        self.wall_s = scalars["wall_s"]
        self.adapter_version = scalars["adapter_version"]
        self.eval_losses = {int(index): loss for index, loss in scalars["eval_losses"].items()}
        self.ledger.load_state(scalars["ledger"])
        self._uncompressed = Counter(scalars["uncompressed"])
