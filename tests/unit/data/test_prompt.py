"""Templates over columns: in braces, and with conditions."""

import pytest

from splitcom.data import read_prompt
from splitcom.errors import DataError

ALPACA = """Instruction: {{ instruction }}
{% if input %}
Input: {{ input }}
{% endif %}
Response:
"""


def test_conditions_see_the_columns():
    prompt = read_prompt(ALPACA)
    assert prompt.columns == ("instruction", "input")
    full = prompt.render({"instruction": "Add.", "input": "1 2", "output": "3"}, "row 1")
    assert full == ("Instruction: Add.\nInput: 1 2\nResponse:\n", False)
    assert (
        prompt.render({"instruction": "Add.", "input": None}, "row 1")[0] == "Instruction: Add.\nResponse:\n"
    )


def test_braces_stay_what_they_are_without_jinja():
    assert read_prompt("{{{a.b}}} {c d}:").render({"a.b": 1, "c d": "2"}, "row 1") == ("{1} 2:", False)
    assert read_prompt("{{ a }} {b}").render({"a": 1}, "row 1") == ("1 {b}", False)


def test_names_that_are_no_identifiers_are_in_row_and_nothing_else_is():
    prompt = read_prompt(
        "{{ row['customer rating'] }} {{ row.a }}{% for name in row %} {{ name }}{% endfor %}"
    )
    assert set(prompt.columns) == {"customer rating", "a"}
    text, _ = prompt.render({"customer rating": "5", "a": "x", "secret": "s"}, "row 1")
    assert text.startswith("5 x") and "secret" not in text


def test_a_prompt_lacks_what_all_its_columns_lack():
    assert read_prompt("{{ a }}{{ b }} =>").render({"a": " ", "b": None}, "row 1")[1]
    assert not read_prompt("{{ a }}{{ b }} =>").render({"a": "x", "b": None}, "row 1")[1]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ instructon }}",
            r"a\.jsonl:3: no column 'instructon' .*data\.prompt.*did you mean 'instruction'",
        ),
        ("{{ tags }}", r"a\.jsonl:3: column 'tags' \(data\.prompt\) holds a list"),
        ("{{ instruction.__class__ }}", r"a\.jsonl:3: data\.prompt cannot be filled in: .*__class__"),
        ("{{ instruction / 2 }}", r"a\.jsonl:3: data\.prompt cannot be filled in"),
    ],
)
def test_what_a_row_cannot_fill_in_is_named_with_its_line(template, message):
    with pytest.raises(DataError, match=message):
        read_prompt(template).render({"instruction": "x", "tags": ["a"]}, "a.jsonl:3")


def test_a_column_that_may_be_missing_is_asked_for():
    prompt = read_prompt("{{ a }}{% if b is defined %}, {{ b }}{% endif %}")
    assert prompt.render({"a": "x"}, "row 1")[0] == "x"


@pytest.mark.parametrize("template", ["{% if a %}", "{{ a", "{{ a }}{% include 'x' %}{% endif %}"])
def test_a_malformed_template_is_refused(template):
    with pytest.raises(DataError, match=r"data\.prompt, line 1: .*jinja2"):
        read_prompt(template)
