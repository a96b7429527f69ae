"""What a training step of a part holds at most, found by running it without numbers; loads no weights.

Every operation of the family's own code runs on tensors that have shapes and no memory (torch's fake tensors, as if on
the CPU), and each storage is counted from its making to its end. What a kernel takes for itself is not seen.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splitcom.models.load import Labels, anatomy_of, load_config, skeleton
from splitcom.models.split import PARTS, Part, spans, strip


def shapes_of(
    source: str | Path, name: str, cut: int, tail_blocks: int, dtype: torch.dtype, labels: Labels = None
) -> Part:
    """The "front", "body" or "tail" of a model on the meta device: shapes and dtypes alone."""
    config = load_config(source, labels)
    anatomy = anatomy_of(config, labels)
    span = spans(anatomy.num_blocks, cut, tail_blocks)[name]
    return PARTS[name](strip(skeleton(config, dtype, labels), anatomy, span), anatomy, span)


def peak_of(part: Part, step: Callable[[Part], None]) -> int:
    """Bytes that `step` holds at most while it trains this part of `shapes_of`, the part's own tensors not counted.

    The part is of no use afterwards.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        part.to_empty(device="cpu")
        part.train()
        with _Live(part) as live:
            step(part)
    return int(live.peak)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made within it, without those of a module."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in (*held.parameters(), *held.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
