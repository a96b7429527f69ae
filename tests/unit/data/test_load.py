"""Rows from files, the hub and the generator, and what is said when they cannot be had."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from splitcom.data import load_rows
from splitcom.errors import DataError

ASSETS = Path(os.environ.get("SPLITCOM_ASSETS", Path(__file__).parents[4] / "shared/assets"))
needs_assets = pytest.mark.skipif(
    not ASSETS.is_dir(), reason=f"no {ASSETS}; set SPLITCOM_ASSETS to the assets folder"
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    path = write(tmp_path / "a.csv", '\ufeffmr,text,place\r\n"a, b","two\nlines",north\r\n\r\nc,d,south\r\n')
    rows = load_rows(path)
    assert [(row.sample_id, row.prompt, row.response) for row in rows] == [
        (0, "a, b =>", "two\nlines"),
        (1, "c =>", "d"),
    ]
    assert [row.columns["place"] for row in rows] == ["north", "south"]


def test_tsv_takes_quotation_marks_as_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"so it goes \t1\n')
    (row,) = load_rows(path, template="{sentence}it was", response_column="label")
    assert (row.prompt, row.response) == ('"so it goes it was', "1")


def test_json_lines_keep_values_that_are_no_text(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"q": "é\u2028x", "a": 3, "tags": ["u"], "none": null}\n\n{"q": "z", "a": true}\n',
    )
    rows = load_rows(path, template="{q}", response_column="a")
    assert [(row.prompt, row.response) for row in rows] == [("é\u2028x", "3"), ("z", "true")]
    assert rows[0].columns["tags"] == '["u"]'
    assert rows[0].columns["none"] == ""


def test_limit_keeps_sample_ids_and_an_empty_template_is_plain_text(tmp_path):
    path = write(tmp_path / "a.csv", "text\none\ntwo\nthree\n")
    every, first = load_rows(path, template=""), load_rows(path, template="", limit=2)
    assert first == every[:2]
    assert [row.sample_id for row in every] == [0, 1, 2]
    assert {row.prompt for row in every} == {""}


def test_template_takes_literal_braces_and_columns_with_dots(tmp_path):
    path = write(tmp_path / "a.csv", "a.b,customer rating,text\n1,2,x\n")
    (row,) = load_rows(path, template="{{{a.b}}} {customer rating}:")
    assert row.prompt == "{1} 2:"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: no rows"),
        ("a.csv", "mr,text\n", r"a\.csv: no rows"),
        ("a.csv", "mr,text\na,b\nc\n", r"a\.csv:3: 1 fields where the header has 2 \(mr, text\)"),
        ("a.csv", "mr,text\na,b,c\n", r"a\.csv:2: 3 fields"),
        ("a.csv", "mr,mr\na,b\n", r"a\.csv:1: a column name stands twice in the header \['mr', 'mr'\]"),
        ("a.csv", 'mr,text\na,"b\n', r"a\.csv:2: .*quotation"),
        ("a.csv", b"mr,text\na,b\nc,\xe9t\xe9\n", r"a\.csv:3: not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", '{"mr": "a", "text": "b"}\n{"mr": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", "[1, 2]\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"mr": "a", "text": "b"}\n{"mr": "a"}\n', r"a\.jsonl:2: no column 'text'.*found: mr"),
        ("a.csv", "mr,txt\na,b\n", r"a\.csv:2: no column 'text' .*response_column.*did you mean 'txt'"),
        ("a.csv", "meaning,text\na,b\n", r"no column 'mr' .*template.*found: meaning, text"),
        ("a.data", "mr,text\na,b\n", r"cannot tell the format.*csv, tsv or jsonl"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load_rows(write(tmp_path / name, content))


@pytest.mark.parametrize("template", ["{mr", "{}", "{mr!r}", "{mr:>9}", "}"])
def test_a_bad_template_is_refused(template):
    with pytest.raises(DataError, match="template"):
        load_rows("generated", template=template)


def test_a_missing_file_is_no_hub_name(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        load_rows(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="no such file"):
        load_rows(tmp_path / "gone")


def test_limit_and_format_are_checked():
    with pytest.raises(DataError, match="limit is 0"):
        load_rows("generated", limit=0)
    with pytest.raises(DataError, match="unknown data format 'xml'"):
        load_rows("generated", format="xml")  # type: ignore[arg-type]


def test_the_hub_extra_is_named_when_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"no file 'e2e_nlg'.*splitcom\[hub\]"):
        load_rows("e2e_nlg")


def test_a_hub_data_set_is_read_by_split(monkeypatch):
    def load_dataset(name, split):
        return [{"mr": name, "text": split, "label": 1}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (row,) = load_rows("someone/something", split="validation")
    assert (row.prompt, row.response, row.columns["label"]) == ("someone/something =>", "validation", "1")


def test_an_unreachable_hub_is_reported(monkeypatch):
    def load_dataset(name, split):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"'e2e_nlg' is no file.*no route.*network"):
        load_rows("e2e_nlg")


@needs_assets
def test_real_data_sets():
    e2e = load_rows(ASSETS / "data/e2e_nlg/devset.csv", template="{mr} => ", response_column="ref")
    assert len(e2e) == 4672
    assert e2e[0].prompt == "name[Alimentum], area[city centre], familyFriendly[no] => "
    sst2 = load_rows(ASSETS / "data/sst2/dev.tsv", template="{sentence}=>", response_column="label")
    assert len(sst2) == 872
    assert {row.response for row in sst2} == {"0", "1"}
