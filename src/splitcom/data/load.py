"""Rows of text from files, the hub and the generator; knows no tokenizer."""

import csv
import difflib
import io
import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from splitcom.data.generate import HELD_OUT_DOMAIN, generate
from splitcom.errors import DataError

Format = Literal["csv", "tsv", "jsonl", "hub", "generated"]

GENERATED = "generated"
"""The source that is no file: pairs from `splitcom.data.generate`."""

DEFAULT_TEMPLATE = "{mr} =>"
"""The prompt that the bundled model was pretrained with."""

_FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip

Record = tuple[str, Mapping[str, str]]  # where it stands, for messages; and its columns


@dataclass(frozen=True)
class Row:
    """One example as text, with all columns of its source.

    `sample_id` is its place in the source, from 0: it survives limits, shuffling, partitioning and restarts.
    """

    sample_id: int
    prompt: str
    response: str
    columns: Mapping[str, str]


def load_rows(
    source: str | Path,
    *,
    format: Format | None = None,
    template: str = DEFAULT_TEMPLATE,
    response_column: str = "text",
    limit: int | None = None,
    split: str = "train",
    domain: str = HELD_OUT_DOMAIN,
    count: int = 600,
    seed: int = 0,
) -> list[Row]:
    """Load rows of prompt and response, in the order of the source.

    Args:
        source: a CSV, TSV or JSON Lines file, the name of a data set on the hub, or "generated".
        format: told from the file's suffix where it is None; what is no file and has no suffix is a hub name.
        template: the prompt, with columns in braces ("{mr} =>"); empty for plain text without a prompt.
        response_column: the column that the model learns to write.
        limit: keep only the first rows.
        split: which split of a hub data set.
        domain, count, seed: what to generate (columns: mr, text, domain).

    Raises:
        DataError: the source cannot be read, has no such column or no rows; names file, line and column.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; keep at least one row, or leave it out to keep all")
    pieces = _parse_template(template)
    records = _records(source, format or _format_of(source), split, lambda: generate(domain, count, seed))
    rows = []
    for sample_id, (where, columns) in enumerate(islice(records, limit)):
        prompt = "".join(
            literal + (_value(columns, column, where, "template") if column is not None else "")
            for literal, column in pieces
        )
        response = _value(columns, response_column, where, "response_column")
        rows.append(Row(sample_id, prompt, response, columns))
    if not rows:
        raise DataError(f"{source}: no rows; expected at least one (after the header, in CSV and TSV)")
    return rows


def column_value(row: Row, column: str) -> str:
    """Return the value of a column, or raise the DataError that lists the columns there are."""
    return _value(row.columns, column, f"row {row.sample_id}", "column")


def _format_of(source: str | Path) -> Format:
    if source == GENERATED:
        return "generated"
    path = Path(source)
    if path.suffix.lower() in _FORMATS:
        return _FORMATS[path.suffix.lower()]
    if path.is_file():
        raise DataError(
            f"{path}: cannot tell the format from the suffix {path.suffix!r}; set format to csv, tsv or jsonl"
        )
    if path.suffix or path.is_absolute():
        raise DataError(f"{path}: no such file; check data.source (working directory: {Path.cwd()})")
    return "hub"


def _records(
    source: str | Path, format: Format, split: str, generated: Callable[[], list[dict[str, str]]]
) -> Iterable[Record]:
    match format:
        case "csv":
            return _read_table(Path(source), csv.excel)
        case "tsv":
            return _read_table(Path(source), _Tabs)
        case "jsonl":
            return _read_json_lines(Path(source))
        case "hub":
            return _load_hub(str(source), split)
        case "generated":
            return ((f"{GENERATED} row {index}", pair) for index, pair in enumerate(generated()))
        case _:
            raise DataError(f"unknown data format {format!r}; choose csv, tsv, jsonl, hub or generated")


class _Tabs(csv.Dialect):
    """Tab-separated values as GLUE writes them: a quotation mark is just a character."""

    delimiter = "\t"
    quoting = csv.QUOTE_NONE
    lineterminator = "\n"


def _read_table(path: Path, dialect: type[csv.Dialect]) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), dialect, strict=True)
    header: list[str] = []
    try:
        for fields in reader:
            if not fields:
                continue
            if not header:
                header = fields
                if len(set(header)) != len(header):
                    raise DataError(
                        f"{path}:{reader.line_num}: a column name stands twice in the header {header}"
                    )
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: {len(fields)} fields where the header has {len(header)} "
                    f"({', '.join(header)}); quote fields that hold the delimiter or a line break"
                )
            yield f"{path}:{reader.line_num}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: {error}; check the quotation marks of this row"
        ) from error


def _read_json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON ({error.msg}, column {error.colno}); write one object per line"
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f'{path}:{number}: expected an object such as {{"mr": "…", "text": "…"}}, found {line[:40]!r}'
            )
        yield f"{path}:{number}", _as_text(record)


def _load_hub(name: str, split: str) -> Iterator[Record]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"there is no file {name!r}, and to look for it on the hub the package 'datasets' is needed: "
            "pip install 'splitcom[hub]'"
        ) from error
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (
        Exception
    ) as error:  # datasets, huggingface_hub, the network: dozens of types, all the same to the user
        raise DataError(
            f"{name!r} is no file, and split {split!r} of it cannot be loaded from the hub: {error}; "
            "check the name, the split and the network"
        ) from error
    for index, record in enumerate(dataset):
        yield f"{name}[{split}] row {index}", _as_text(record)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; check data.source (working directory: {Path.cwd()})"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x}); convert the file, e.g. with iconv"
        ) from error


def _as_text(record: Mapping[str, Any]) -> dict[str, str]:
    """Return all values as text: null is empty, and what is no text stays readable as JSON."""

    def text(value: Any) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    return {str(key): text(value) for key, value in record.items()}


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """Split "a {b}" into literal text and columns; a column's name may hold dots, colons excepted."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"template {template!r}: {error}; write {{{{ and }}}} for braces that are meant as text"
        ) from error
    if any(column == "" or spec or conversion for _, column, spec, conversion in pieces):
        raise DataError(
            f"template {template!r}: put just a column's name in each pair of braces, as in '{{mr}} =>'"
        )
    return [(literal, column) for literal, column, _, _ in pieces]


def _value(columns: Mapping[str, str], column: str, where: str, option: str) -> str:
    if column in columns:
        return columns[column]
    close = difflib.get_close_matches(column, columns, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else f"; change {option}"
    raise DataError(
        f"{where}: no column {column!r} (asked for by {option}); found: {', '.join(columns)}{suggestion}"
    )
