"""What both ends know of a batch's tokens before the body of its packet, and what they keep of them. Knows no basis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.lattice.coder import BitModel, Coder
from splitcom.codecs.lattice.packing import pack, unpack
from splitcom.codecs.lattice.predict import Window
from splitcom.codecs.references import ReferenceStore
from splitcom.codecs.wire import Bools, Ints, Points
from splitcom.errors import CodecError


@dataclass(frozen=True)
class Recent:
    """The tokens of recent samples, the newest last, which are read only if they are asked for."""

    store: ReferenceStore
    ids: Sequence[int]
    lengths: Ints

    @classmethod
    def of(cls, store: ReferenceStore, window: int) -> "Recent":
        """As many of the samples used last as have `window` tokens together."""
        ids: list[int] = []
        lengths: list[int] = []
        for sample_id, reference in store.newest():
            window -= reference.length
            if window < 0:  # of what may be very many, no more are looked at
                break
            ids.append(sample_id)
            lengths.append(reference.length)
        return cls(store, ids[::-1], np.array(lengths[::-1], np.int64))

    @property
    def size(self) -> int:
        """How many these are."""
        return int(self.lengths.sum())

    def read(self, rows: Points) -> None:
        """Fill `rows` `[size, dims]`, zeros so far."""
        _read(self.store, self.ids, self.lengths, rows)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch, sample after sample."""

    lengths: Ints
    known: Bools
    """Which samples build on a reference, `[batch]`."""
    factors: Ints
    """`[tokens, 1]`: how many times the step is to be taken for each token's."""
    reference: Points
    """`[tokens, dims]`, zeros if there is none: of samples that are known, and guesses."""
    guessed: Bools
    """Which tokens of the others have a guess, `[tokens]`."""
    recent: Recent
    """Those that pointers can name."""

    @classmethod
    def of(
        cls,
        store: ReferenceStore,
        ids: list[int],
        lengths: Ints,
        known: Bools,
        factors: Ints,
        dims: int,
        window: int,
    ) -> "Tokens":
        """What the store holds of these samples, and of as many recent ones as have `window` tokens together.

        No reference has more than `dims` directions: those of the basis.
        """
        held = [sample_id if is_known else None for sample_id, is_known in zip(ids, known, strict=True)]
        _read(store, held, lengths, reference := np.zeros((int(lengths.sum()), dims), np.float32))
        guessed = np.zeros(len(reference), np.bool_)
        return cls(lengths, known, factors, reference, guessed, Recent.of(store, window))

    def with_guess(self, guessed: Bools, coordinates: Points) -> "Tokens":
        """With integer `coordinates` `[guessed, dims]` as what tokens of new samples are guessed to be."""
        reference = self.reference.copy()
        reference[guessed] = coordinates
        return replace(self, reference=reference, guessed=guessed)

    @property
    def of_known(self) -> Bools:
        """Which tokens are of samples that build on a reference, `[tokens]`."""
        return np.repeat(self.known, self.lengths)

    @property
    def of_own(self) -> Bools:
        """Which tokens have a prediction of their own: a reference or a guess, `[tokens]`."""
        return self.of_known | self.guessed

    @property
    def learnt(self) -> Tensor:
        """Which tokens are no prompt's, as far as the packet says."""
        return torch.from_numpy(self.factors[:, 0] == 1)

    @property
    def most_named(self) -> int:
        """How many tokens there may be in the window."""
        return self.recent.size + len(self.reference) + int(self.guessed.sum())

    def window(self, holds_batch: bool) -> Window:
        """What pointers can name: recent tokens, what is guessed, and then the batch itself, as it becomes known.

        A sample's guesses stand for its words, which are other tokens' too.
        """
        room = self.most_named - self.recent.size if holds_batch else 0
        window = Window(self.recent, room, self.reference.shape[1])
        if self.guessed.any():
            window.append(self.reference[self.guessed])
        return window

    def any_of(self, flags: Bools) -> Bools:
        """Which samples `[batch]` have a token that is set in `flags` `[tokens]`."""
        return np.logical_or.reduceat(flags, _starts(self.lengths))

    def keep(self, store: ReferenceStore, ids: list[int], coordinates: Points, width: int) -> None:
        """Put integer `coordinates` `[tokens, dims]` into the store in place of the references.

        To the store they are of `width` columns, of which those that no direction has yet are zero.
        """
        changed = ~self.known | self.any_of((coordinates != self.reference).any(1))
        rows = coordinates[np.repeat(changed, self.lengths)]
        store.update(
            ids,
            self.lengths,
            torch.from_numpy(rows),
            changed=changed,
            known=self.known,
            kept=[pack(sample) for sample in np.split(rows, np.cumsum(self.lengths[changed])[:-1])],
            width=width,
        )


def code_factors(coder: Coder, prompts: BitModel, factor: int, learnt: Tensor | None, lengths: Ints) -> Ints:
    """Code which tokens are a prompt's; gives how many times the step each is to have, 1 or `factor`, `[tokens, 1]`.

    `learnt` is bool `[tokens]`, None if it is read.
    """
    factors = np.ones((int(lengths.sum()), 1), np.int64)
    if factor > 1:
        changes = None if learnt is None else _changes(learnt.numpy(), lengths)
        changes = prompts.code(coder, np.zeros(len(factors), np.int64), changes)
        factors[~_runs(changes, lengths)] = factor
    return factors


def _read(store: ReferenceStore, ids: Sequence[int | None], lengths: Ints, rows: Points) -> None:
    """Fill `rows` `[tokens, dims]`, zeros so far, with the references of samples; those of None stay zeros."""
    held = [sample_id for sample_id in ids if sample_id is not None]
    if held and not store.reduced:
        raise CodecError("the store keeps no packed coordinates: it is of another codec")
    items = iter(store.read_kept(held))
    for sample_id, sample in zip(ids, np.split(rows, np.cumsum(lengths))[:-1], strict=True):
        if sample_id is not None:
            unpack(next(items), sample)


def _starts(lengths: Ints) -> Ints:
    starts: Ints = np.cumsum(lengths) - lengths
    return starts


def _changes(learnt: Bools, lengths: Ints) -> Bools:
    """Where a token differs from the one before it in its sample, the first from a prompt's: that is rare."""
    before = np.roll(learnt, 1)
    before[_starts(lengths)] = False
    return learnt ^ before


def _runs(changes: Bools, lengths: Ints) -> Bools:
    """Inverse of `_changes`."""
    odd = np.logical_xor.accumulate(changes)
    starts = _starts(lengths)
    return odd ^ np.repeat(odd[starts] ^ changes[starts], lengths)
