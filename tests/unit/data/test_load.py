"""Rows of prompt and response, and what is refused as such."""

import json
import os
from pathlib import Path

import pytest

from splitcom.data import read_rows
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
    rows = list(read_rows(path))
    assert [(row.sample_id, row.prompt, row.response) for row in rows] == [
        (0, "a, b =>", "two\nlines"),
        (1, "c =>", "d"),
    ]
    assert [row.columns["place"] for row in rows] == ["north", "south"]


def test_json_lines_keep_values_that_are_no_text(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"q": "é\u2028x", "a": 3, "tags": ["u"], "none": null}\n\n{"q": "z", "a": true}\n',
    )
    rows = list(read_rows(path, template="{q}", response_column="a"))
    assert [(row.prompt, row.response) for row in rows] == [("é\u2028x", "3"), ("z", "true")]
    assert rows[0].columns["tags"] == '["u"]'
    assert rows[0].columns["none"] == ""


def test_an_empty_template_is_plain_text(tmp_path):
    path = write(tmp_path / "a.csv", "text\none\ntwo\nthree\n")
    rows = list(read_rows(path, template=""))
    assert [row.sample_id for row in rows] == [0, 1, 2]
    assert {row.prompt for row in rows} == {""}


def test_template_takes_literal_braces_and_columns_with_dots(tmp_path):
    path = write(tmp_path / "a.csv", "a.b,customer rating,text\n1,2,x\n")
    (row,) = list(read_rows(path, template="{{{a.b}}} {customer rating}:"))
    assert row.prompt == "{1} 2:"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: no rows"),
        ("a.csv", "mr,text\n", r"a\.csv: no rows"),
        ("a.jsonl", '{"mr": "a", "text": "b"}\n{"mr": "a"}\n', r"a\.jsonl:2: no column 'text'.*found: mr"),
        ("a.csv", "mr,txt\na,b\n", r"a\.csv:2: no column 'text' .*data\.response.*did you mean 'txt'"),
        ("a.csv", "meaning,text\na,b\n", r"no column 'mr' .*data\.prompt.*found: meaning, text; change data\.prompt"),
        ("a.jsonl", '{"mr": "a", "text": ["b"]}', r"jsonl:1: column 'text' \(data\.response\) holds a list, .*chat"),
        ("a.jsonl", '{"mr": {"b": 1}, "text": "b"}', r"column 'mr' \(data\.prompt\) holds a set of named values"),
        ("a.jsonl", '{"mr": "\\ud83d", "text": "b"}', r"a\.jsonl:1: column 'mr' holds half a character \(.ud83d\)"),
    ],
)  # fmt: skip
def test_a_bad_column_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path / name, content)))


@pytest.mark.parametrize(
    "conversation",
    [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
        [{"from": "human", "value": "hi"}],
        {"role": "assistant", "content": "yo"},
        {"messages": [{"content": "hi", "role": "user"}]},
        "[{'role': 'user', 'content': 'hi'}]",
        ' [{"content": "hi", "role": "user"}]',
    ],
)
@pytest.mark.parametrize("as_prompt", [False, True])
def test_a_conversation_is_not_learnt_as_its_json(tmp_path, conversation, as_prompt):
    path = write(tmp_path / "a.jsonl", json.dumps({"x": "hello", "chat": conversation}))
    columns = ("{chat}", "x") if as_prompt else ("", "chat")
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: .*chat conversation.*data\.prompt and data\.response"
    ) as refused:
        list(read_rows(path, template=columns[0], response_column=columns[1]))
    assert "role" not in str(refused.value)


def test_text_that_only_looks_like_json_is_text(tmp_path):
    values = ['{"from": "Rome", "to": "Paris"}', "[1, 2]", "{a role: content}", '{"role": "nurse"}']
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": value}) for value in values))
    assert [row.response for row in list(read_rows(path, template=""))] == values


def test_null_and_nan_are_equally_empty(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"q": "x", "a": null}\n{"q": NaN, "a": NaN}\n{"q": "x", "a": 0.5}\n')
    rows = list(read_rows(path, template="{q}", response_column="a"))
    assert [(row.response, row.is_empty, row.lacks_prompt) for row in rows] == [
        ("", True, False),
        ("", True, True),
        ("0.5", False, False),
    ]


def test_one_of_several_columns_of_a_prompt_may_be_empty(tmp_path):
    path = write(tmp_path / "a.csv", "instruction,input,text\na,,b\n,c,d\n, ,e\n")
    rows = list(read_rows(path, template="{instruction} {input} =>"))
    assert [row.is_empty for row in rows] == [False, False, True]


@pytest.mark.parametrize("template", ["{mr", "{}", "{mr!r}", "{mr:>9}", "}"])
def test_a_bad_template_is_refused(template):
    with pytest.raises(DataError, match=r"data\.prompt = "):
        list(read_rows("generated", template=template))


@needs_assets
def test_real_data_sets():
    e2e = list(read_rows(ASSETS / "data/e2e_nlg/devset.csv", template="{mr} => ", response_column="ref"))
    assert len(e2e) == 4672
    assert e2e[0].prompt == "name[Alimentum], area[city centre], familyFriendly[no] => "
    sst2 = list(read_rows(ASSETS / "data/sst2/dev.tsv", template="{sentence}=>", response_column="label"))
    assert len(sst2) == 872
    assert {row.response for row in sst2} == {"0", "1"}
