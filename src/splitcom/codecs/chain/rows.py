"""Some of the rows of a matrix of tokens: taking them out, and putting others in their place. Knows no stage."""

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.wire import Bools, Ints


class Rows:
    """Some of the tokens of a batch: `chosen` is bool `[tokens]`."""

    def __init__(self, chosen: Bools, lengths: Ints, device: torch.device | str) -> None:
        self.counts: Ints = np.add.reduceat(chosen, np.cumsum(lengths) - lengths, dtype=np.int64)
        """Chosen tokens of each sample, `[batch]`."""
        self.lengths = self.counts[self.counts > 0]
        """The same, of samples with any."""
        self._index = None if chosen.all() else torch.from_numpy(np.flatnonzero(chosen)).to(device)

    def of(self, values: Tensor) -> Tensor:
        """The chosen rows of `values` `[tokens, hidden]`; `values` itself where that is all of them."""
        return values if self._index is None else values.index_select(0, self._index)

    def over(self, values: Tensor, rows: Tensor) -> Tensor:
        """`values` with its chosen rows set to `rows`, in place; `rows` itself where that is all of them."""
        return rows if self._index is None else values.index_put_((self._index,), rows)
