"""A client's side of the conversation: what it answers to each message; no I/O, no threads, no clocks.

The conversation is a generator that reads from top to bottom: it yields what the client sends and is sent what the
client receives. What training means is the trainer's business: `FrontTrainer` (split), `EndsTrainer` (U-shape) or
`WholeTrainer`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from math import isfinite
from typing import Any, Protocol

import torch

from splitcom.client.masking import Masking
from splitcom.client.packets import RoundAborted
from splitcom.codecs import Ragged, ReferenceStore
from splitcom.config import Config
from splitcom.errors import NonFiniteError, RefusedError, RemoteProtocolError
from splitcom.foreign import PEER_CHARACTERS, visible
from splitcom.protocol.adapters import unpack_packets
from splitcom.protocol.limits import LIMITS, KindLimits
from splitcom.protocol.messages_pb2 import (
    ChunkEnd,
    EvaluationEnd,
    EvaluationStart,
    Hello,
    Message,
    RoundEnd,
    RoundPaused,
    RoundStart,
    StateSaved,
    Welcome,
)
from splitcom.protocol.session import PROTOCOL_VERSION, Form, Role, Session, State
from splitcom.seeds import derive_seed
from splitcom.training.adapters import AdapterCodec, AdapterSender, digest_of
from splitcom.training.channel import Channels, forget_batches
from splitcom.training.optimize import DIVERGED
from splitcom.training.plan import LocalRound
from splitcom.training.segments import segment_of
from splitcom.training.steering import follow
from splitcom.training.store import PartyStore, sections_of
from splitcom.training.variance import estimate_of, flat_of

Conversation = Generator[Message | None, Message, Any]
_EXACT = AdapterCodec("none")


@dataclass(frozen=True)
class RoundSummary:
    """What a client did in a round; the loss, in nats over `num_labels` labels, only where it can know it."""

    num_tokens: int
    num_steps: int
    loss_sum: float = 0.0
    num_labels: int = 0
    num_correct: int = 0
    num_released: int = 0  # vectors under noise that have ever left of one sample, of that with the most
    weight: int = 0  # labels trained on, by which the update counts; the server counts the same
    num_updates: int = 0  # adapters under noise that have ever left, with this round's

    def __add__(self, other: "RoundSummary") -> "RoundSummary":
        summed = RoundSummary(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )
        return replace(summed, num_released=other.num_released, num_updates=other.num_updates)


class Leaving(Protocol):
    """What is done to a batch of a flow before it is coded and leaves the client."""

    def __call__(
        self, flow: str, batch: Ragged, ids: Sequence[int], position: tuple[int, int], scale: float = 1.0
    ) -> Ragged:
        """What is to leave of it; `position` is round and step, numbers are `scale` times what they are of."""


class Trainer(Protocol):
    """The part of the model that a client holds, and its data."""

    num_samples: int
    num_held_out: int
    leaving: Leaving

    @property
    def cut(self) -> int:
        """How many blocks the front has."""

    def move(self, cut: int) -> None:
        """Have another front of so many blocks, with new adapters and no references; labels that were sent stay so."""

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train one round; yields what the server must see, and returns None if the server has it paused.

        Raises RoundAborted if the server ends it.
        """

    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Run held-out samples after a round, `most` of them or (0) all; yields what the server must see.

        If `exact`, that is what a coded evaluation has left out.
        """

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapter that is averaged with the other clients'."""

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an averaged adapter in place."""

    def references(self) -> Iterator[tuple[str, ReferenceStore]]:
        """Flow and references of every channel that keeps some here."""

    def state(self) -> dict[str, torch.Tensor]:
        """Everything but the adapter that a checkpoint must keep."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""


