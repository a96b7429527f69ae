"""Rows of prompt and response from the records of any source; knows no tokenizer."""

import pickle
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard

from splitcom.data.chat import ChatError, Conversation, Message, chat_columns, read_chat
from splitcom.data.columns import as_text, is_chat, text_of, value_of
from splitcom.data.files import Record
from splitcom.data.generate import HELD_OUT_DOMAIN, generate
from splitcom.data.prompt import Prompt, read_prompt
from splitcom.data.sources import find_source, read_source
from splitcom.data.store import CHUNK, Picked, Spool, places_of
from splitcom.data.tokens import Tokens, has_tokens, read_tokens
from splitcom.errors import DataError

GENERATED = "generated"
"""The source that is no file: pairs from `splitcom.data.generate`."""

DEFAULT_TEMPLATE = "{mr} =>"
"""The prompt that the bundled model was pretrained with."""

Format = Literal["columns", "chat", "tokens"]
Progress = Callable[[int, int], None]
"""Hears of how many rows of how many it is done with; of 0 if nobody knows how many there are."""
TOLD_EVERY = 1000  # rows
_UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufe0e\ufe0f\ufeff]")
"""Marks without a glyph; not the joiners, by which some scripts tell words apart."""


@dataclass(frozen=True)
class Row:
    """One example as text, with all columns of its source.

    `sample_id` is its place in the source, from 0: it survives limits, shuffling, partitioning and restarts.
    A row that `lacks` its prompt's columns, or its response, teaches nothing.

    Of token ids it has the `tokens`, and no text. Of chat data it has the `conversation`, or the `problem` that one
    has; then `prompt` is what stands before the assistant's last turn, as a person would read it, and `response` that
    turn.
    """

    sample_id: int
    prompt: str
    response: str
    columns: Mapping[str, str]
    lacks_prompt: bool = False
    where: str = ""
    conversation: Conversation | None = None
    problem: str = ""
    tokens: Tokens | None = None

    @property
    def asked(self) -> str | tuple[Message, ...]:
        """What a model is given to continue: the prompt, or the messages before the assistant's last turn."""
        return self.prompt if self.conversation is None else self.conversation.asked

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
        return self.tokens is None and (self.lacks_prompt or not self.response.strip())


def as_label(text: str) -> str:
    """Return the class that a text stands for: spaces around it and marks without a glyph mean nothing, and 1.0 is 1.

    Texts that Unicode holds to be the same character by character (NFC) are one.

    >>> as_label(" pos"), as_label("1.0"), as_label("2.50"), as_label("\\u200bcafe\\u0301") == "caf\xe9"
    ('pos', '1', '2.50', True)
    """
    return re.sub(r"^(-?\d+)\.0+$", r"\1", unicodedata.normalize("NFC", _UNSEEN.sub("", text)).strip())


class StoredRows(Picked[Row]):
    """Rows that lie on the disk, and what tells whether two teach the same."""

    def __init__(self, rows: Iterable[Row]) -> None:
        spool, contents = Spool(), array("Q")
        packer = zstandard.ZstdCompressor(
            level=1
        )  # a text stands there twice: in its column and in its place
        for row in rows:
            spool.append(packer.compress(pickle.dumps(row, pickle.HIGHEST_PROTOCOL)))
            contents.append(_content(row))
        super().__init__(partial(_unpacked, spool), places_of(len(spool)))
        self._contents = np.frombuffer(contents or array("Q", [0]), dtype=np.uint64)

    def teach(self, others: "StoredRows") -> np.ndarray:
        """Whether each of the others teaches what one of these does: prompt and response, or token ids; bool."""
        asked = others._contents[others.places]
        found = np.zeros(len(others), dtype=np.bool_)
        for start in range(0, len(self), CHUNK):
            found |= np.isin(asked, self._contents[self.places[start : start + CHUNK]])
        found &= asked != 0
        return found


def _unpacked(spool: Spool, place: int) -> Row:
    row: Row = pickle.loads(zstandard.decompress(spool[place]))
    return row


def _content(row: Row) -> int:
    """A hash of what a row teaches; 0 if that is nothing."""
    if row.is_empty:
        return 0
    what = (row.prompt.strip(), row.response.strip()) if row.tokens is None else row.tokens.ids
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=8).digest()) or 1


