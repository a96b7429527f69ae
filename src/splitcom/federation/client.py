"""A client's side of the conversation: what it answers to each message; no I/O, no threads, no clocks.

The conversation is a generator that reads from top to bottom: it yields what the client sends and is sent what the
client receives. What training means is the trainer's business: `FrontTrainer` (split) or `WholeTrainer`.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from splitcom.codecs import ReferenceStore
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.adapters import pack_adapter, unpack_adapter
from splitcom.protocol.messages_pb2 import (
    EvaluationEnd,
    Hello,
    Message,
    RoundEnd,
)
from splitcom.protocol.session import PROTOCOL_VERSION, Role, Session

Conversation = Generator[Message | None, Message, Any]


@dataclass(frozen=True)
class RoundSummary:
    """What a client did in a round; the loss, in nats over `num_labels` tokens, only where it can know it."""

    num_tokens: int
    num_steps: int
    loss_sum: float = 0.0
    num_labels: int = 0


class Trainer(Protocol):
    """The part of the model that a client holds, and its data."""

    num_samples: int
    num_held_out: int

    def train(self, round_index: int) -> Generator[Message | None, Message, RoundSummary]:
        """Train one round; yields what the server must see."""

    def evaluate(self) -> Generator[Message | None, Message, EvaluationEnd]:
        """Run the held-out samples; yields what the server must see."""

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


class Client:
    """Turns received bytes into the bytes to answer with."""

    def __init__(self, name: str, trainer: Trainer, config: Config, model_fingerprint: str) -> None:
        self.name = name
        self.trainer = trainer
        self.adapter_version = 0
        self._adapter_dtype = getattr(torch, config.federation.adapter_dtype)
        self._fingerprint = model_fingerprint
        self._session = Session(Role.CLIENT)
        self._conversation = self._converse()

    def connect(self) -> bytes:
        """The first message of the conversation."""
        hello = next(self._conversation)
        assert hello is not None
        return self._session.send(hello)

    def receive(self, data: bytes) -> bytes | None:
        """Work on a message and return the answer; None where there is nothing to say."""
        message = self._session.receive(data)
        if message.WhichOneof("kind") == "failure":
            raise RemoteProtocolError(
                f"the server has ended the session of {self.name}: {message.failure.reason}"
            )
        try:
            answer = self._conversation.send(message)
        except StopIteration:
            return None
        return None if answer is None else self._session.send(answer)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        adapter = {f"adapter.{name}": tensor for name, tensor in self.trainer.adapter().items()}
        version = {"version": torch.tensor(self.adapter_version)}
        return adapter | version | self.trainer.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        state = dict(state)
        self.adapter_version = int(state.pop("version"))
        adapter = {name: state.pop(name) for name in list(state) if name.startswith("adapter.")}
        self.trainer.load_adapter({name.removeprefix("adapter."): tensor for name, tensor in adapter.items()})
        self.trainer.load_state(state)

    def _converse(self) -> Conversation:
        yield Message(
            hello=Hello(
                protocol_version=PROTOCOL_VERSION,
                client=self.name,
                model_fingerprint=self._fingerprint,
                num_samples=self.trainer.num_samples,
                num_held_out=self.trainer.num_held_out,
                adapter_version=self.adapter_version,
            )
        )
        message = yield None
        while True:
            match message.WhichOneof("kind"):
                case "round_start":
                    start = message.round_start
                    self._take_adapter(start.adapter_version, start.adapter)
                    summary = yield from self.trainer.train(start.round)
                    message = yield Message(
                        round_end=RoundEnd(
                            round=start.round,
                            num_tokens=summary.num_tokens,
                            num_steps=summary.num_steps,
                            loss_sum=summary.loss_sum,
                            num_labels=summary.num_labels,
                            adapter=pack_adapter(self.trainer.adapter(), self._adapter_dtype),
                        )
                    )
                case "evaluation_start":
                    self._take_adapter(
                        message.evaluation_start.adapter_version, message.evaluation_start.adapter
                    )
                    message = yield Message(evaluation_end=(yield from self.trainer.evaluate()))
                case "finish":
                    return
                case _:
                    message = yield None

    def _take_adapter(self, version: int, data: bytes) -> None:
        if version == self.adapter_version:
            return
        self.trainer.load_adapter(unpack_adapter(data))
        self.adapter_version = version
