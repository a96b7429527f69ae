"""The safetensors file that references are saved in, written and read one reference at a time. Knows no store.

header │ ids │ lengths │ ... │ hidden │ flow.* │ basis │ values: of each sample, the least recently used first
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from splitcom.codecs.precision import DTYPES, Precision
from splitcom.codecs.references.reference import Reference
from splitcom.codecs.references.state import FlowState
from splitcom.codecs.wire import Buffer, tensor_bytes
from splitcom.durable import put_in_place
from splitcom.errors import CodecError

_DTYPE_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_REDUCED = "U8"


class Entry(NamedTuple):
    """What the file says of one sample beside what is kept of it."""

    reference: Reference
    size_bytes: int
    """Of what is kept."""
    checksum: int
    """CRC-32 of what is kept."""


@dataclass(frozen=True)
class Contents:
    """Everything in the file but what is kept of each sample."""

    precision: Precision
    hidden: int
    """Width of the references; 0 while there has never been one."""
    reduced: bool
    """Whether something else is kept in place of the values."""
    entries: Mapping[int, Entry]
    """By sample id, the least recently used first."""
    basis: Tensor | None
    """What projects references."""
    flow: FlowState | None


def write(path: Path, contents: Contents, kept: Iterable[Buffer]) -> None:
    """Write the file whole or not at all; `kept` gives what is kept of each sample, in the order of the entries.

    Raises:
        CodecError: where the file cannot be written; an older file is then as it was.
    """
    parts = _parts(contents)
    header: dict[str, object] = {}
    end = 0
    for name, dtype, shape, data in parts:
        end, start = end + len(data), end
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    size_bytes = sum(entry.size_bytes for entry in contents.entries.values())
    num_tokens = sum(entry.reference.length for entry in contents.entries.values())
    header["values"] = {
        "dtype": _REDUCED if contents.reduced else _DTYPE_NAMES[contents.precision],
        "shape": [size_bytes if contents.reduced else num_tokens * contents.hidden],
        "data_offsets": [end, end + size_bytes],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch(0o600)
        with temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.writelines(data for _, _, _, data in parts)
            file.writelines(kept)
        put_in_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CodecError(f"cannot write references to {path}: {error}") from error


def _parts(contents: Contents) -> list[tuple[str, str, Sequence[int], Buffer]]:
    """Name, dtype, shape and bytes of every tensor but the values."""
    entries = contents.entries.values()
    columns: dict[str, Sequence[int]] = {
        "ids": [*contents.entries],
        "lengths": [entry.reference.length for entry in entries],
        "versions": [entry.reference.version for entry in entries],
        "checksums": [entry.reference.checksum for entry in entries],
        "kept_checksums": [entry.checksum for entry in entries],
        "sizes": [entry.size_bytes for entry in entries],
        "hidden": [contents.hidden],
    }
    flow = {} if contents.flow is None else contents.flow.flat()
    columns |= {f"flow.{name}": column.tolist() for name, column in flow.items()}
    parts: list[tuple[str, str, Sequence[int], Buffer]] = [
        (name, "I64", [len(column)], np.array(column, "<i8").tobytes()) for name, column in columns.items()
    ]
    basis = torch.empty(0, 0) if contents.basis is None else contents.basis
    return [*parts, ("basis", "F32", basis.shape, tensor_bytes(basis))]


@contextmanager
def opened(path: Path, precision: Precision) -> Iterator[tuple[Contents, Iterator[Buffer]]]:
    """What `write` has been given, for as long as the block lasts.

    Raises:
        CodecError: where the file is missing, damaged or of another precision; perhaps not before all is read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            contents = _contents(path, file, precision)
            item_bytes = 1 if contents.reduced else DTYPES[precision].itemsize
            yield contents, _kept(path, file.get_slice("values"), contents.entries, item_bytes)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CodecError(f"cannot read references from {path}: {error}") from error


def _contents(path: Path, file: Any, precision: Precision) -> Contents:
    values = file.get_slice("values")
    reduced = values.get_dtype() == _REDUCED
    if not reduced and values.get_dtype() != _DTYPE_NAMES[precision]:
        raise CodecError(
            f"references in {path} are {values.get_dtype()}, this store keeps {precision}; "
            "use the precision of the run that wrote them"
        )
    ids, lengths, versions, checksums, sizes, kept_checksums = (
        file.get_tensor(name).tolist()
        for name in ("ids", "lengths", "versions", "checksums", "sizes", "kept_checksums")
    )
    item_bytes = 1 if reduced else DTYPES[precision].itemsize
    if min(sizes + lengths, default=1) < 1 or sum(sizes) != values.get_shape()[0] * item_bytes:
        raise CodecError(f"references in {path} are damaged: their sizes do not add up")
    references = map(Reference, lengths, versions, checksums)
    entries = map(Entry, references, sizes, kept_checksums)
    basis = file.get_tensor("basis")
    flow = {name: file.get_tensor(name).numpy() for name in file.keys() if name.startswith("flow.")}  # noqa: SIM118
    return Contents(
        precision=precision,
        hidden=int(file.get_tensor("hidden")),
        reduced=reduced,
        entries=dict(zip(ids, entries, strict=True)),
        basis=basis if basis.numel() else None,
        flow=FlowState.of({name.removeprefix("flow."): column for name, column in flow.items()}),
    )


def _kept(path: Path, values: Any, entries: Mapping[int, Entry], item_bytes: int) -> Iterator[Buffer]:
    end = 0
    for sample_id, entry in entries.items():
        end, start = end + entry.size_bytes // item_bytes, end
        data = tensor_bytes(values[start:end])
        if zlib.crc32(data) != entry.checksum:
            raise CodecError(f"references in {path} are damaged: checksum of sample {sample_id}")
        yield data
