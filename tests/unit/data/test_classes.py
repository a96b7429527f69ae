"""Rows with classes: which there are, and their encoding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.data import Row, check_classes, classes_in, encode_classes
from splitcom.errors import DataError


def rows_of(*pairs):
    return [Row(index, text, label, {}) for index, (text, label) in enumerate(pairs)]


class Words:
    """A tokenizer of words that closes each text with 9, as encoders' do."""

    def __call__(self, texts, truncation=False, max_length=100, verbose=True, add_special_tokens=True):
        if isinstance(texts, str):
            return {"input_ids": [*self._ids(texts)[: max_length - 1], *[9] * add_special_tokens]}
        return {"input_ids": [[*ids, 9] if (ids := self._ids(text)) else [] for text in texts]}

    def decode(self, ids):
        return "[SEP]" * len(ids)

    def _ids(self, text):
        return [len(word) for word in text.split()]


def test_classes_are_in_the_order_of_numbers_then_words():
    rows = rows_of(*[("", label) for label in ["10", "b", "2", "a", "2", "10", "a", "b", "b"]])
    assert classes_in(rows) == ["2", "10", "a", "b"]


@pytest.mark.parametrize("labels", [["a", "a"], ["a", "b", "c"], ["a"]])
def test_a_column_that_holds_no_classes_is_refused(labels):
    with pytest.raises(
        DataError, match=r"expected at least 2 classes, each in 2 rows or more: .*data\.response"
    ):
        classes_in(rows_of(*[("", label) for label in labels]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=20))
def test_an_index_leads_back_to_the_class(drawn):
    labels = ["z", "x", "y"]
    samples = encode_classes(rows_of(*[("a", label) for label in drawn]), Words(), labels).samples
    assert [labels[int(sample.labels)] for sample in samples] == drawn


def test_an_unknown_class_names_its_row_and_the_known_ones():
    rows = rows_of(("", "a"), ("", "c"), ("", "d"))
    with pytest.raises(DataError, match=r"row 1: unknown class 'c' \(2 of 3 rows\).*'a', 'b'"):
        check_classes(rows, ["a", "b"])


def test_a_long_text_keeps_its_closing_token_and_an_empty_one_is_dropped():
    rows = rows_of(("a bb ccc dddd", "no"), ("  ", "yes"), ("a ", "yes"))
    encoded = encode_classes(rows, Words(), ["yes", "no"], max_tokens=3)
    assert [sample.input_ids.tolist() for sample in encoded.samples] == [[1, 2, 9], [1, 9]]
    assert [sample.labels.tolist() for sample in encoded.samples] == [[1], [0]]
    assert list(encoded.report.truncated_ids) == [0] and encoded.report.num_tokens_cut == 2
    assert list(encoded.report.dropped_ids) == [1] and encoded.report.num_tokens == 5
    with pytest.raises(DataError, match=r"no sample left of 1 row.*data\.prompt"):
        encode_classes(rows[1:2], Words(), ["yes", "no"])


def test_a_closing_token_that_the_template_writes_is_not_doubled():
    rows = rows_of(("a bb [SEP]", "no"), ("a bb", "yes"))
    first, second = encode_classes(rows, Words(), ["yes", "no"]).samples
    assert first.input_ids.tolist() == second.input_ids.tolist() == [1, 2, 9]


def test_labels_that_look_the_same_are_one_class() -> None:
    alike = ["caf\u00e9", "cafe\u0301", "\ufeffcaf\u00e9", "caf\u200b\u00e9", "caf\u00e9\u00ad "]
    rows = rows_of(*[("a", label) for label in [*alike, "tea", "tea"]])
    assert classes_in(rows) == ["caf\u00e9", "tea"]
    samples = encode_classes(rows, Words(), ["caf\u00e9", "tea"]).samples
    assert [int(sample.labels) for sample in samples] == [0] * 5 + [1] * 2
    joined = [
        "\u0645\u06cc\u200c\u062e",
        "\u0645\u06cc\u062e",
    ]  # Persian: two words, told apart by the joiner
    assert len(classes_in(rows_of(*[("", label) for label in joined * 2]))) == 2


def test_spaces_around_labels_mean_nothing_and_rows_without_a_label_are_dropped():
    rows = rows_of(("a", "pos"), ("b", "neg"), ("c", ""), ("d", " pos "), ("e", "neg\t"), ("f", "  "))
    assert classes_in(rows_of(*[("", label) for label in ["1", "1.0", "0.0", "0"]])) == ["0", "1"]
    assert classes_in(rows) == ["neg", "pos"]
    encoded = encode_classes(rows, Words(), ["neg", "pos"])
    assert [int(sample.labels) for sample in encoded.samples] == [1, 0, 1, 0]
    assert list(encoded.report.dropped_ids) == [2, 5]
    with pytest.raises(DataError, match="no sample left of 1 row"):
        encode_classes(rows[2:3], Words(), ["neg", "pos"])
