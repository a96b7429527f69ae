"""Rows of token ids: read as they are, cut and dropped like others; what is no row of them is refused."""

import json

import pytest

from splitcom.data import IGNORED, encode_tokens, read_rows, recognised
from splitcom.data.tokens import Tokens, read_tokens
from splitcom.errors import DataError

ROWS = [
    {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
    {"input_ids": [9, 10, 11]},
    {"input_ids": [5, 6], "labels": [5, -100]},  # nothing predicts the first
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_they_are_recognised_and_taken_as_they_are(file, byte_level):
    assert recognised(file, template="{mr} =>", response_column="text") == "tokens"
    encoded = encode_tokens(list(read_rows(file, format="tokens")), byte_level, max_tokens=3)
    first, second = encoded.samples
    assert first.input_ids.tolist() == [5, 6, 7] and first.labels.tolist() == [IGNORED, IGNORED, 7]
    assert second.labels.tolist() == [9, 10, 11]
    assert first.row.prompt == byte_level.decode([5, 6]) and first.row.response == byte_level.decode([7])
    assert list(encoded.report.truncated_ids) == [0] and encoded.report.num_tokens_cut == 1
    assert list(encoded.report.dropped_ids) == [2]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"input_ids": "5 6"}, "row 3: column 'input_ids' holds no list of token ids"),
        ({"input_ids": [5, -1]}, "no list of token ids"),
        ({"input_ids": [5, True]}, "no list of token ids"),
        ({"input_ids": [5, 6], "labels": [5]}, "'labels' holds no list of 2 numbers"),
        ({"input_ids": [5, 6], "labels": [6, -100]}, "label 0 is 6; expected the token itself, 5, or -100"),
    ],
)
def test_what_is_no_row_of_them_is_refused(record, reason):
    with pytest.raises(DataError, match=reason):
        read_tokens(record, "row 3")


def test_without_labels_all_is_learnt():
    assert read_tokens({"input_ids": (1, 2), "labels": None}, "").labels == (1, 2)
    assert Tokens((1, 2), (-100, -100)).num_before == 2
