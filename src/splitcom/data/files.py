"""Files as people have them, packed or not: their text, and the records in it; knows no prompt and no hub."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splitcom.data.tables import read_csv, read_tsv
from splitcom.errors import DataError, MissingExtraError

Record = tuple[str, Mapping[str, Any]]
"""Where it stands, for messages; and its columns."""

FORMATS = "a name that ends in .csv, .tsv, .json, .jsonl or .parquet, each also packed as .gz"
_ONE_PER_LINE = "write one object per line, with no comma after it, or one list of objects"
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def format_of(path: Path) -> str | None:
    """Return the suffix that a file is read by, without .gz; None if its kind is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def read_file(path: Path) -> Iterator[Record]:
    """Yield a file's records in its order; DataError names file and line."""
    suffix = format_of(path)
    if suffix is None:
        raise DataError(f"{path}: cannot tell from its name what this file is; expected {FORMATS}: rename it")
    yield from _READERS[suffix](path, _unpacked(path))


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if content.startswith(_ZIP):
        raise DataError(f"{path}: a zip archive; unpack it and give the file in it")
    if not content.startswith(_GZIP):
        if path.suffix.lower() == ".gz" and content:
            raise DataError(f"{path}: not packed with gzip, though its name ends in .gz; rename it")
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}; pack or fetch it again") from error


def _text(path: Path, content: bytes) -> str:
    """Decode UTF-8, or UTF-16 as spreadsheets write it.

    Marks of byte order go, wherever they are: files that were joined have them in their middle.
    """
    encoding = "UTF-16" if content.startswith(_UTF16) else "UTF-8"
    try:
        text = content.decode(encoding).replace("\ufeff", "")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not {encoding} (byte 0x{content[error.start]:02x}); convert the file, e.g. with iconv"
        ) from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(
            f"{path}:{line}: holds a zero byte, so it is no UTF-8 text; convert the file, e.g. with iconv"
        )
    return text


def _read_csv(path: Path, content: bytes) -> Iterator[Record]:
    return read_csv(_text(path, content), str(path))


def _read_tsv(path: Path, content: bytes) -> Iterator[Record]:
    return read_tsv(_text(path, content), str(path))


def _read_json(path: Path, content: bytes) -> Iterator[Record]:
    """Read JSON Lines, or one array of objects."""
    text = _text(path, content)
    if text.lstrip().startswith("["):
        items = _parse(text, str(path), "write a list of objects, or one object per line")
        records = ((f"{path} item {number}", item) for number, item in enumerate(items, start=1))
    else:
        records = (
            (
                f"{path}:{number}",
                _parse(line, f"{path}:{number}", _ONE_PER_LINE),
            )
            for number, line in enumerate(text.split("\n"), start=1)
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


def _read_parquet(path: Path, content: bytes) -> Iterator[Record]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet", "hub", error) from error
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches():
            for record in batch.to_pylist():
                yield f"{path} row {number}", record
                number += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}; write or fetch it again") from error


_READERS: dict[str, Callable[[Path, bytes], Iterator[Record]]] = {
    ".csv": _read_csv, ".tsv": _read_tsv, ".tab": _read_tsv, ".jsonl": _read_json, ".ndjson": _read_json,
    ".json": _read_json, ".parquet": _read_parquet,
}  # fmt: skip
