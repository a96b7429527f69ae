"""The tensors of a safetensors checkpoint, each read only when asked for; knows nothing of models.

`from_pretrained` fetches every shard of a hub model and keeps each file it opened mapped until the end. A party
that holds a tenth of a model needs neither: here a shard is fetched when the first of its tensors is read, and
a tensor is read from its place in the file into memory of its own. Files are not mapped, since mapped once per tensor,
those of a model with hundreds would take up a hundred times their size in addresses. A tensor that is `kept` there is
an exception.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from splitcom.errors import ModelError

_CHUNK = 2**22  # elements widened at a time: 8 MiB of the file
_MAX_HEADER_BYTES = 100_000_000  # as the format has it
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint file; indexing reads it, `[...]` whole.

    With `widen`, 16-bit floats come as float32, converted piece by piece: read first and converted later, a large
    embedding would for a moment take half as much memory again. One that is `kept` in its file, and not widened, takes
    memory only for those of its rows that are used.
    """

    files: "Files"
    file: str
    name: str
    widen: bool = False
    kept: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape it is stored in."""
        return self._entry.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it is stored in."""
        return self._entry.dtype

    def __getitem__(self, index: Any) -> Tensor:
        """Read the tensor, or a part of it, into memory of its own, or map it where it is kept in its file."""
        widens = self.widen and self.dtype in (torch.float16, torch.bfloat16)
        if self.kept and not widens and self._entry.start % self.dtype.itemsize == 0:
            return self._mapped()[index]
        whole = torch.empty(self.shape, dtype=torch.float32 if widens else self.dtype)
        flat = whole.view(-1)
        with self._open() as file:
            file.seek(self._entry.start)
            if widens:
                buffer = torch.empty(min(_CHUNK, len(flat)), dtype=self.dtype)
                for start in range(0, len(flat), _CHUNK):
                    piece = buffer[: len(flat) - start]
                    _fill(piece, file)
                    flat[start : start + len(piece)] = piece
            else:
                _fill(flat, file)
        return whole if index is ... else whole[index]

    def every(self, step: int) -> Tensor:
        """Read every `step`-th element, from the first on, and nothing else."""
        picked = torch.empty(-(-math.prod(self.shape) // step), dtype=self.dtype)
        with self._open() as file:
            for index in range(len(picked)):
                file.seek(self._entry.start + index * step * self.dtype.itemsize)
                _fill(picked[index : index + 1], file)
        return picked

    def _mapped(self) -> Tensor:
        """The tensor where it is; what is written to it changes this process' copy alone."""
        start, count = self._entry.start, math.prod(self.shape)
        path, end = self.files.fetch(self.file), start + count * self.dtype.itemsize
        storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(path, shared=False, nbytes=end))
        flat = torch.empty(0, dtype=self.dtype).set_(storage, start // self.dtype.itemsize, (count,), (1,))
        return flat.view(self.shape)

    @property
    def _entry(self) -> "_Entry":
        return self.files.entries(self.file)[self.name]

    def _open(self) -> BinaryIO:
        return Path(self.files.fetch(self.file)).open("rb")


class Files:
    """The files of a checkpoint, each looked up (and on the hub fetched) once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._paths: dict[str, str] = {}
        self._entries: dict[str, dict[str, _Entry]] = {}

    def find(self, file: str) -> str | None:
        """Return a file's path, None if the checkpoint has no such file."""
        if file not in self._paths:
            path = cached_file(self.source, file, _raise_exceptions_for_missing_entries=False)
            if path is None:
                return None
            self._paths[file] = str(path)
        return self._paths[file]

    def fetch(self, file: str) -> str:
        """Return a file's path; ModelError if the checkpoint has no such file."""
        if (path := self.find(file)) is None:
            raise ModelError(
                f"{self.source}: no file {file}; a safetensors checkpoint is expected, whole or in shards with an "
                "index (pickled .bin files are not read: save the model again with save_pretrained)"
            )
        return path

    def entries(self, file: str) -> "dict[str, _Entry]":
        """Where each tensor of a file is; ValueError if the file is damaged or not whole."""
        if file not in self._entries:
            self._entries[file] = _entries_of(Path(self.fetch(file)))
        return self._entries[file]


def stored_tensors(source: str, widen: bool = False) -> dict[str, StoredTensor]:
    """List a checkpoint's tensors by name, unread; `source` is a folder or a hub name.

    Raises ModelError if there is no safetensors checkpoint, or its index names a file that is missing.
    """
    files = Files(source)
    return {name: StoredTensor(files, file, name, widen) for name, file in _names(files)}


def _names(files: Files) -> Iterator[tuple[str, str]]:
    index = files.find(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        yield from json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].items()
        return
    yield from ((name, SAFE_WEIGHTS_NAME) for name in files.entries(SAFE_WEIGHTS_NAME))


@dataclass(frozen=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte of the file


def _entries_of(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, _MAX_HEADER_BYTES):
            raise ValueError(f"{path}: is no safetensors file")
        header = json.loads(file.read(length))
    entries = {}
    for name, told in header.items():
        if name == "__metadata__":
            continue
        if told["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: tensor {name} is of dtype {told['dtype']}, which cannot be read")
        entry = _Entry(_DTYPES[told["dtype"]], tuple(told["shape"]), 8 + length + told["data_offsets"][0])
        end = entry.start + math.prod(entry.shape) * entry.dtype.itemsize
        if end != 8 + length + told["data_offsets"][1] or end > size:
            raise ValueError(f"{path}: tensor {name} is not whole; the file is incomplete, fetch it again")
        entries[name] = entry
    return entries


def _fill(flat: Tensor, file: BinaryIO) -> None:
    """Read a tensor's bytes from where the file stands."""
    view: Any = flat.view(torch.uint8).numpy()
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise OSError(f"{file.name}: ends within a tensor")
