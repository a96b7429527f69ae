"""What a client does to what it trains and sends: wrappers around a `Trainer`; knows no server.

    Client ─► wrapper ─► wrapper ─► FrontTrainer | EndsTrainer | WholeTrainer

A new one is a subclass of `Wrapper` that overrides what it changes, a setting in `config/client.py`, and a line in
`wrapped`.
"""

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from math import exp
from pathlib import Path

import torch
from torch import Tensor

from splitcom.aggregation import DpFedAvg
from splitcom.aggregation import parse as parse_aggregator
from splitcom.client.client import Leaving, RoundSummary, Trainer
from splitcom.codecs import Ragged, ReferenceStore
from splitcom.config import Config
from splitcom.metrics.tally import Tally
from splitcom.privacy import Gaussian
from splitcom.privacy import parse as parse_mechanism
from splitcom.protocol.messages_pb2 import EvaluationEnd, Message
from splitcom.seeds import derive_seed
from splitcom.training.adapters import parted
from splitcom.training.plan import LocalRound

_LOG = logging.getLogger(__name__)


class Wrapper:
    """Hands everything on and changes nothing; `name` is the client's."""

    def __init__(self, inner: Trainer, name: str) -> None:
        self.name = name
        self.num_samples = inner.num_samples
        self.num_held_out = inner.num_held_out
        self._inner = inner

    @property
    def cut(self) -> int:
        """How many blocks the front has."""
        return self._inner.cut

    def move(self, cut: int) -> None:
        """Have another front."""
        self._inner.move(cut)

    @property
    def leaving(self) -> Leaving:
        """What is done to batches before they leave."""
        return self._inner.leaving

    @leaving.setter
    def leaving(self, leaving: Leaving) -> None:
        self._inner.leaving = leaving

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
        if summary is not None and not local.is_frozen:
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


class Noised(Wrapper):
    """Clips and noises every vector that leaves, and counts how many have left of each sample.

    A front that never changes (`is_fixed`) gives the same for a sample at each visit, and one that has been evaluated
    the same in an exact evaluation. There the noise follows from a key and the sample, so that what leaves is the same
    release once more, which tells nothing new; elsewhere one noise for two vectors would tell their difference. What
    is in `folder` outlives the process: the key of a fixed front and the counts, as what was sent has been sent.
    """

    def __init__(
        self, inner: Trainer, name: str, mechanism: Gaussian, folder: Path, *, is_fixed: bool
    ) -> None:
        super().__init__(inner, name)
        self.leaving = self._released
        self._mechanism = mechanism
        self._is_fixed = is_fixed
        self._key = mechanism.key(name, folder if is_fixed else None)
        self._evaluated: set[int] = set()  # what has left of them may leave again
        self._tally, self._once_tally = Tally(folder / "released"), Tally(folder / "released_once")
        self._before, self._once = self._tally.read(), self._once_tally.read()
        self._counts: Counter[tuple[bool, int]] = Counter()  # vectors, by whether it is held out, and sample

    @property
    def num_released(self) -> int:
        """Vectors that have ever left of one sample, at most."""
        return self._num_new + self._once

    @property
    def _num_new(self) -> int:
        """Those that a fixed front does not repeat."""
        return self._before + max(self._counts.values(), default=0)

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train one round, and tell how much has left."""
        self._forget_evaluation()
        summary = yield from super().train(local)
        return None if summary is None else replace(summary, num_released=self.num_released)

    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Run the held-out samples, and tell how much has left."""
        if not exact:
            self._forget_evaluation()
        end = yield from super().evaluate(round_index, exact=exact, most=most)
        end.num_released = self.num_released
        return end

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Put an adapter in place, with which held-out samples are others."""
        self._forget_evaluation()
        super().load_adapter(state)

    def _forget_evaluation(self) -> None:
        if not self._is_fixed:
            self._key = self._mechanism.key(self.name)
            self._evaluated.clear()

    def _released(
        self, flow: str, batch: Ragged, ids: Sequence[int], position: tuple[int, int], scale: float = 1.0
    ) -> Ragged:
        is_gradient = flow == "gradient_up"
        clip = scale * (self._mechanism.gradients if is_gradient else self._mechanism.clip)
        sizes = batch.lengths.tolist()
        if is_gradient or not (self._is_fixed or flow == "evaluation"):
            seed = derive_seed(max(self._mechanism.seed, 0), self.name, flow, *position)
            values = self._mechanism.released(batch.values, clip, seed)
        else:
            pass_of = "" if self._is_fixed else position[0]
            keys = [self._key_of(flow, sample, pass_of) for sample in ids]
            rows = zip(torch.split(batch.values, sizes), keys, strict=True)
            values = torch.cat([self._mechanism.released(row, clip, key) for row, key in rows])
        self._count(flow, ids, sizes)
        return replace(batch, values=values)

    def _key_of(self, *parts: str | int) -> bytes:
        return blake2b(":".join(map(str, parts)).encode(), key=self._key).digest()

    def _count(self, flow: str, ids: Sequence[int], sizes: Sequence[int]) -> None:
        if self._is_fixed and flow != "gradient_up":
            self._once = max(self._once, *sizes)
        else:
            for sample, size in zip(ids, sizes, strict=True):
                if flow != "evaluation" or sample not in self._evaluated:
                    self._counts[flow == "evaluation", sample] += size
        if flow == "evaluation":
            self._evaluated.update(ids)
        self._tally.write(self._num_new)
        self._once_tally.write(self._once)


class NoisedUpdate(Wrapper):
    """Adds this client's part of the noise of `dp_fedavg(where=clients)` to what a round has made of the adapter.

    So much that it is enough if no more than `federation.min_clients` add theirs.
    """

    def __init__(self, inner: Trainer, name: str, config: Config, aggregator: DpFedAvg, tally: Tally) -> None:
        super().__init__(inner, name)
        self._aggregator = aggregator
        self._num_clients = config.federation.min_clients
        self._sends_frozen = bool(config.model.tail_blocks)
        self._tally = tally

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Train one round, and noise what has come of it if it is complete."""
        summary = yield from super().train(local)
        if summary is None or (local.is_frozen and not self._sends_frozen):
            return summary
        self._tally.write(count := self._tally.read() + 1)
        part = partial(self._aggregator.share, num_clients=self._num_clients)
        self.load_adapter(
            {
                name: (trained.double() + part(name, trained, position=(self.name, local.index))).to(
                    trained.dtype
                )
                for name, trained in self.adapter().items()
            }
        )
        return replace(summary, num_updates=count)


