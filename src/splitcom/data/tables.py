"""Tables of text: which delimiter, and whether quotation marks are marks or text; knows no file.

CSV: the delimiter is the first of comma, semicolon and tab that parts the header and fits every row.

TSV has two customs. Spreadsheets and `csv` quote a field that holds a tab, a line break or a quotation mark, and double
the marks inside; GLUE and others write all text as it is. The quotation marks are syntax if only that fits the header's
number of columns, or if a quoted field has doubled marks inside. They are syntax too if every field that opens with one
also closes with one, and the header, all of a column, or just the fields with a comma have them. Else they are text.

Rows are read one by one. To tell between two ways that are possible, all rows are gone through first: in TSV, and in
CSV if several delimiters part the header.
"""

import csv
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from splitcom.errors import DataError

Lines = Callable[[], Iterator[str]]
"""Begins to read a text anew, line by line, each with what ends it."""

_WIDEST_FIELD = 2**31 - 1  # what a C long holds on every system
_QUOTED = re.compile(r'"([^"]|"")*"')
_EXCEL = re.compile(r"sep=(.)\r?\n")


def read_csv(lines: Lines, where: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and columns of each row of comma-separated values, or of those with semicolons or tabs.

    Raises DataError, with the line, for a row that does not fit.
    """
    delimiters, whole = ",;\t", lines
    if (told := _EXCEL.match(next(lines(), ""))) is not None:
        delimiters = told[1]

        def whole() -> Iterator[str]:
            return chain(["\n"], islice(lines(), 1, None))  # an empty line, so that numbers of lines stay

    possible = [one for one in delimiters if _parts_header(whole(), one)] or [delimiters[0]]
    fitting = (one for one in possible if len(possible) == 1 or _fits(whole(), delimiter=one))
    yield from _records(whole(), where, delimiter=next(fitting, possible[0]))


def read_tsv(lines: Lines, where: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and columns of each row of tab-separated values of either custom; raises as `read_csv` does."""
    plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    may_be_quoted = not _fits(lines(), **plain) or _quotes_are_syntax(lines(), plain)
    if may_be_quoted and _fits(lines(), delimiter="\t"):
        plain.pop("quoting")
    yield from _records(lines(), where, **plain)


def _records(lines: Iterator[str], where: str, **dialect: Any) -> Iterator[tuple[str, dict[str, str]]]:
    rows = _rows(lines, where, **dialect)
    _, header = next(rows, (0, []))
    for line, fields in rows:
        yield f"{where}:{line}", dict(zip(header, fields, strict=True))


def _rows(lines: Iterator[str], where: str, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of the header and of each row; DataError for what does not fit."""
    reader, header = csv.reader(lines, strict=True, **dialect), list[str]()
    while (fields := _next(reader, where)) is not None:
        if fields and not header:
            header, named = fields, [name for name in fields if name]
            if len(set(named)) != len(named):
                raise DataError(
                    f"{where}:{reader.line_num}: a column name stands twice in the header {header}; rename one"
                )
        if fields and len(fields) != len(header):
            raise DataError(
                f"{where}:{reader.line_num}: {len(fields)} fields, but the header has {len(header)} "
                f"({', '.join(header)}); quote fields that hold the delimiter or a line break"
            )
        if fields:
            yield reader.line_num, fields


def _next(reader: Any, where: str) -> list[str] | None:
    """The next row, None if there is none, empty for an empty line."""
    limit = csv.field_size_limit(_WIDEST_FIELD)
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(
            f"{where}:{reader.line_num}: {error}; check the quotation marks of this row"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _parts_header(lines: Iterator[str], delimiter: str) -> bool:
    try:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        return len(next(filter(None, iter(lambda: _next(reader, ""), None)), [])) > 1
    except DataError:
        return False


def _fits(lines: Iterator[str], **dialect: Any) -> bool:
    """Whether all rows do."""
    try:
        for _ in _rows(lines, "", **dialect):
            pass
    except DataError:
        return False
    return True


def _quotes_are_syntax(lines: Iterator[str], plain: dict[str, Any]) -> bool:
    """Whether the quotation marks of a table that fits without them can be nothing else."""
    rows = (fields for _, fields in _rows(lines, "", **plain))
    header = next(rows, [])
    every, has_rows, opening, are_closed, are_commas = [True] * len(header), False, 0, True, True
    for number, fields in enumerate(chain([header], rows)):
        opens = [field.startswith('"') for field in fields]
        for field in (field for field, does in zip(fields, opens, strict=True) if does):
            is_closed = _QUOTED.fullmatch(field) is not None
            if is_closed and '""' in field[1:-1]:
                return True
            are_closed &= is_closed
        opening += sum(opens)
        are_commas &= opens == ["," in field for field in fields]
        if number:
            has_rows, every = True, [one and does for one, does in zip(every, opens, strict=True)]
    of_column = has_rows and any(every)
    return (
        opening > 0
        and are_closed
        and (all(name.startswith('"') for name in header) or of_column or are_commas)
    )
