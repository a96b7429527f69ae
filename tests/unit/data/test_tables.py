"""CSV and TSV as people write them: delimiters, quotation marks, and what is said of rows that do not fit."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom.data.tables import read_csv, read_tsv
from splitcom.errors import DataError


def lines(text):
    return lambda: io.StringIO(text, newline="")


def values(records) -> list[list[str]]:
    return [list(columns.values()) for _, columns in records]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("q,a\nx,y\n", [["x", "y"]]),
        ("q;a\nx;1,5\n", [["x", "1,5"]]),
        ("q\ta\nx\t1,5\n", [["x", "1,5"]]),
        ('"q, long";a\nx;y\n', [["x", "y"]]),
        ("q, long;a\nx;y\n", [["x", "y"]]),
        ('q,a\n"x;y",z\n', [["x;y", "z"]]),
        ("a\nx;y\nz\n", [["x;y"], ["z"]]),
        ("sep=;\r\nq;a\r\nx;y\r\n", [["x", "y"]]),
        ("q,a,,\r\nx,y,,\r\n", [["x", "y", ""]]),
        ("q,a\r\rx,y\r", [["x", "y"]]),
    ],
)
def test_the_header_tells_the_delimiter(text, rows):
    assert values(read_csv(lines(text), "f")) == rows


def test_fields_may_be_long():
    before = csv.field_size_limit()
    long = "x" * 500_000
    assert values(read_csv(lines(f"q,a\n{long},y\n"), "f")) == [[long, "y"]]
    assert values(read_tsv(lines(f"q\ta\n{long}\ty\n"), "f")) == [[long, "y"]]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "text",
    [
        'q\ta\nx\t"He said ""hi"""\n',
        '"q"\t"a"\n"x"\t"He said"\n',
        'q\ta\n"x"\tHe said\n"y"\tyes\n',
        'q\ta\nx\t"two\nlines"\n',
        'q\ta\nx\t"a\ttab"\n',
        'q\ta\nx\t"Well, yes"\ny\tno\n',
    ],
)
def test_quotation_marks_that_are_syntax_go(text):
    assert values(read_tsv(lines(text), "f")) == values(iter_excel_tab(text))


def iter_excel_tab(text):
    header, *rows = csv.reader(io.StringIO(text, newline=""), csv.excel_tab)
    return [("", dict(zip(header, row, strict=True))) for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        'q\ta\n"so it goes \t1\n',
        'q\ta\n"so it goes \t1\nand on" \t0\n',
        'q\ta\n"yes" , he said\t1\n',
        'q\ta\n"hello there"\t1\nhe said , yes\t0\n',
        'q\ta\n5" wide\t1\n',
    ],
)
def test_quotation_marks_that_are_text_stay(text):
    assert values(read_tsv(lines(text), "f")) == [line.split("\t") for line in text.splitlines()[1:]]


TEXT = st.text(st.sampled_from('ab ,;"\t\n'), min_size=1, max_size=8)


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_what_csv_writes_is_read_back(rows, delimiter):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("q", "a"), *rows])
    assert values(read_csv(lines(file.getvalue()), "f")) == [list(row) for row in rows]


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_csv_writes_with_tabs_is_read_back_where_its_marks_show(rows):
    file = io.StringIO(newline="")
    csv.writer(file, dialect="excel-tab").writerows([("q", 'a "b"'), *rows])
    assert values(read_tsv(lines(file.getvalue()), "f")) == [list(row) for row in rows]


@given(rows=st.lists(st.tuples(*[st.text(st.sampled_from('ab "'), min_size=1, max_size=6)] * 2), min_size=1))
def test_plain_text_with_tabs_never_loses_a_row(rows):
    text = "\n".join("\t".join(row) for row in [("q", "a"), *rows])
    assert len(values(read_tsv(lines(text), "f"))) == len(rows)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_csv, "mr,text\na,b\nc\n", r"f:3: 1 fields, but the header has 2 \(mr, text\)"),
        (read_csv, "mr;text\na;b;c\n", r"f:2: 3 fields"),
        (read_csv, "mr,text\na,b,c\n", r"f:2: 3 fields"),
        (read_csv, "mr,mr\na,b\n", r"f:1: a column name stands twice in the header \['mr', 'mr'\]"),
        (read_csv, 'mr,text\na,"b\n', r"f:2: .*quotation"),
        (read_tsv, 'mr\ttext\na\t"b"c\td\n', r"f:2: 3 fields"),
    ],
)
def test_a_bad_row_is_named(read, text, message):
    with pytest.raises(DataError, match=message):
        list(read(lines(text), "f"))


def test_an_empty_table_has_no_rows():
    assert values(read_csv(lines(""), "f")) == values(read_csv(lines("q,a\n"), "f")) == []
    assert values(read_tsv(lines("\n\n"), "f")) == []