class OwnB(Wrapper):
    """Shares LoRA's A alone: all other tensors stay as this client has trained them, whatever it is sent.

    Of these it sends what it was sent, so that for the server they never move. FedSA-LoRA (Guo et al. 2024,
    2410.01463).
    """

    def __init__(self, inner: Trainer, name: str) -> None:
        super().__init__(inner, name)
        self._sent, _ = parted(inner.adapter())

    def adapter(self) -> dict[str, Tensor]:
        """A as it has been trained, the others as they were sent."""
        return {**super().adapter(), **self._sent}

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Put A in place."""
        self._sent, _ = parted(state)
        own, _ = parted(super().adapter())
        super().load_adapter({**state, **own})

    def state(self) -> dict[str, Tensor]:
        """What is this client's own, too."""
        own, _ = parted(super().adapter())
        return super().state() | {f"{_OWN_B}{name}": tensor for name, tensor in own.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        own = {name.removeprefix(_OWN_B): tensor for name, tensor in state.items() if name.startswith(_OWN_B)}
        super().load_adapter({**super().adapter(), **own})
        super().load_state({name: tensor for name, tensor in state.items() if not name.startswith(_OWN_B)})


_OWN_B = "own_b."


def wrapped(trainer: Trainer, name: str, config: Config, folder: Path) -> Trainer:
    """A client's trainer with all that the configuration asks for around it; what must last is kept in `folder`."""
    if config.client.privacy is not None:
        mechanism = parse_mechanism(config.client.privacy)
        trainer = Noised(trainer, name, mechanism, folder, is_fixed=_front_is_fixed(config))
    if config.client.own_b:
        trainer = OwnB(trainer, name)
    if config.client.mixing is not None:
        trainer = Mixing(trainer, name, config.client.mixing)
    if config.client.clip_update is not None:
        trainer = ClipUpdate(trainer, name, config.client.clip_update)
    aggregator = parse_aggregator(config.federation.aggregator)
    if isinstance(aggregator, DpFedAvg) and aggregator.where == "clients":
        trainer = ClipUpdate(trainer, name, aggregator.bound)
        tally = Tally(folder / "updates")
        trainer = NoisedUpdate(trainer, name, config, aggregator, tally)
    return trainer


def _front_is_fixed(config: Config) -> bool:
    """Whether a sample's activation is the same in the whole run, but for the order of additions."""
    learns = config.lora.front_learns or config.model.bottleneck is not None
    return not learns and config.federation.cuts.every is None
