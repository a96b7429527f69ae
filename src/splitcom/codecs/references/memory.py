"""A reference store in memory."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from splitcom.codecs.precision import Precision
from splitcom.codecs.references.store import ReferenceStore
from splitcom.codecs.wire import Buffer


class MemoryReferences(ReferenceStore):
    """References in memory.

    >>> import numpy as np, torch
    >>> store = MemoryReferences("fp16")
    >>> new = np.array([True])
    >>> store.update([7], np.array([1]), torch.tensor([[0.1]]), changed=new, known=~new)
    >>> store.read([7]).item(), store.peek([7])[0].version, store.num_bytes
    (0.0999755859375, 1, 2)
    """

    def __init__(self, precision: Precision = "fp16", limit_bytes: int | None = None) -> None:
        super().__init__(precision, limit_bytes)
        self._data: dict[int, bytes] = {}

    @override
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        return [self._data[sample_id] for sample_id in sample_ids]

    @override
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        for sample_id in removed:
            del self._data[sample_id]
        for sample_id, item in data.items():
            self._data[sample_id] = bytes(item)
