"""Files as people have them: encodings, packing, JSON in its forms, Parquet, and what is said of damaged ones."""

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

from splitcom.data.files import read_file
from splitcom.errors import DataError, MissingExtraError

ROWS = [{"q": "é 1", "a": "x"}, {"q": "ü 2", "a": "y"}]
CSV = "q,a\né 1,x\nü 2,y\n"
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(path: Path) -> list[dict[str, object]]:
    return [dict(columns) for _, columns in read_file(path)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("A.CSV", CSV.replace("\n", "\r\n")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.tab", CSV.replace(",", "\t").encode("utf-16")),
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace("\n", "\r\n\r\n")),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", LINES),
        ("a.jsonl", "\n" + json.dumps(ROWS)),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_text_format_with_a_mark_and_packed(tmp_path, name, content, packed, mark):
    content = content if isinstance(content, bytes) else mark + content.encode()
    path = write(tmp_path / (name + ".gz" * packed), gzip.compress(content) if packed else content)
    assert records(path) == ROWS


def test_marks_in_the_middle_of_joined_files_go(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join("\ufeff" + line for line in LINES.splitlines(keepends=True)))
    assert records(path) == ROWS


def test_gzip_is_told_by_the_content_too(tmp_path):
    assert records(write(tmp_path / "a.csv", gzip.compress(CSV.encode()))) == ROWS


@pytest.mark.parametrize("packed", [False, True])
def test_parquet(tmp_path, packed):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([*ROWS, {"q": None, "a": "z"}]), file)
    content = file.getvalue()
    path = write(tmp_path / ("a.parquet" + ".gz" * packed), gzip.compress(content) if packed else content)
    assert records(path) == [*ROWS, {"q": None, "a": "z"}]
    assert [where for where, _ in read_file(path)][2] == f"{path} row 2"
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        records(write(tmp_path / "a.parquet", content[:-9]))


def test_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"a\.parquet.*splitcom\[hub\]"):
        records(write(tmp_path / "a.parquet", b"PAR1"))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", CSV)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", CSV.encode("latin-1"), r"a\.csv:2: not UTF-8 \(byte 0xe9\)"),
        ("a.csv", CSV.encode("utf-16-le"), r"a\.csv:\d: .*not UTF-8|a\.csv:1: holds a zero byte"),
        ("a.csv", "q,a\nx,y\0\n", r"a\.csv:2: holds a zero byte"),
        ("a.csv.gz", CSV, r"a\.csv\.gz: not packed with gzip"),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-9], r"a\.csv\.gz: damaged"),
        ("a.csv", zipped(), r"a\.csv: a zip archive; unpack it"),
        ("a.txt", CSV, r"a\.txt: cannot tell from its name.*\.csv, \.tsv, \.json, \.jsonl or \.parquet"),
        ("a.jsonl", LINES.replace("}\n", "},\n"), r"a\.jsonl:1: not JSON .*no comma after it"),
        ("a.jsonl", LINES + '{"mr": \n', r"a\.jsonl:3: not JSON"),
        ("a.json", json.dumps({"rows": ROWS}, indent=1), r"a\.json:1: not JSON"),
        ("a.json", "[1, null]\n", r"a\.json item 1: expected an object .*found 1"),
        ("a.json", json.dumps(ROWS, indent=1)[:-1], r"a\.json: not JSON \(.*line \d+, column"),
        ("a.jsonl", "3\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', r"a\.jsonl:1: the name 'a' stands twice"),
        ("a.jsonl", '{"a": ' + "[" * 200_000, r"a\.jsonl:1: "),
        ("a.jsonl", '{"a": ' + "9" * 9_000 + "}", r"a\.jsonl:1: "),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        records(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES.encode() + b"{\n", r"a\.jsonl:3: not JSON"),
        ("a.csv", CSV.encode() + b"x\n", r"a\.csv:4: 1 fields"),
        ("a.csv", CSV.encode() + b"\xe9,x\n", r"a\.csv:4: not UTF-8 \(byte 0xe9\)"),
        ("a.tab", (CSV + "x,\0\n").replace(",", "\t").encode("utf-16"), r"a\.tab:4: holds a zero byte"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 99, mtime=0)[:-9], r"a\.jsonl\.gz: damaged"),
    ],
)
def test_rows_before_a_damaged_one_are_read(tmp_path, name, content, message):
    found = read_file(write(tmp_path / name, content))
    assert next(found)[1] == ROWS[0] and next(found)[1] == ROWS[1]
    with pytest.raises(DataError, match=message):
        list(found)
