"""From a configuration to encoded text: what is refused before any weight is loaded, and what is said."""

import json
import os

import pytest

from splitcom.errors import ConfigError, DataError
from splitcom.parties.texts import encode_rows, load_all_rows, load_client_rows, load_texts, with_classes

ROWS = [{"q": f"question {i}", "a": f"answer {i}"} for i in range(24)]


@pytest.fixture
def config(tiny_config, tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    columns = {"data.source": str(path), "data.prompt": "{q} =>", "data.response": "a"}
    return tiny_config.override(columns | {"data.samples": None, "data.held_out_samples": 4})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_source_is_not_held_out_by_whatever_path(config, tmp_path):
    (tmp_path / "sub").mkdir()
    os.link(tmp_path / "rows.jsonl", tmp_path / "linked.jsonl")
    for path in ("rows.jsonl", "sub/../rows.jsonl", "linked.jsonl"):
        held_out = config.override({"data.held_out": str(tmp_path / path)})
        for load in (load_all_rows, load_client_rows):
            with pytest.raises(ConfigError, match=r"these are the rows that are trained on .*data\.held_out"):
                load(held_out)
    generated = config.override({"data.source": "generated", "data.held_out": "generated"})
    with pytest.raises(ConfigError, match=r"generated: these are the rows"):
        load_all_rows(generated)


def test_rows_that_are_trained_on_are_not_evaluated(config, tmp_path):
    fresh = [{"q": f"new {i}", "a": "b"} for i in range(6)]
    held_out = config.override({"data.held_out": str(write(tmp_path / "dev.jsonl", ROWS[:3] + fresh))})
    for load in (load_all_rows, load_client_rows):
        rows = load(held_out)
        assert len(rows.train) == 24 and all(row.prompt.startswith("new") for row in rows.held_out)
        assert "3 of 9 rows of" in rows.warnings[0] and "left out of the evaluation" in rows.warnings[0]
    assert "warning: 3 of 9 rows of" in load_texts(held_out).report
    copied = config.override({"data.held_out": str(write(tmp_path / "copy.jsonl", ROWS[::-1]))})
    for load in (load_all_rows, load_client_rows):
        with pytest.raises(ConfigError, match=r"copy\.jsonl: all of its 24 rows are also trained on"):
            load(copied)


def test_rows_that_are_not_trained_on_may_be_held_out_from_the_same_text(config, tmp_path):
    copied = config.override({"data.held_out": str(write(tmp_path / "copy.jsonl", ROWS)), "data.samples": 5})
    assert len(load_all_rows(copied).held_out) == 19


def test_repeated_rows_of_one_source_are_warned_of(config, tmp_path):
    repeated = config.override({"data.source": str(write(tmp_path / "twice.jsonl", ROWS * 2))})
    assert not load_all_rows(config).warnings
    assert "held-out rows are also trained on" in load_all_rows(repeated).warnings[0]


def test_rows_without_a_label_are_no_class(config, tmp_path):
    rows = [
        {"q": f"text {i}", "a": label} for i, label in enumerate(["pos", "neg", "", " pos", None, "neg"] * 4)
    ]
    config = config.override(
        {"data.task": "classification", "data.source": str(write(tmp_path / "labels.jsonl", rows))}
    )
    config = with_classes(config)
    assert config.data.labels == ["neg", "pos"]
    texts = load_texts(config)
    assert len(texts.train.report.dropped_ids) + len(texts.held_out.report.dropped_ids) == 8
    assert "dropped" in texts.report


def test_rows_that_are_all_empty_are_told_apart(config, tmp_path):
    empty = write(tmp_path / "empty.jsonl", [{"q": "x", "a": None}] * 3)
    with pytest.raises(DataError, match="rows held out: no sample left of 3 rows"):
        load_texts(config.override({"data.held_out": str(empty)}))


def test_texts_beyond_rotary_positions_are_warned_of(config):
    assert "warning" not in load_texts(config).report
    long = config.override({"data.prompt": "{q} " * 60 + "=>", "data.max_tokens": 2000})
    report = load_texts(long).report
    assert "24 samples have more tokens than the 256 positions" in report and "data.max_tokens" in report


def test_marks_that_are_no_tokens_are_warned_of(config):
    report = load_texts(config.override({"data.prompt": "<|user|>{q} =>"})).report
    assert "warning: data.prompt holds '<|user|>'" in report


def test_a_token_without_an_embedding_is_named_with_its_row(config, monkeypatch):
    from splitcom.models import load_tokenizer

    tokenizer = load_tokenizer(config.model.source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    monkeypatch.setattr("splitcom.parties.texts.load_tokenizer", lambda source: tokenizer)
    rows = load_all_rows(config.override({"data.prompt": "<|im_start|>{q} =>"}))
    with pytest.raises(
        DataError, match=r"rows\.jsonl:\d+: the token '<\|im_start\|>' has the number \d+.*embedding"
    ):
        encode_rows(rows, config)


def test_more_tokens_than_a_table_of_positions_are_refused_before_rows_are_encoded(config, tmp_path):
    from transformers import GPT2Config

    folder = tmp_path / "model"
    GPT2Config(n_positions=12, n_embd=8, n_head=1, n_layer=2, vocab_size=64).save_pretrained(folder)
    short = config.override({"model.source": str(folder)})  # without a tokenizer or weights
    with pytest.raises(
        ConfigError, match=r"data\.max_tokens = \d+: .* has 12 positions .*data\.max_tokens = 12"
    ):
        encode_rows(load_all_rows(short), short)
