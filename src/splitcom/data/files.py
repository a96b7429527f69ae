"""Files as people have them, packed or not, read piece by piece: their text, and the records in it; knows no prompt."""

import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

from splitcom.data.store import scratch_folder
from splitcom.data.tables import read_csv, read_tsv
from splitcom.errors import DataError, MissingExtraError

Record = tuple[str, Mapping[str, Any]]
"""Where it stands, for messages; and its columns."""
Content = IO[bytes] | gzip.GzipFile

FORMATS = "a name that ends in .csv, .tsv, .json, .jsonl or .parquet, each also packed as .gz"
_ONE_PER_LINE = "write one object per line, with no comma after it, or one list of objects"
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_ROWS, _PARQUET_BYTES = 256, 1 << 20  # that are in memory at a time


def format_of(path: Path) -> str | None:
    """Return the suffix that a file is read by, without .gz; None if its kind is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def read_file(path: Path) -> Iterator[Record]:
    """Yield a file's records in its order; DataError names file and line.

    One record is in memory at a time, and of Parquet some hundred; but a JSON list is there whole.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(f"{path}: cannot tell from its name what this file is; expected {FORMATS}: rename it")
    yield from _READERS[suffix](path)


@contextmanager
def _unpacked(path: Path) -> Iterator[Content]:
    """A file open for reading, unpacked if it is packed; DataError for what is wrong while it is read."""
    try:
        with path.open("rb") as file:
            first = file.read(len(_ZIP))
            if first.startswith(_ZIP):
                raise DataError(f"{path}: a zip archive; unpack it and give the file in it")
            packed = first.startswith(_GZIP)
            if path.suffix.lower() == ".gz" and first and not packed:
                raise DataError(f"{path}: not packed with gzip, though its name ends in .gz; rename it")
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as content:
                yield content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}; pack or fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[str]:
    r"""Decode UTF-8, or UTF-16 as spreadsheets write it, line by line; each but the last ends in "\n".

    Marks of byte order go, wherever they are: files that were joined have them in their middle.
    """
    with _unpacked(path) as file:
        is_wide = file.read(2).startswith(_UTF16)
        file.seek(0)
        for number, line in enumerate(_decoded(path, file, is_wide=is_wide), start=1):
            if "\0" in line:
                raise DataError(
                    f"{path}:{number}: holds a zero byte, so it is no UTF-8 text; convert the file, e.g. with iconv"
                )
            yield line.replace("\ufeff", "")


def _decoded(path: Path, file: Content, *, is_wide: bool) -> Iterator[str]:
    encoding, number = "UTF-16" if is_wide else "UTF-8", 1
    try:
        wide = io.TextIOWrapper(file, encoding, newline="\n") if is_wide else None
        with wide or nullcontext(map(bytes.decode, file)) as lines:
            for line in lines:
                yield line
                number += 1
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise DataError(
            f"{path}:{number}: not {encoding} (byte 0x{found:02x}); convert the file, e.g. with iconv"
        ) from error


def _table_lines(path: Path) -> Iterator[str]:
    r"""The lines of a table, which may also end in "\r" alone."""
    for line in _lines(path):
        yield from io.StringIO(line, newline="") if "\r" in line else (line,)


def _read_csv(path: Path) -> Iterator[Record]:
    return read_csv(lambda: _table_lines(path), str(path))


def _read_tsv(path: Path) -> Iterator[Record]:
    return read_tsv(lambda: _table_lines(path), str(path))


def _read_json(path: Path) -> Iterator[Record]:
    """Read JSON Lines, or one array of objects."""
    lines, before = _lines(path), ""
    records: Iterator[tuple[str, Any]]
    for first in lines:
        before += first
        if first.strip():
            break
    if before.lstrip().startswith("["):
        items = _parse(
            "".join((before, *lines)), str(path), "write a list of objects, or one object per line"
        )
        records = ((f"{path} item {number}", item) for number, item in enumerate(items, start=1))
    else:
        records = (
            (f"{path}:{number}", _parse(line.removesuffix("\n"), f"{path}:{number}", _ONE_PER_LINE))
            for number, line in enumerate(chain(io.StringIO(before, newline="\n"), lines), start=1)
            if line.strip()
        )
    for where, record in records:
        if not isinstance(record, dict):
            found = json.dumps(record)[:40]
            raise DataError(f'{where}: expected an object such as {{"mr": "…", "text": "…"}}, found {found}')
        yield where, record


def _parse(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except json.JSONDecodeError as error:
        line = "" if "\n" not in text else f"line {error.lineno}, "
        raise DataError(f"{where}: not JSON ({error.msg}, {line}column {error.colno}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists a thousand deep
        raise DataError(f"{where}: cannot be read: {error}; {remedy}") from error


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: the name {twice!r} stands twice in one object; leave one out")
    return found


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet", "hub", error) from error
    number = 0
    with _unpacked(path) as file, ExitStack() as stack:
        whole: Content = file
        if isinstance(
            file, gzip.GzipFile
        ):  # Parquet is read from its end, which is not known before all is unpacked
            whole = stack.enter_context(tempfile.TemporaryFile(dir=scratch_folder()))
            copyfileobj(file, whole)
        try:
            table = pyarrow.parquet.ParquetFile(whole, buffer_size=_PARQUET_BYTES)
            for group in range(table.num_row_groups):  # asked for all of them, it keeps something of each
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group]):
                    for record in batch.to_pylist():
                        yield f"{path} row {number}", record
                        number += 1
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as Parquet: {error}; write or fetch it again") from error


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": _read_csv, ".tsv": _read_tsv, ".tab": _read_tsv, ".jsonl": _read_json, ".ndjson": _read_json,
    ".json": _read_json, ".parquet": _read_parquet,
}  # fmt: skip
