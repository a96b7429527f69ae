"""A store on top of another one, which it leaves as it is."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from splitcom.codecs.references.store import ReferenceStore
from splitcom.codecs.wire import Buffer


class OverlayReferences(ReferenceStore):
    """Begins with all that `below` holds, and keeps in memory what becomes different; `below` must stay as it is.

    >>> import numpy as np, torch
    >>> from splitcom.codecs.references import MemoryReferences
    >>> below, new = MemoryReferences("fp16"), np.array([True])
    >>> below.update([7], np.array([1]), torch.tensor([[0.5]]), changed=new, known=~new)
    >>> above = OverlayReferences(below)
    >>> above.update([7], np.array([1]), torch.tensor([[0.25]]), changed=new, known=new)
    >>> above.read([7]).item(), below.read([7]).item()
    (0.25, 0.5)
    """

    def __init__(self, below: ReferenceStore) -> None:
        super().__init__(below.precision, below.limit_bytes)
        self._below = below
        self._own: dict[int, bytes] = {}
        self._index, self._sizes = below._index.copy(), below._sizes.copy()
        self.hidden, self.reduced, self.basis, self.flow = (
            below.hidden,
            below.reduced,
            below.basis,
            below.flow,
        )
        self.num_bytes, self.kept_bytes = below.num_bytes, below.kept_bytes

    @override
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        return [self._own[one] if one in self._own else self._below.read_kept([one])[0] for one in sample_ids]

    @override
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        for sample_id in removed:
            self._own.pop(sample_id, None)
        for sample_id, item in data.items():
            self._own[sample_id] = bytes(item)
