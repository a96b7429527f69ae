"""Where the references of one (client, flow, side) live: in memory, or in a bounded file. Knows no codec.

Sender and receiver do the same operations in the same order on a store each, with the same precision and
limit; so both hold, count and evict the same. Where they differ after all (a lost packet, a restart), version
and checksum show it before a reference is used. A codec may keep something else in place of a reference's values: a
projection, which is enough to judge similarity, or the values packed. Lengths, versions and checksums are of the whole,
and so is what counts towards the limit.
"""

import json
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import lmdb
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import override

from splitcom.codecs.number import to_dtype
from splitcom.codecs.state import FlowState
from splitcom.codecs.wire import Bools, Buffer, Ints, tensor_bytes
from splitcom.durable import put_in_place
from splitcom.errors import CodecError

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SAFETENSORS_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


class Reference(NamedTuple):
    """What is known of a stored reference without reading it."""

    length: int
    """Tokens."""
    version: int
    """Counts the times this sample was sent; 1 where it was sent without use of an older reference."""
    checksum: int
    """CRC-32 of its bytes in the store's precision."""


class ReferenceStore(ABC):
    """References by sample id, in a fixed precision, the least recently used evicted first.

    Values beyond the precision's range are stored as its largest (fp16: ±65504). All references of a store
    have the same width.

    Args:
        precision: how a reference is stored: "fp16", "bf16" or "fp32".
        limit_bytes: upper bound of `num_bytes`, None for none. Must be the same on both sides.
    """

    def __init__(self, precision: Precision = "fp16", limit_bytes: int | None = None) -> None:
        if precision not in _DTYPES:
            raise CodecError(
                f"precision of references must be one of {', '.join(_DTYPES)}, not {precision!r}"
            )
        if limit_bytes is not None and limit_bytes < 0:
            raise CodecError(f"limit_bytes of references must not be negative, is {limit_bytes}")
        self.precision: Precision = precision
        self.limit_bytes = limit_bytes
        self.hidden: int | None = None
        """Width of the references; None while the store has never held one."""
        self.reduced = False
        """Whether something else is kept in place of the values."""
        self.basis: Tensor | None = None
        """What projects references, where that has been fitted to them; saved with them."""
        self.num_bytes = 0
        """Bytes of all references, counted as whole ones: by these both sides evict."""
        self.kept_bytes = 0
        """Bytes of all that is stored: `num_bytes`, or what is kept in place of the values."""
        self.flow: FlowState | None = None
        """What the codec keeps beside the references; None at the beginning of a flow."""
        self._index: OrderedDict[int, Reference] = OrderedDict()
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, sample_id: int) -> bool:
        return sample_id in self._index

    def __iter__(self) -> Iterator[int]:
        """Sample ids, the least recently used first."""
        return iter(self._index)

    def peek(self, sample_ids: Iterable[int]) -> list[Reference | None]:
        """What is known of each reference, None where there is none; counts as no use."""
        return [self._index.get(sample_id) for sample_id in sample_ids]

    def read(self, sample_ids: Sequence[int]) -> Tensor:
        """The values of `sample_ids`, concatenated: a copy, fp32 `[tokens, hidden]` on the CPU.

        Counts as no use (see `update`). KeyError where one is missing.
        """
        data = bytearray().join(self._load(sample_ids))
        return torch.frombuffer(data, dtype=_DTYPES[self.precision]).view(-1, self.hidden or 1).float()

    def read_kept(self, sample_ids: Sequence[int]) -> list[Buffer]:
        """What is stored of `sample_ids`, as `update` got it. KeyError where one is missing."""
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
    ) -> None:
        """Count every sample of a batch as used, in order, replace the references that `changed`, and evict.

        Args:
            sample_ids: the batch; none twice.
            lengths: tokens of each sample, `[batch]`.
            values: fp32 `[tokens, hidden]`, the tokens of the changed samples only.
            changed: which samples get a new reference, `[batch]`; must hold where there is none yet.
            known: which samples were coded with use of their old reference, `[batch]`: their version goes up
                by one; that of the others starts at 1 again.
            kept: of each changed sample, what to keep in place of its values.

        Raises:
            CodecError: where the store cannot be written; it is then as it was before.
        """
        whole = tensor_bytes(to_dtype(values, _DTYPES[self.precision]))
        token_bytes = self._whole_bytes(values.shape[1])
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
        self._replace(used, data, values.shape[1], kept is not None)

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
        """Write everything to a safetensors file, atomically, one reference in memory at a time.

        Raises:
            CodecError: where the file cannot be written; an older file is then as it was.
        """
        entries = list(self._index.values())
        basis = torch.empty(0, 0) if self.basis is None else self.basis
        columns = {
            "ids": list(self._index),
            "lengths": [entry.length for entry in entries],
            "versions": [entry.version for entry in entries],
            "checksums": [entry.checksum for entry in entries],
            "kept_checksums": [self._kept_checksum(sample_id) for sample_id in self._index],
            "sizes": [self._sizes[sample_id] for sample_id in self._index],
            "hidden": [self.hidden or 0],
        }
        flow = {} if self.flow is None else self.flow.flat()
        columns |= {f"flow.{name}": column.tolist() for name, column in flow.items()}
        parts: list[tuple[str, str, Sequence[int], Buffer]] = [
            (name, "I64", [len(column)], np.array(column, "<i8").tobytes())
            for name, column in columns.items()
        ]
        parts.append(("basis", "F32", basis.shape, tensor_bytes(basis)))
        header: dict[str, object] = {}
        end = 0
        for name, dtype, shape, data in parts:
            end, start = end + len(data), end
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        header["values"] = {
            "dtype": "U8" if self.reduced else _SAFETENSORS_DTYPES[self.precision],
            "shape": [self.kept_bytes if self.reduced else sum(columns["lengths"]) * (self.hidden or 0)],
            "data_offsets": [end, end + self.kept_bytes],
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                file.writelines(data for _, _, _, data in parts)
                file.writelines(self._load([sample_id])[0] for sample_id in self._index)
            put_in_place(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CodecError(f"cannot write references to {path}: {error}") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace everything by what `save` wrote to `path`, order of use included.

        Raises:
            CodecError: where the file is missing, damaged or of another precision; the store is then empty.
        """
        self.clear()
        try:
            with safe_open(path, framework="pt") as file:
                values = file.get_slice("values")
                reduced = values.get_dtype() == "U8"
                if not reduced and values.get_dtype() != _SAFETENSORS_DTYPES[self.precision]:
                    raise CodecError(
                        f"references in {path} are {values.get_dtype()}, this store keeps {self.precision}; "
                        "use the precision of the run that wrote them"
                    )
                names = ("ids", "kept_checksums", "sizes", "lengths", "versions", "checksums")
                columns = [file.get_tensor(name).tolist() for name in names]
                hidden = int(file.get_tensor("hidden"))
                item_bytes = 1 if reduced else _DTYPES[self.precision].itemsize
                if (
                    min(columns[2] + columns[3], default=1) < 1
                    or sum(columns[2]) != values.get_shape()[0] * item_bytes
                ):
                    raise CodecError(f"references in {path} are damaged: their sizes do not add up")
                end = 0
                for sample_id, kept_checksum, size, *entry in zip(*columns, strict=True):
                    end, start = end + size // item_bytes, end
                    data = tensor_bytes(values[start:end])
                    if zlib.crc32(data) != kept_checksum:
                        raise CodecError(f"references in {path} are damaged: checksum of sample {sample_id}")
                    self._replace({sample_id: Reference(*entry)}, {sample_id: data}, hidden, reduced)
                basis = file.get_tensor("basis")
                self.basis = basis if basis.numel() else None
                flow = [name for name in file.keys() if name.startswith("flow.")]  # noqa: SIM118
                self.flow = FlowState.of({name[5:]: file.get_tensor(name).numpy() for name in flow})
        except (OSError, SafetensorError, ValueError) as error:
            self.clear()
            raise CodecError(f"cannot read references from {path}: {error}") from error
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
        return hidden * _DTYPES[self.precision].itemsize

    @abstractmethod
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        """The stored bytes of each sample; KeyError where one is missing."""

    @abstractmethod
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        """Remove samples, then store copies of `data`; all of it or, with a CodecError, nothing."""


class MemoryReferences(ReferenceStore):
    """References in memory.

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


class FileReferences(ReferenceStore):
    """References in an lmdb file, for more of them than memory holds.

    The file is scratch space of one process, which begins with a new one. What must outlive the process goes
    through `save` and `load`.

    Args:
        path: folder of the file, made where missing.
        limit_bytes: upper bound of the stored values; the file itself is up to about twice as large (pages).
        precision: as for every store.

    Raises:
        CodecError: where the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], limit_bytes: int, precision: Precision = "fp16") -> None:
        super().__init__(precision, limit_bytes)
        self._path = Path(path)
        self._map_bytes = 2 * limit_bytes + _MIN_MAP_BYTES
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            for name in (
                "data.mdb",
                "lock.mdb",
            ):  # never opened: a crash may have left a file that is damaged
                (self._path / name).unlink(missing_ok=True)
            self._open()
        except (OSError, lmdb.Error) as error:
            raise CodecError(f"cannot open a reference file in {self._path}: {error}") from error

    @override
    def close(self) -> None:
        if (environment := _OPEN.pop(self, None)) is not None:
            environment.close()

    def _open(self) -> lmdb.Environment:
        """Open the file where it is not; of all stores in a process only the last ones used have theirs open."""
        if self not in _OPEN:
            if len(_OPEN) >= _MAX_OPEN:
                next(iter(_OPEN)).close()
            # sync=False: nothing is read again after a crash, so nothing need be flushed
            _OPEN[self] = lmdb.open(str(self._path), map_size=self._map_bytes, sync=False)
        _OPEN.move_to_end(self)
        return _OPEN[self]

    @override
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        with self._open().begin() as transaction:
            items: list[Buffer | None] = [transaction.get(_key(sample_id)) for sample_id in sample_ids]
        found = [item for item in items if item is not None]
        if len(found) < len(items):
            raise KeyError(sample_ids[items.index(None)])
        return found

    @override
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        try:
            with self._open().begin(write=True) as transaction:
                for sample_id in removed:
                    transaction.delete(_key(sample_id))
                for sample_id, item in data.items():
                    transaction.put(_key(sample_id), item)
        except lmdb.MapFullError:  # free pages are scattered; the map is only address space
            self._map_bytes *= 2
            self._open().set_mapsize(self._map_bytes)
            self._write(data, removed)
        except lmdb.Error as error:
            raise CodecError(f"cannot write references to {self._path}: {error}") from error


_MIN_MAP_BYTES = 1 << 20
_MAX_OPEN = 64  # files; a process may have a thousand or so, and a simulation has several for each client
_OPEN: OrderedDict[FileReferences, lmdb.Environment] = OrderedDict()


def _key(sample_id: int) -> bytes:
    return struct.pack(">q", sample_id)
