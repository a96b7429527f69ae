"""From a configuration to encoded text: what is refused before any weight is loaded, and what is said."""

import json
import os

import pytest

from splitcom.config import Config
from splitcom.errors import ConfigError, DataError
from splitcom.parties.rows import load_all_rows, load_client_rows, with_classes
from splitcom.parties.texts import check_template, encode_rows, load_texts, with_chat

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
        assert (
            "also trained on: 3 of 9; they" in rows.warnings[0]
            and "left out of the evaluation" in rows.warnings[0]
        )
    assert "also trained on: 3 of 9; they" in load_texts(held_out).report
    copied = config.override({"data.held_out": str(write(tmp_path / "copy.jsonl", ROWS[::-1]))})
    for load in (load_all_rows, load_client_rows):
        with pytest.raises(ConfigError, match=r"copy\.jsonl: all of its rows are also trained on"):
            load(copied)


def test_rows_that_are_not_trained_on_may_be_held_out_from_the_same_text(config, tmp_path):
    copied = config.override({"data.held_out": str(write(tmp_path / "copy.jsonl", ROWS)), "data.samples": 5})
    assert len(load_all_rows(copied).held_out) == 19


def test_a_small_client_holds_out_a_fifth_of_its_rows_and_says_so(config):
    rows = load_client_rows(config.override({"data.held_out_samples": 100}))
    assert (len(rows.train), len(rows.held_out)) == (20, 4)
    assert "4 of 24 rows held out for evaluation, a fifth" in rows.warnings[0]
    assert "data.held_out_samples = 100 is 34" in rows.warnings[0]
    exact = load_client_rows(config.override({"data.held_out_samples": 12}))
    assert len(exact.held_out) == 4 and not exact.warnings


def test_repeated_rows_of_one_source_are_warned_of(config, tmp_path):
    repeated = config.override({"data.source": str(write(tmp_path / "twice.jsonl", ROWS * 2))})
    assert not load_all_rows(config).warnings
    assert "held-out rows that are also trained on" in load_all_rows(repeated).warnings[0]


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
    assert "24 samples with more tokens than the 256 positions" in report and "data.max_tokens" in report


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


def conversation(i):
    return {
        "messages": [
            {"role": "user", "content": f"question {i}"},
            {"role": "assistant", "content": f"answer {i}"},
        ]
    }


@pytest.fixture
def chat(config, tmp_path):
    path = write(tmp_path / "chat.jsonl", [conversation(i) | {"clinic": f"c{i % 5}"} for i in range(24)])
    return config.override({"data.source": str(path), "data.chat_template": "chatml"})


def test_chat_is_recognised_and_said(chat):
    decided = with_chat(chat)
    assert (chat.data.format, decided.data.format) == ("auto", "chat")
    assert with_chat(chat, has_rows=False).data.format == "auto"
    report = load_texts(decided).report
    assert "20 conversations from messages (role, content)" in report
    assert "warning: the chat template writes '<|im_start|>', '<|im_end|>', which are no tokens" in report


def test_chat_without_a_template_is_refused_before_rows_are_encoded(chat):
    bare = with_chat(chat.override({"data.chat_template": None}))
    with pytest.raises(DataError, match=r"no chat template: .*data\.chat_template.*model\.source"):
        load_texts(bare)
    with pytest.raises(DataError, match="no chat template"):
        check_template(bare)


def test_a_template_in_a_file_is_kept_as_its_text(chat, tmp_path):
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    (tmp_path / "run.toml").write_text('[data]\nchat_template = "own.jinja"\n')
    config = Config.load(tmp_path / "run.toml", {"data.source": chat.data.source})
    kept = with_chat(config).data.chat_template
    assert kept is not None and kept.startswith("{% for")
    assert Config.from_toml(with_chat(config).to_toml()).data.chat_template == kept


def test_a_peers_template_names_no_file(chat):
    with pytest.raises(DataError, match=r"data\.chat_template = '/etc/hostname': no template of that name"):
        encode_rows(
            load_client_rows(chat.override({"data.format": "chat"})),
            chat.override({"data.format": "chat", "data.chat_template": "/etc/hostname"}),
        )


def test_conversations_with_special_tokens_in_their_text_are_warned_of(chat, tmp_path):
    rows = [conversation(i) for i in range(23)] + [conversation("</s> x")]
    decided = with_chat(chat.override({"data.source": str(write(tmp_path / "c.jsonl", rows))}))
    assert "stand in the text of 1 conversation, and" in load_texts(decided).report


def test_groups_are_held_out_whole(chat):
    grouped = with_chat(chat.override({"data.held_out_by": "clinic", "data.held_out_samples": 9}))
    for load in (load_all_rows, load_client_rows):
        rows = load(grouped)
        train, held_out = ({row.columns["clinic"] for row in part} for part in (rows.train, rows.held_out))
        assert train and held_out and not train & held_out and len(train | held_out) == 5
        assert len(rows.train) + len(rows.held_out) == 24 and len(rows.held_out) <= 9


def test_a_column_of_one_value_parts_nothing(chat, tmp_path):
    alike = write(tmp_path / "one.jsonl", [conversation(i) | {"clinic": "a"} for i in range(24)])
    config = chat.override({"data.source": str(alike), "data.held_out_by": "clinic", "data.format": "chat"})
    with pytest.raises(DataError, match=r"data\.held_out_by = 'clinic': all rows have the same value"):
        load_all_rows(config)
    with pytest.raises(DataError, match=r"no column 'ward' \(asked for by data\.held_out_by\)"):
        load_all_rows(config.override({"data.held_out_by": "ward"}))
    with pytest.raises(ConfigError, match=r"leave out data\.held_out, or this"):
        config.override({"data.held_out": "generated"})


def test_classification_reads_columns(config):
    with pytest.raises(ConfigError, match=r"data\.format = 'columns'"):
        config.override({"data.format": "chat", "data.task": "classification"})
