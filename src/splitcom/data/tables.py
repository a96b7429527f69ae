"""Tables of text: which delimiter, and whether quotation marks are marks or text; knows no file.

CSV: the delimiter is the first of comma, semicolon and tab that parts the header and fits every row.

TSV has two customs. Spreadsheets and `csv` quote a field that holds a tab, a line break or a quotation mark, and double
the marks inside; GLUE and others write all text as it is. The quotation marks are syntax if only that fits the header's
number of columns, or if a quoted field has doubled marks inside. They are syntax too if every field that opens with one
also closes with one, and the header, all of a column, or just the fields with a comma have them. Else they are text.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from splitcom.errors import DataError

_WIDEST_FIELD = 2**31 - 1  # what a C long holds on every system
_QUOTED = re.compile(r'"([^"]|"")*"')
_EXCEL = re.compile(r"sep=(.)\r?\n")


@dataclass(frozen=True)
class _Table:
    """A text as read by one dialect: a header, rows with their lines, and what does not fit, with its line."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    problem: tuple[int, str] | None

    def records(self, where: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield place and columns of each row; DataError for the problem."""
        if self.problem is not None:
            line, message = self.problem
            raise DataError(f"{where}:{line}: {message}")
        for line, fields in self.rows:
            yield f"{where}:{line}", dict(zip(self.header, fields, strict=True))


def read_csv(text: str, where: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Read comma-separated values, or those with semicolons or tabs, which the header tells."""
    if (told := _EXCEL.match(text)) is not None:
        delimiters, text = told[1], "\n" + text[told.end() :]  # an empty line, so that numbers of lines stay
    else:
        delimiters = ",;\t"
    tables = []
    for delimiter in delimiters:
        table = _read(text, delimiter=delimiter)
        if len(table.header) > 1 or delimiter == delimiters[0]:
            tables.append(table)
        if len(table.header) > 1 and table.problem is None:
            return table.records(where)
    return max(tables, key=lambda table: len(table.header) > 1).records(where)  # the first of these


def read_tsv(text: str, where: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Read tab-separated values of either custom."""
    plain = _read(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    quoted = _read(text, delimiter="\t")
    if quoted.problem is None and (plain.problem is not None or _quotes_are_syntax(plain)):
        return quoted.records(where)
    return plain.records(where)


def _read(text: str, **dialect: Any) -> _Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    rows: list[tuple[int, list[str]]] = []
    problem = None
    limit = csv.field_size_limit(_WIDEST_FIELD)
    try:
        rows += ((reader.line_num, fields) for fields in reader if fields)
    except csv.Error as error:
        problem = (reader.line_num, f"{error}; check the quotation marks of this row")
    finally:
        csv.field_size_limit(limit)
    if not rows:
        return _Table([], [], problem)
    (line, header), *rows = rows
    named = [name for name in header if name]
    uneven = next(((line, len(fields)) for line, fields in rows if len(fields) != len(header)), None)
    if len(set(named)) != len(named):
        problem = (line, f"a column name stands twice in the header {header}; rename one")
    elif uneven is not None and (problem is None or uneven[0] < problem[0]):
        problem = (
            uneven[0],
            f"{uneven[1]} fields, but the header has {len(header)} ({', '.join(header)}); quote fields that hold the "
            "delimiter or a line break",
        )
    return _Table(header, rows, problem)


def _quotes_are_syntax(plain: _Table) -> bool:
    rows = [plain.header, *(fields for _, fields in plain.rows)]
    opening = [field for fields in rows for field in fields if field.startswith('"')]
    closed = [field for field in opening if _QUOTED.fullmatch(field)]
    if any('""' in field[1:-1] for field in closed):
        return True
    if not opening or len(closed) < len(opening):
        return False
    columns = zip(*rows[1:], strict=True)
    with_comma = [field for fields in rows for field in fields if "," in field]
    return (
        all(name.startswith('"') for name in plain.header)
        or any(all(field.startswith('"') for field in column) for column in columns)
        or with_comma == opening
    )
