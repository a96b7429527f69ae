"""Guesses of tokens for tests of codecs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Told:
    """Values `[tokens, hidden]` of some tokens of a batch, and which of these are guesses."""

    ids: Sequence[int]
    lengths: torch.Tensor
    values: torch.Tensor
    guessed: np.ndarray

    def of(self, ids, lengths):
        """As `codecs.Guess`."""
        places = [list(self.ids).index(sample_id) for sample_id in ids]
        assert self.lengths[places].tolist() == list(lengths)
        rows = torch.arange(len(self.values)).split(self.lengths.tolist())
        some = torch.cat([rows[place] for place in places])
        guessed = self.guessed[some.numpy()]
        return guessed, self.values[some[torch.from_numpy(guessed)]]