def read_rows(
    source: str | Path,
    *,
    template: str = DEFAULT_TEMPLATE,
    response_column: str = "text",
    format: Format = "columns",
    domain: str = HELD_OUT_DOMAIN,
    count: int = 600,
    seed: int = 0,
) -> Iterator[Row]:
    """Yield rows of prompt and response, or of chat, one by one in the order of the source.

    Args:
        source: a file, a folder or a data set on the hub, as `splitcom.data.sources` says; or "generated".
        template: the prompt, as `splitcom.data.prompt` says ("{mr} =>"); empty for plain text without a prompt.
        response_column: the column that the model learns to write; of chat, the one to look in first.
        format: "chat" reads conversations (see `splitcom.data.chat`), "tokens" token ids (`splitcom.data.tokens`), and
            no template.
        domain, count, seed: what to generate (columns: mr, text, domain).

    Raises:
        DataError: the source cannot be read, has no such column or no rows, or a column that is asked for holds no
            text; names file, line and column.
        MissingExtraError: a package for this kind of source is not installed.
    """
    prompt = read_prompt(template)
    records: Iterable[Record]
    if source == GENERATED:
        pairs = generate(domain, count, seed)
        records = ((f"{GENERATED} row {index}", pair) for index, pair in enumerate(pairs))
    else:
        records = read_source(find_source(source))
    sample_id = -1
    for sample_id, (where, record) in enumerate(records):
        yield _row(sample_id, record, where, format, prompt, response_column)
    if sample_id < 0:
        raise DataError(f"{source}: no rows; expected at least one (after the header, in CSV and TSV)")


def told(rows: Iterable[Row], total: int, on_progress: Progress | None) -> Iterator[Row]:
    """The rows, with somebody told from time to time how many have gone by, and at last that these are all."""
    number = 0
    for number, row in enumerate(rows, start=1):
        yield row
        if on_progress is not None and number % TOLD_EVERY == 0:
            on_progress(number, total)
    if on_progress is not None:
        on_progress(number, number)


def first_rows(rows: Iterable[Row], num_characters: int) -> Iterator[Row]:
    """The first rows, as many as it takes until their columns hold so many characters."""
    for row in rows:
        yield row
        num_characters -= sum(map(len, row.columns.values()))
        if num_characters <= 0:
            return


def _row(
    sample_id: int,
    record: Mapping[str, Any],
    where: str,
    format: Format,
    prompt: Prompt,
    response_column: str,
) -> Row:
    columns = {str(name): as_text(value) for name, value in record.items()}
    if format == "chat":
        return _chat_row(sample_id, record, columns, where, response_column)
    if format == "tokens":
        return Row(sample_id, "", "", columns, where=where, tokens=read_tokens(record, where))
    text, lacks_prompt = prompt.render(record, where)
    response = text_of(record, response_column, where, "data.response")
    return Row(sample_id, text, response, columns, lacks_prompt, where)


def recognised(source: str | Path, *, template: str, response_column: str) -> Format:
    """Tell by the first row of a source what it holds.

    It is chat if it has a conversation by its keys, token ids if it has those, and not all columns of prompt and
    response as text.
    """
    if source == GENERATED:
        return "columns"
    first = next(iter(read_source(find_source(source))), None)
    if first is None:
        return "columns"
    _, record = first
    asked_for = (*read_prompt(template).columns, response_column)
    has_all = all(column in record and not is_chat(record[column]) for column in asked_for)
    if has_all:
        return "columns"
    return "tokens" if has_tokens(record) else "chat" if chat_columns(record, response_column) else "columns"


def _chat_row(
    sample_id: int, record: Mapping[str, Any], columns: Mapping[str, str], where: str, named: str
) -> Row:
    try:
        conversation = read_chat(record, named)
    except ChatError as problem:
        return Row(sample_id, "", "", columns, lacks_prompt=True, where=where, problem=str(problem))
    prompt = "\n".join(map(str, conversation.asked))
    response = conversation.messages[conversation.last].content
    return Row(sample_id, prompt, response, columns, where=where, conversation=conversation)


def column_value(row: Row, column: str, setting: str = "partition.column") -> str:
    """Return the value of a column, or raise the DataError that lists the columns there are."""
    return as_text(value_of(row.columns, column, row.place, setting))
