"""Rows of prompt and response from the records of any source; knows no tokenizer."""

import difflib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from splitcom.data.files import Record
from splitcom.data.generate import HELD_OUT_DOMAIN, generate
from splitcom.data.sources import find_source, read_source
from splitcom.errors import DataError

GENERATED = "generated"
"""The source that is no file: pairs from `splitcom.data.generate`."""

DEFAULT_TEMPLATE = "{mr} =>"
"""The prompt that the bundled model was pretrained with."""

_TO_TEXT = (
    'write a prompt and a response of each row as text in columns of their own, such as {"prompt": "…", '
    '"response": "…"}, and name them in data.prompt and data.response'
)
_CHAT_KEYS = ({"role", "content"}, {"from", "value"})
_FIRST_OBJECT, _KEY = re.compile(r"\s*\[?\s*\{([^{}]*)"), re.compile(r"""["'](\w+)["']\s*:""")


@dataclass(frozen=True)
class Row:
    """One example as text, with all columns of its source.

    `sample_id` is its place in the source, from 0: it survives limits, shuffling, partitioning and restarts.
    A row that `lacks` its prompt's columns, or its response, teaches nothing.
    """

    sample_id: int
    prompt: str
    response: str
    columns: Mapping[str, str]
    lacks_prompt: bool = False
    where: str = ""

    @property
    def label(self) -> str:
        """The response as a class; see `as_label`."""
        return as_label(self.response)

    @property
    def place(self) -> str:
        """Where it stands, for messages: file and line, or else its number."""
        return self.where or f"row {self.sample_id}"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from: no response, or nothing in any column of the prompt."""
        return self.lacks_prompt or not self.response.strip()


def as_label(text: str) -> str:
    """Return the class that a text stands for: spaces around it mean nothing, and 1.0 is 1.

    >>> as_label(" pos"), as_label("1.0"), as_label("2.50")
    ('pos', '1', '2.50')
    """
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text.strip())


def load_rows(
    source: str | Path,
    *,
    template: str = DEFAULT_TEMPLATE,
    response_column: str = "text",
    limit: int | None = None,
    domain: str = HELD_OUT_DOMAIN,
    count: int = 600,
    seed: int = 0,
) -> list[Row]:
    """Load rows of prompt and response, in the order of the source.

    Args:
        source: a file, a folder or a data set on the hub, as `splitcom.data.sources` says; or "generated".
        template: the prompt, with columns in braces ("{mr} =>"); empty for plain text without a prompt.
        response_column: the column that the model learns to write.
        limit: keep only the first rows.
        domain, count, seed: what to generate (columns: mr, text, domain).

    Raises:
        DataError: the source cannot be read, has no such column or no rows, or a column that is asked for holds no
            text; names file, line and column.
        MissingExtraError: a package for this kind of source is not installed.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; keep at least one row, or leave it out to keep all")
    pieces = _parse_template(template)
    records: Iterable[Record]
    if source == GENERATED:
        pairs = generate(domain, count, seed)
        records = ((f"{GENERATED} row {index}", pair) for index, pair in enumerate(pairs))
    else:
        records = read_source(find_source(source))
    rows = []
    for sample_id, (where, record) in enumerate(islice(records, limit)):
        values = [
            None if column is None else _asked_for(record, column, where, "data.prompt")
            for _, column in pieces
        ]
        prompt = "".join(literal + (value or "") for (literal, _), value in zip(pieces, values, strict=True))
        given = [value for value in values if value is not None]
        response = _asked_for(record, response_column, where, "data.response")
        columns = {str(name): _as_text(value) for name, value in record.items()}
        lacks_prompt = bool(given) and not "".join(given).strip()
        rows.append(Row(sample_id, prompt, response, columns, lacks_prompt, where))
    if not rows:
        raise DataError(f"{source}: no rows; expected at least one (after the header, in CSV and TSV)")
    return rows


def columns_of(template: str) -> list[str]:
    """The columns that a prompt's template names, in its order; raises DataError as `load_rows` does.

    >>> columns_of("{question} in {place} =>")
    ['question', 'place']
    """
    return [column for _, column in _parse_template(template) if column is not None]


def column_value(row: Row, column: str) -> str:
    """Return the value of a column, or raise the DataError that lists the columns there are."""
    return _as_text(_value(row.columns, column, row.place, "partition.column"))


def _asked_for(record: Mapping[str, Any], column: str, where: str, setting: str) -> str:
    """Return a column as text to learn from; DataError where it holds something that is none."""
    value = _value(record, column, where, setting)
    if isinstance(value, (list, tuple, Mapping, bytes)) or (isinstance(value, str) and _is_chat(value)):
        if _is_chat(value):
            what = "a chat conversation, and the chat format is not read yet"
        else:
            what = f"a {_kind(value)}, which is no text (nor is the chat format read yet)"
        raise DataError(f"{where}: column {column!r} ({setting}) holds {what}; {_TO_TEXT}")
    text = _as_text(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: column {column!r} holds half a character (\\u{ord(text[error.start]):04x}), which is no text; "
            "write the whole character, or take the row out"
        ) from error
    return text


def _is_chat(value: Any) -> bool:
    """Whether a value is a conversation, its messages, or such as text."""
    if isinstance(value, str):
        first = _FIRST_OBJECT.match(value)
        return first is not None and any(keys <= set(_KEY.findall(first[1])) for keys in _CHAT_KEYS)
    if isinstance(value, Mapping):
        return any(keys <= value.keys() for keys in _CHAT_KEYS) or any(map(_is_chat_list, value.values()))
    return _is_chat_list(value)


def _is_chat_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(
        isinstance(item, Mapping) and any(keys <= item.keys() for keys in _CHAT_KEYS) for item in value
    )


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "piece of binary data"
    return "set of named values" if isinstance(value, Mapping) else "list"


def _as_text(value: Any) -> str:
    """Return a value as text: null and what is no number are empty; true, numbers and lists are as in JSON."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """Split "a {b}" into literal text and columns; a column's name may hold dots, colons excepted."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"data.prompt = {template!r}: {error}; write {{{{ and }}}} for braces that are meant as text"
        ) from error
    if any(column == "" or spec or conversion for _, column, spec, conversion in pieces):
        raise DataError(
            f"data.prompt = {template!r}: put just a column's name in each pair of braces, as in '{{mr}} =>'"
        )
    return [(literal, column) for literal, column, _, _ in pieces]


def _value(columns: Mapping[str, Any], column: str, where: str, setting: str) -> Any:
    if column in columns:
        return columns[column]
    close = difflib.get_close_matches(column, map(str, columns), n=1)
    suggestion = f"did you mean {close[0]!r}?" if close else f"change {setting}"
    raise DataError(
        f"{where}: no column {column!r} (asked for by {setting}); found: {', '.join(map(str, columns))}; {suggestion}"
    )
