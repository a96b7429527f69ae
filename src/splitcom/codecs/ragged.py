"""Ragged batches: the real tokens of a batch, one after the other, without padding. Knows no codec."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom.errors import CodecError


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """The tokens of several samples, concatenated.

    Args:
        values: `[tokens, hidden]`, floating point.
        lengths: `[batch]`, int64 on the CPU, every length at least 1, `sum(lengths) == tokens`.
        learnt: bool `[tokens]` on the CPU, tokens that labels are predicted from, or which have one; None if that
            is not known. A codec may spend more on them than on a prompt.

    Raises:
        CodecError: where the two do not fit each other.

    >>> padded = torch.arange(6.0).view(2, 3, 1)
    >>> mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    >>> batch = Ragged.from_padded(padded, mask)
    >>> batch.values.flatten().tolist(), batch.lengths.tolist()
    ([0.0, 1.0, 3.0], [2, 1])
    >>> batch.to_padded(mask).flatten().tolist()
    [0.0, 1.0, 0.0, 3.0, 0.0, 0.0]
    """

    values: Tensor
    lengths: Tensor
    learnt: Tensor | None = None

    def __post_init__(self) -> None:
        values, lengths = self.values, self.lengths
        if values.ndim != 2 or values.shape[1] == 0 or not values.is_floating_point():
            raise CodecError(
                f"values must be a float tensor [tokens, hidden], not {values.dtype} {list(values.shape)}"
            )
        if (
            lengths.ndim != 1
            or lengths.dtype != torch.int64
            or lengths.device.type != "cpu"
            or not len(lengths)
        ):
            raise CodecError(f"lengths must be int64 [batch] on the CPU, not {lengths.dtype} {lengths.shape}")
        if min(counts := lengths.tolist()) < 1 or sum(counts) != len(values):
            raise CodecError(f"lengths must be at least 1 and add up to {len(values)} tokens, not {counts}")
        learnt = self.learnt
        if learnt is not None and (learnt.dtype != torch.bool or learnt.shape != values.shape[:1]):
            raise CodecError(f"learnt must be bool [{len(values)}], not {learnt.dtype} {list(learnt.shape)}")

    @property
    def hidden(self) -> int:
        """Width of a token."""
        return self.values.shape[1]

    @classmethod
    def join(cls, parts: "Sequence[Ragged]") -> "Ragged":
        """The samples of several batches together; which tokens are learnt is known if it is of all of them."""
        learnt = [part.learnt for part in parts if part.learnt is not None]
        return cls(
            torch.cat([part.values for part in parts]),
            torch.cat([part.lengths for part in parts]),
            torch.cat(learnt) if len(learnt) == len(parts) else None,
        )

    @classmethod
    def from_padded(cls, padded: Tensor, attention_mask: Tensor, learnt: Tensor | None = None) -> "Ragged":
        """Take from `padded` `[batch, tokens, hidden]` what `attention_mask` `[batch, tokens]` marks.

        `learnt` is bool `[batch, tokens]`.
        """
        mask = attention_mask.bool()
        values = padded.flatten(0, 1)
        if not bool(mask.all()):
            # copies row by row; indexing with the mask would go element by element
            values = values.index_select(0, mask.flatten().nonzero().squeeze(1))
        return cls(values, mask.sum(1).cpu(), None if learnt is None else learnt.cpu()[mask.cpu()])

    def to_padded(self, attention_mask: Tensor) -> Tensor:
        """Lay the tokens out as `[batch, tokens, hidden]` where `attention_mask` is set, zeros elsewhere."""
        mask = attention_mask.bool()
        if bool(mask.all()):
            return self.values.view(*mask.shape, self.hidden)
        padded = self.values.new_zeros(*mask.shape, self.hidden)
        padded[mask] = self.values
        return padded
