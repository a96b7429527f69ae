"""What a client does to what it trains and sends: wrappers around a `Trainer`; knows no server.

    Client ─► wrapper ─► wrapper ─► FrontTrainer | EndsTrainer | WholeTrainer

A new one is a subclass of `Wrapper` that overrides what it changes, a setting in `config/client.py`, and a line in
`wrapped`.
"""

import logging
from collections.abc import Generator, Iterator, Mapping
from math import exp

import torch
from torch import Tensor

from splitcom.client.client import RoundSummary, Trainer
from splitcom.codecs import ReferenceStore
from splitcom.config import Config
from splitcom.protocol.messages_pb2 import EvaluationEnd, Message
from splitcom.training.plan import LocalRound

_LOG = logging.getLogger(__name__)


class Wrapper:
    """Hands everything on and changes nothing; `name` is the client's."""

    def __init__(self, inner: Trainer, name: str) -> None:
        self.name = name
        self.num_samples = inner.num_samples
        self.num_held_out = inner.num_held_out
        self._inner = inner

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train one round; None if it is paused."""
        return (yield from self._inner.train(local))

    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Run the held-out samples."""
        return (yield from self._inner.evaluate(round_index, exact=exact, most=most))

    def adapter(self) -> dict[str, Tensor]:
        """What is sent at the end of a round."""
        return self._inner.adapter()

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Put an adapter in place."""
        self._inner.load_adapter(state)

    def references(self) -> Iterator[tuple[str, ReferenceStore]]:
        """Flow and references of every channel that keeps some here."""
        return self._inner.references()

    def state(self) -> dict[str, Tensor]:
        """Everything but the adapter that a checkpoint must keep; a wrapper's own tensors are named after it."""
        return self._inner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self._inner.load_state(state)


class ClipUpdate(Wrapper):
    """Bounds what a round changes: the L2 norm, over all tensors, of the adapter less the one the round began from.

        x  <-  x_0 + (x - x_0) * min(1, bound / norm(x - x_0))

    So no client moves the mean by more than its part of `bound`, as in differentially private averaging (McMahan et al.
    2018, arXiv 1710.06963). `num_clipped` counts the rounds of this process that were.
    """

    def __init__(self, inner: Trainer, name: str, bound: float) -> None:
        super().__init__(inner, name)
        self.num_clipped = 0
        self._bound = bound
        self._began: dict[str, Tensor] = {}  # the round that is under way or paused

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train one round, and clip what has come of it if it is complete."""
        if local.first_step == 0:
            self._began = self.adapter()
        summary = yield from super().train(local)
        if summary is not None:
            self._clip(local.index)
            self._began = {}
        return summary

    def state(self) -> dict[str, Tensor]:
        """Of a paused round, where it began, too."""
        return super().state() | {f"{_BEGAN}{name}": tensor for name, tensor in self._began.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self._began = {
            name.removeprefix(_BEGAN): tensor for name, tensor in state.items() if name.startswith(_BEGAN)
        }
        super().load_state({name: tensor for name, tensor in state.items() if not name.startswith(_BEGAN)})

    def _clip(self, round_index: int) -> None:
        trained = self.adapter()
        changes = {name: trained[name].double() - began.double() for name, began in self._began.items()}
        norm = sum(float(change.square().sum()) for change in changes.values()) ** 0.5
        if not norm > self._bound:  # also if it is NaN, which is for others to find
            return
        self.num_clipped += 1
        _LOG.info(
            "%s, round %d: an update of norm %.4g is clipped to %g", self.name, round_index, norm, self._bound
        )
        scale = self._bound / norm
        self.load_adapter(
            {
                name: (began.double() + changes[name] * scale).to(began.dtype)
                for name, began in self._began.items()
            }
        )


_BEGAN = "clip_update."


class Mixing(Wrapper):
    """Begins a round from the shared adapter x mixed with what this client made in its last round, t rounds ago.

        x  <-  (1 - w) * x + w * own        w = exp(-rate * t)

    EcoLoRA (2506.02001): of segments that a client has not sent, its own training is not lost at once. In the first
    round there is nothing to mix in, nor while the front is frozen.
    """

    def __init__(self, inner: Trainer, name: str, rate: float) -> None:
        super().__init__(inner, name)
        self._rate = rate
        self._own: dict[str, Tensor] = {}
        self._round = 0

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Mix, and train one round."""
        if local.first_step == 0 and self._own and not local.is_frozen:
            part = exp(-self._rate * (local.index - self._round))
            self.load_adapter(
                {
                    name: (shared.double() * (1 - part) + self._own[name].double() * part).to(shared.dtype)
                    for name, shared in self.adapter().items()
                }
            )
        summary = yield from super().train(local)
        if summary is not None:
            self._own, self._round = self.adapter(), local.index
        return summary

    def state(self) -> dict[str, Tensor]:
        """What it made, and when."""
        own = {f"{_OWN}{name}": tensor for name, tensor in self._own.items()}
        return super().state() | own | {_ROUND: torch.tensor(self._round)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        state = dict(state)
        self._round = int(state.pop(_ROUND))
        self._own = {
            name.removeprefix(_OWN): state.pop(name) for name in list(state) if name.startswith(_OWN)
        }
        super().load_state(state)


_OWN = "mixing.own."
_ROUND = "mixing.round"


def wrapped(trainer: Trainer, name: str, config: Config) -> Trainer:
    """A client's trainer with all that the configuration asks for around it."""
    if config.client.mixing is not None:
        trainer = Mixing(trainer, name, config.client.mixing)
    if config.client.clip_update is not None:
        trainer = ClipUpdate(trainer, name, config.client.clip_update)
    return trainer
