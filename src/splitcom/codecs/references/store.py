"""The references of one (client, flow, side), whatever they are kept in. Knows no codec.

Sender and receiver do the same operations in the same order on a store each, with the same precision and
limit; so both hold, count and evict the same. Where they differ after all (a lost packet, a restart), version
and checksum show it before a reference is used. A codec may keep something else in place of a reference's values: a
projection, which is enough to judge similarity, or the values packed. Lengths, versions and checksums are of the whole,
and so is what counts towards the limit.
"""

import os
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from splitcom.codecs.precision import DTYPES, Precision, to_dtype
from splitcom.codecs.references import saved
from splitcom.codecs.references.reference import Reference
from splitcom.codecs.references.state import FlowState
from splitcom.codecs.wire import Bools, Buffer, Ints, tensor_bytes
from splitcom.errors import CodecError


class ReferenceStore(ABC):
    """References by sample id, in a fixed precision, the least recently used evicted first.

    Values beyond the precision's range are stored as its largest (fp16: ±65504). All references of a store
    have the same width.

    Args:
        precision: how a reference is stored: "fp16", "bf16" or "fp32".
        limit_bytes: upper bound of `num_bytes`, None for none. Must be the same on both sides.
    """

    def __init__(self, precision: Precision = "fp16", limit_bytes: int | None = None) -> None:
        if precision not in DTYPES:
            raise CodecError(f"precision of references must be one of {', '.join(DTYPES)}, not {precision!r}")
        if limit_bytes is not None and limit_bytes < 0:
            raise CodecError(f"limit_bytes of references must not be negative, is {limit_bytes}")
        self.precision: Precision = precision
        self.limit_bytes = limit_bytes
        self.hidden: int | None = None
        """Width of the references; None while the store has never held one."""
        self.reduced = False
        """Whether something else is kept in place of the values."""
        self.num_bytes = 0
        """Bytes of all references, counted as whole ones: by these both sides evict."""
        self.kept_bytes = 0
        """Bytes of all that is stored: `num_bytes`, or what is kept in place of the values."""
        self.num_changes = 0
        """How often anything that `save` writes has been changed."""
        self._basis: Tensor | None = None
        self._flow: FlowState | None = None
        self._index: OrderedDict[int, Reference] = OrderedDict()
        self._sizes: dict[int, int] = {}

    @property
    def basis(self) -> Tensor | None:
        """What projects references, where that has been fitted to them; saved with them."""
        return self._basis

    @basis.setter
    def basis(self, basis: Tensor | None) -> None:
        self._basis = basis
        self.num_changes += 1

    @property
    def flow(self) -> FlowState | None:
        """What the codec keeps beside the references; None at the beginning of a flow. It is never changed in place."""
        return self._flow

    @flow.setter
    def flow(self, flow: FlowState | None) -> None:
        self._flow = flow
        self.num_changes += 1

    @property
    def is_blank(self) -> bool:
        """Whether the store is as it was made."""
        return self.hidden is None and self.basis is None and self.flow is None

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, sample_id: int) -> bool:
        return sample_id in self._index

    def __iter__(self) -> Iterator[int]:
        """Sample ids, the least recently used first."""
        return iter(self._index)

    def newest(self) -> Iterator[tuple[int, Reference]]:
        """Sample ids and what is known of their references, the most recently used first; counts as no use."""
        return reversed(self._index.items())

    def peek(self, sample_ids: Iterable[int]) -> list[Reference | None]:
        """What is known of each reference, None if there is none; counts as no use."""
        return [self._index.get(sample_id) for sample_id in sample_ids]

    def read(self, sample_ids: Sequence[int]) -> Tensor:
        """The values of `sample_ids`, concatenated: a copy, fp32 `[tokens, hidden]` on the CPU.

        Counts as no use (see `update`). KeyError if one is missing.
        """
        data = bytearray().join(self._load(sample_ids))
        return torch.frombuffer(data, dtype=DTYPES[self.precision]).view(-1, self.hidden or 1).float()

    def read_kept(self, sample_ids: Sequence[int]) -> list[Buffer]:
        """What is stored of `sample_ids`, as `update` got it. KeyError if one is missing."""
        return self._load(sample_ids)

    def update(
        self,
        sample_ids: Sequence[int],
        lengths: Ints,
        values: Tensor,
        *,
        changed: Bools,
        known: Bools,
        kept: Sequence[Buffer] | None = None,
        width: int | None = None,
    ) -> None:
        """Count every sample of a batch as used, in order, replace the references that `changed`, and evict.

        Args:
            sample_ids: the batch; none twice.
            lengths: tokens of each sample, `[batch]`.
            values: fp32 `[tokens, hidden]`, the tokens of the changed samples only.
            changed: which samples get a new reference, `[batch]`; must hold if there is none yet.
            known: which samples were coded with use of their old reference, `[batch]`: their version goes up
                by one; that of the others starts at 1 again.
            kept: of each changed sample, what to keep in place of its values.
            width: of the references, if that is more than `values` has: the columns that it lacks are zero, and
                where something else is kept, checksums do not go over them.

        Raises:
            CodecError: where the store cannot be written; it is then as it was before.
        """
        rounded, hidden = to_dtype(values, DTYPES[self.precision]), width or values.shape[1]
        if kept is None:
            rounded = torch.nn.functional.pad(rounded, (0, hidden - values.shape[1]))
        whole = tensor_bytes(rounded)
        token_bytes = self._whole_bytes(rounded.shape[1])
        used: dict[int, Reference] = {}
        data: dict[int, Buffer] = {}
        end = 0
        for sample_id, length, is_new, is_known in zip(
            sample_ids, lengths.tolist(), changed.tolist(), known.tolist(), strict=True
        ):
            if is_new:
                end, start = end + length, end
                item = whole[start * token_bytes : end * token_bytes]
                version = self._index[sample_id].version + 1 if is_known else 1
                used[sample_id] = Reference(length, version, zlib.crc32(item))
                data[sample_id] = item if kept is None else kept[len(data)]
            else:
                used[sample_id] = self._index[sample_id]
        self._replace(used, data, hidden, kept is not None)

    @property
    def largest(self) -> float:
        """The largest magnitude that a reference holds; what is beyond it is kept as that."""
        return torch.finfo(DTYPES[self.precision]).max

    def clear(self) -> None:
        """Forget everything."""
        self._write({}, list(self._index))
        self._index.clear()
        self._sizes.clear()
        self.num_bytes, self.kept_bytes, self.hidden, self.reduced = 0, 0, None, False
        self.basis, self.flow = None, None

    def close(self) -> None:  # noqa: B027  (only some stores hold anything open)
        """Give up what the store holds open; it cannot be used afterwards."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file, whole or not at all, one reference in memory at a time.

        Raises:
            CodecError: where the file cannot be written; an older file is then as it was.
        """
        contents = saved.Contents(
            precision=self.precision,
            hidden=self.hidden or 0,
            reduced=self.reduced,
            entries={
                sample_id: saved.Entry(reference, self._sizes[sample_id], self._kept_checksum(sample_id))
                for sample_id, reference in self._index.items()
            },
            basis=self.basis,
            flow=self.flow,
        )
        saved.write(Path(path), contents, (self._load([sample_id])[0] for sample_id in self._index))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace everything by what `save` wrote to `path`, order of use included.

        Raises:
            CodecError: where the file is missing, damaged or of another precision; the store is then empty.
        """
        self.clear()
        try:
            with saved.opened(Path(path), self.precision) as (contents, kept):
                for (sample_id, entry), data in zip(contents.entries.items(), kept, strict=True):
                    used = {sample_id: entry.reference}
                    self._replace(used, {sample_id: data}, contents.hidden, contents.reduced)
                # also where all that it held has been evicted
                self.hidden, self.reduced = contents.hidden or None, contents.reduced
                self.basis, self.flow = contents.basis, contents.flow
        except CodecError:
            self.clear()
            raise

    def _replace(
        self,
        used: Mapping[int, Reference],
        data: Mapping[int, Buffer],
        hidden: int,
        reduced: bool,
    ) -> None:
        self.num_changes += 1
        whole_bytes = self._whole_bytes(hidden)
        added = sum(used[sample_id].length for sample_id in data)
        removed = sum(self._index[sample_id].length for sample_id in data if sample_id in self._index)
        num_bytes = self.num_bytes + (added - removed) * whole_bytes
        evicted: set[int] = set()
        by_use = chain((sample_id for sample_id in self._index if sample_id not in used), used)
        while self.limit_bytes is not None and num_bytes > self.limit_bytes:
            oldest = next(by_use)
            num_bytes -= (used.get(oldest) or self._index[oldest]).length * whole_bytes
            evicted.add(oldest)
        # first what may fail, then the index
        kept = {sample_id: item for sample_id, item in data.items() if sample_id not in evicted}
        self._write(kept, [sample_id for sample_id in evicted if sample_id in self._index])
        self.num_bytes, self.hidden, self.reduced = num_bytes, hidden, reduced
        self.kept_bytes -= sum(self._sizes.pop(sample_id, 0) for sample_id in evicted | kept.keys())
        self._sizes.update({sample_id: len(item) for sample_id, item in kept.items()})
        self.kept_bytes += sum(map(len, kept.values()))
        self._index.update(used)
        for sample_id in used:
            self._index.move_to_end(sample_id)
        for sample_id in evicted:
            del self._index[sample_id]

    def _kept_checksum(self, sample_id: int) -> int:
        if not self.reduced:
            return self._index[sample_id].checksum
        return zlib.crc32(self._load([sample_id])[0])

    def _whole_bytes(self, hidden: int) -> int:
        return hidden * DTYPES[self.precision].itemsize

    @abstractmethod
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        """The stored bytes of each sample; KeyError if one is missing."""

    @abstractmethod
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        """Remove samples, then store copies of `data`; all of it or, with a CodecError, nothing."""
