"""What every trainer of a client has: parts of the model under one optimizer, rows, and ends of flows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from splitcom.client.client import Leaving
from splitcom.codecs import Ragged, ReferenceStore
from splitcom.config import Config
from splitcom.data import Batch, Batches, Sample, lengths_of
from splitcom.models import Front, Part, joined_state, load_joined_state
from splitcom.models.dropout import seed_dropout
from splitcom.seeds import derive_seed
from splitcom.training.channel import Channels, finer_if_few
from splitcom.training.loss import learnt_tokens
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import (
    LocalRound,
    chunk_batches,
    evaluated,
    held_out_batches,
    progress_of,
    round_batches,
)


@dataclass(frozen=True)
class Rows:
    """A client's own data."""

    samples: Sequence[Sample]
    held_out: Sequence[Sample]


def _as_it_is(
    flow: str, batch: Ragged, ids: Sequence[int], position: tuple[int, int], scale: float = 1.0
) -> Ragged:
    return batch


class PartsTrainer:
    """The half of `Trainer` that does not depend on what is trained how."""

    def __init__(
        self, name: str, parts: Sequence[Part], rows: Rows, channels: Channels, config: Config
    ) -> None:
        self.num_samples = len(rows.samples)
        self.num_held_out = len(rows.held_out)
        self.leaving: Leaving = _as_it_is
        self.fronts: Callable[[int], Front] | None = None  # makes one of so many blocks, if cuts move
        self._name = name
        self._parts = parts
        self._samples = rows.samples
        self._held_out = rows.held_out
        self._channels = channels
        self._config = config
        self._device = next(parts[0].parameters()).device
        self._optimizer = self._make_optimizer()

    def _make_optimizer(self) -> Optimizer:
        return Optimizer(
            (p for part in self._parts for p in part.parameters() if p.requires_grad),
            self._config.training,
            self._config.client.proximal or 0.0,
        )

    @property
    def cut(self) -> int:
        """How many blocks the front has."""
        return self._parts[0].span.stop

    def move(self, cut: int) -> None:
        """Have another front; the optimizer, also of the tail, begins anew, and all references are forgotten."""
        assert self.fronts is not None
        self._parts = (self.fronts(cut), *self._parts[1:])
        self._optimizer = self._make_optimizer()
        for _, references in self.references():
            references.clear()

    def _begin(self, local: LocalRound, kept: Sequence[Sample] | None = None) -> tuple[int, Batches]:
        """The first step, and the batches of all of a round that begins, or goes on from a pause, or of a chunk of it.

        They are of all samples, or of those that are `kept`.
        """
        samples = self._samples if kept is None else kept
        if local.first_step == 0:
            self._optimizer.begin_round()
        if local.chunk_steps is None:
            return 0, round_batches(samples, self._config, self._name, local.index)
        steps = range(local.first_step, local.first_step + local.chunk_steps)
        return steps.start, chunk_batches(samples, self._config, self._name, local.index, steps)

    def _progress(self, local: LocalRound, step: int, num_steps: int) -> float:
        """That of the run at a step; where nobody knows how many a round has, that of the round's middle."""
        if local.chunk_steps is not None:
            return progress_of(self._config, local.place, 0, 1)
        return progress_of(self._config, local.place, step, num_steps)

    def _parts_of(self, batch: Batch) -> list[Batch]:
        return batch.parts(self._config.training.accumulate)

    def _draw(self, *position: int | str) -> Callable[[int], None]:
        """What seeds the dropout of one of the passes of a step."""

        def draw(index: int) -> None:
            last = (index,) if index else ()
            seed_dropout(self._device, derive_seed(self._config.seed, self._name, *position, *last))

        return draw

    def _held_out_hidden(
        self, front: Front, round_index: int, most: int
    ) -> Iterator[tuple[tuple[int, int], Batch, torch.Tensor, Ragged]]:
        """Of each batch of held-out samples its position, itself, its mask and what leaves the front for it."""
        rows = evaluated(self._held_out, self._config, most)
        num_tokens = int(lengths_of(rows).sum())
        coded, exact = (self._channels[f"evaluation_up{which}"] for which in ("", "_exact"))
        coded.decision = finer_if_few(coded.codec, num_tokens)
        if exact.references is not None:
            exact.decision = finer_if_few(exact.codec, num_tokens, exact=True)
        for step, batch in enumerate(held_out_batches(rows, self._config)):
            position = (round_index, step)
            mask = batch.attention_mask.to(self._device)
            hidden = front(batch.input_ids.to(self._device), mask)
            ragged = Ragged.from_padded(hidden, mask, learnt_tokens(batch.labels))
            yield position, batch, mask, self.leaving("evaluation", ragged, batch.sample_ids, position)

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapters of all parts; their tensors' names are those in the whole model, so they never clash."""
        return joined_state(self._parts)

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an averaged adapter in place."""
        load_joined_state(self._parts, state)

    def references(self) -> Iterator[tuple[str, ReferenceStore]]:
        """Flow and references of every channel that keeps some at this client."""
        for flow, channel in self._channels.items():
            if channel.references is not None:
                yield flow, channel.references

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's moments."""
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        self._optimizer.load_state(state)
