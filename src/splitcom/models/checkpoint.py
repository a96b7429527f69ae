"""The tensors of a safetensors checkpoint, each read only when asked for; knows nothing of models.

`from_pretrained` fetches every shard of a hub model and keeps each file it opened mapped until the end. A party
that holds a tenth of a model needs neither: here a shard is fetched when the first of its tensors is read, and
a file stays mapped no longer than a tensor from it lives.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from splitcom.errors import ModelError

_CHUNK = 2**22  # elements widened at a time: 8 MiB of the file


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint file; indexing reads it, `[...]` whole.

    With `widen`, 16-bit floats come as float32, converted piece by piece: read first and converted later, a large
    embedding would for a moment take half as much memory again.
    """

    files: "Files"
    file: str
    name: str
    widen: bool = False

    def __getitem__(self, index: Any) -> Tensor:
        """Read the tensor or a slice of it, mapped from the file until it is copied."""
        with self._open() as opened:
            stored = opened.get_slice(self.name)
            shape = stored.get_shape()
            if not (self.widen and index is ... and shape and stored.get_dtype() in ("F16", "BF16")):
                return cast(Tensor, stored[index])
        whole = torch.empty(shape, dtype=torch.float32)
        rows = max(1, _CHUNK * shape[0] // max(1, whole.numel()))
        for start in range(0, shape[0], rows):
            with self._open() as opened:  # anew, or every piece read would stay mapped
                whole[start : start + rows] = opened.get_slice(self.name)[start : start + rows]
        return whole

    def _open(self) -> Any:
        return safe_open(self.files.fetch(self.file), framework="pt")


class Files:
    """The files of a checkpoint, each looked up (and on the hub fetched) once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._paths: dict[str, str] = {}

    def find(self, file: str) -> str | None:
        """Return a file's path, None where the checkpoint has no such file."""
        if file not in self._paths:
            path = cached_file(self.source, file, _raise_exceptions_for_missing_entries=False)
            if path is None:
                return None
            self._paths[file] = str(path)
        return self._paths[file]

    def fetch(self, file: str) -> str:
        """Return a file's path; ModelError where the checkpoint has no such file."""
        if (path := self.find(file)) is None:
            raise ModelError(
                f"{self.source}: no file {file}; a safetensors checkpoint is expected, whole or in shards with an "
                "index (pickled .bin files are not read: save the model again with save_pretrained)"
            )
        return path


def stored_tensors(source: str, widen: bool = False) -> dict[str, StoredTensor]:
    """List a checkpoint's tensors by name, unread; `source` is a folder or a hub name.

    Raises ModelError where there is no safetensors checkpoint, or its index names a file that is missing.
    """
    files = Files(source)
    return {name: StoredTensor(files, file, name, widen) for name, file in _names(files)}


def _names(files: Files) -> Iterator[tuple[str, str]]:
    index = files.find(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        yield from json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].items()
        return
    with safe_open(files.fetch(SAFE_WEIGHTS_NAME), framework="pt") as opened:
        yield from ((name, SAFE_WEIGHTS_NAME) for name in opened.keys())  # noqa: SIM118 (not a mapping)