@dataclass
class Held:
    """The shared adapter as this client last got it, in fp32; what it trains is another copy.

    `base` is the one from which the round began that is under way, which an evaluation in between may have left behind.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    version: int = 0  # 0: none
    is_in_place: bool = False  # what the trainer has is this, untrained
    base: Mapping[str, torch.Tensor] = field(default_factory=dict)
    before: Mapping[str, torch.Tensor] = field(default_factory=dict)  # that of the round before


class Client:
    """Turns received bytes into the bytes to answer with; one conversation, which begins from `trainer` as it is.

    `channels` are those through which the trainer sends, `limits` how large the server's messages may be.
    """

    def __init__(
        self,
        name: str,
        trainer: Trainer,
        channels: Channels,
        config: Config,
        model_fingerprint: str,
        store: PartyStore,
        limits: KindLimits = LIMITS,
    ) -> None:
        self.name = name
        self._trainer = trainer
        self._channels = channels
        self._is_paused = False
        self._has_tail = bool(config.model.tail_blocks)
        self._seed = config.seed
        cuts = config.federation.cuts
        self._most_cut = None if cuts.every is None or cuts.most is None else max(cuts.most, config.model.cut)
        self._up = AdapterSender(config.flows.adapter("adapter_up"))
        self._down = AdapterSender(config.flows.adapter("adapter_down")).codec
        self._variance = config.federation.variance
        self._num_segments = config.federation.segments
        self._masking = Masking(config)
        self._fingerprint = model_fingerprint
        # as the server's first version, if that was drawn alike; the server knows by the digest
        self._held = Held(trainer.adapter(), 1) if self._down.needs_base else Held()
        self._store = store
        self._session = Session(Role.CLIENT, form=Form.of(config.model.tail_blocks), limits=limits)
        self._conversation = self._converse()
        self.kept: Welcome | None = None
        """What would bring a new conversation of this client to where it is; None: it is more than it has saved."""

    def connect(self) -> bytes:
        """The first message of the conversation."""
        hello = next(self._conversation)
        assert hello is not None
        return self._session.send(hello)

    def receive(self, data: bytes) -> bytes | None:
        """Work on a message and return the answer; None if there is nothing to say.

        Raises RefusedError if the server refuses this client, RemoteProtocolError if it breaks the protocol.
        """
        message = self._session.receive(data)
        if message.WhichOneof("kind") == "failure":
            reason = visible(message.failure.reason, PEER_CHARACTERS)
            raise RefusedError(f"the server has ended the session of {self.name}: {reason}")
        try:
            answer = self._conversation.send(message)
        except StopIteration:
            return None
        return None if answer is None else self._session.send(answer)

    @property
    def finished(self) -> bool:
        """Whether the server has said that the run is over."""
        return self._session.state is State.CLOSED

    def close(self) -> None:
        """Let go of references that are kept in files."""
        for _, references in self._trainer.references():
            references.close()

    def _converse(self) -> Conversation:
        message = yield Message(
            hello=Hello(
                protocol_version=PROTOCOL_VERSION,
                client=self.name,
                model_fingerprint=self._fingerprint,
                num_samples=self._trainer.num_samples,
                num_held_out=self._trainer.num_held_out,
                saved_rounds=self._store.rounds(),
                adapter_digest=digest_of(self._held.tensors),
            )
        )
        if message.welcome.HasField("round"):
            self._restore(message.welcome.round)
        self.kept = message.welcome
        message = yield None
        while True:
            self.kept = None
            match message.WhichOneof("kind"):
                case "round_start":
                    message = yield (yield from self._train(message.round_start))
                case "evaluation_start":
                    message = yield (yield from self._evaluate(message.evaluation_start))
                case "save_state":
                    self._save(message.save_state.round)
                    self.kept = Welcome(round=message.save_state.round)
                    message = yield Message(state_saved=StateSaved())
                case "mask_start":
                    message = yield self._masking.start()
                case "mask_peers":
                    message = yield self._masking.share(message.mask_peers)
                case "mask_open":
                    message = yield self._masking.open(message.mask_open.arrived)
                case _:  # finish
                    return

    def _move(self, cut: int) -> None:
        """Cut the model elsewhere, if the server has moved this client's cut; 0: it stays."""
        if cut in (0, self._trainer.cut):
            return
        if not 1 <= cut <= (self._most_cut or 0):
            raise RemoteProtocolError(
                f"a front of {cut} blocks, where {self._most_cut or 'no other'} is the most"
            )
        self._trainer.move(cut)
        self._held = Held()
        self._up.residual = {}

    def _train(self, start: RoundStart) -> Generator[Message | None, Message, Message | None]:
        self._move(start.cut)
        if start.first_step == 0:
            self._take_adapter(start.adapter_version, start.adapter)
            self._held.before, self._held.base = self._held.base, self._held.tensors
        keeps_adapter = start.frozen and not self._has_tail
        if start.first_step or not keeps_adapter:
            self._held.is_in_place = False
        self._is_paused = False
        follow(self._channels, start)
        try:
            summary = yield from self._trained(start)
        except RoundAborted:
            return None
        finally:
            forget_batches(self._channels)
        if summary is None:
            self._is_paused = True
            return Message(round_paused=RoundPaused())
        return Message(
            round_end=RoundEnd(
                round=start.round,
                num_tokens=summary.num_tokens,
                num_steps=summary.num_steps,
                loss_sum=summary.loss_sum,
                num_labels=summary.num_labels,
                num_correct=summary.num_correct,
                num_released=summary.num_released,
                num_updates=summary.num_updates,
                adapter=b"" if keeps_adapter else self._made(start, summary.weight),
            )
        )

    def _trained(self, start: RoundStart) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train the round, or chunk after chunk of it until the server says that it is enough."""
        place = start.place if start.HasField("place") else start.round
        local = LocalRound(start.round, place, start.first_step, start.frozen, start.chunk_steps or None)
        summary = yield from self._trainer.train(local)
        while start.chunk_steps and summary is not None:
            verdict = yield Message(chunk_end=ChunkEnd(sketch=self._sketch(start)))
            if not verdict.chunk_next.more:
                break
            local = replace(local, first_step=local.first_step + start.chunk_steps)
            more = yield from self._trainer.train(local)
            summary = None if more is None else summary + more
        return summary

    def _sketch(self, start: RoundStart) -> bytes:
        """What tells how far this client has gone since the round began."""
        held = self._held
        before = held.before if start.along_last else None
        estimate = estimate_of(self._variance, self._seed, start.round, held.base, before)
        return estimate.pack(flat_of(self._trainer.adapter()) - flat_of(held.base))

    def _evaluate(self, start: EvaluationStart) -> Generator[Message | None, Message, Message]:
        self._move(start.cut)
        own = self._trainer.adapter() if self._is_paused else None
        self._take_adapter(start.adapter_version, start.adapter)
        end = yield from self._trainer.evaluate(start.round, exact=start.exact, most=start.max_samples)
        if not isfinite(end.loss_sum):
            raise NonFiniteError(f"{self.name}: the held-out loss is {end.loss_sum}; {DIVERGED}")
        if own is not None:
            self._trainer.load_adapter(own)
            self._held.is_in_place = False
        return Message(evaluation_end=end)

    def _take_adapter(self, version: int, data: bytes) -> None:
        """Have the trainer go on from this version of the shared adapter; of one that is held nothing has come."""
        held = self._held
        if data or version != held.version:
            held.tensors = self._read(data) if data else {}
            held.version, held.is_in_place = version, False
        if not held.is_in_place:
            self._trainer.load_adapter(held.tensors)
            held.is_in_place = True

    def _read(self, data: bytes) -> dict[str, torch.Tensor]:
        packets, is_exact = unpack_packets(data)
        codec = _EXACT if is_exact else self._down
        tensors = self._held.tensors or self._trainer.adapter()  # for names and shapes, if none is held
        for packet in packets:
            tensors = codec.decode(packet, tensors)
        return dict(tensors)

    def _made(self, start: RoundStart, weight: int) -> bytes:
        """The packet of what this client has made of the shared adapter, or of the segment that is due."""
        if self._masking.is_on:
            return self._masking.masked(self._trainer.adapter(), self._held.base, weight, start.mask_shares)
        if start.segment >= self._num_segments:
            raise RemoteProtocolError(f"segment {start.segment} of {self._num_segments} is wanted")
        made, base = (
            segment_of(tensors, start.segment, self._num_segments)
            for tensors in (self._trainer.adapter(), self._held.base)
        )
        seed = derive_seed(self._seed, self.name, "adapter_up", start.round)
        return self._up.encode(made, base, seed, start.share if start.HasField("share") else None)[0]

    def _save(self, round_index: int) -> None:
        held = self._held
        sections = {
            "adapter": self._trainer.adapter() if self._is_paused else {},
            "trainer": self._trainer.state(),
            "held": held.tensors,
            "base": held.base if self._is_paused or self._variance.estimate else {},
            "residual": self._up.residual,
        }
        tensors = {f"{s}.{name}": tensor for s, named in sections.items() for name, tensor in named.items()}
        refused = {flow: channel.num_refused for flow, channel in self._channels.items()}
        scalars = {
            "version": held.version,
            "paused": self._is_paused,
            "cut": self._trainer.cut,
            "refused": refused,
        }
        self._store.save(round_index, tensors, scalars, self._trainer.references())

    def _restore(self, round_index: int) -> None:
        tensors, scalars = self._store.load(round_index)
        sections = sections_of(tensors)
        self._move(scalars.get("cut", 0))
        self._held = Held(sections["held"], scalars["version"], base=sections["base"])
        self._up.residual = dict(sections["residual"])
        for flow, channel in self._channels.items():
            channel.num_refused = scalars.get("refused", {}).get(flow, 0)
        self._is_paused = scalars["paused"]
        if self._is_paused:
            self._trainer.load_adapter(sections["adapter"])
        self._trainer.load_state(sections["trainer"])
        self._store.load_references(round_index, self._trainer.references())
