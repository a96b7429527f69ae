"""What is guessed of somebody's rows for a first settings file."""

import json
from pathlib import Path

import pytest

from splitcom.config import Config
from splitcom.errors import ConfigError, DataError
from splitcom.methods import proposal
from splitcom.methods.proposal import how_to_read, propose, write_proposal
from splitcom.parties.texts import load_texts


def rows(folder: Path, *records: dict, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_columns_are_told_by_their_names(tmp_path):
    source = rows(
        tmp_path, {"id": 1, "Question": "who?", "answer": "me"}, {"id": 2, "Question": "you?", "answer": "no"}
    )

    config = propose(source, "bundled").config

    data = config.data
    assert (data.prompt, data.response, data.max_tokens) == ("{Question} =>", "answer", 64)
    assert config.training.lr == 3 * Config().training.lr  # so small a model learns little at the default


def test_a_wider_model_keeps_the_default_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(proposal, "_NARROW", 128)  # the bundled model has 192
    config = propose(rows(tmp_path, {"text": "a b c"}, {"text": "d e f"}), "bundled").config
    assert config.training.lr == Config().training.lr


def test_one_column_of_text_is_learnt_whole(tmp_path):
    data = propose(rows(tmp_path, {"text": "a b c"}, {"text": "d e f"}), "bundled").config.data

    assert (data.prompt, data.response) == ("", "text")


def test_few_values_of_a_label_are_classes(tmp_path):
    source = rows(tmp_path, *({"sentence": f"it is {i}", "label": i % 2} for i in range(8)))

    data = propose(source, "bundled").config.data

    assert (data.task, data.prompt, data.response) == ("classification", "{sentence}", "label")


def test_a_conversation_needs_a_template_where_the_model_has_none(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]

    data = propose(rows(tmp_path, *[{"messages": turns}] * 2), "bundled").config.data

    assert (data.format, data.chat_template) == ("chat", "chatml")


def test_columns_that_say_nothing_are_refused_and_can_be_given(tmp_path):
    source = rows(tmp_path, *[{"a": "x", "b": "y", "c": "z"}] * 2)

    with pytest.raises(DataError, match="which of the columns a, b, c is asked"):
        propose(source, "bundled")
    given = propose(source, "bundled", changes={"data.prompt": "{a} ->", "data.response": "c"})
    assert given.config.data.response == "c"


def test_the_cut_is_as_deep_as_fits_and_never_beyond_half(tmp_path):
    source = rows(tmp_path, {"text": "a b c"}, {"text": "d e f"})

    cuts = [propose(source, "bundled", memory_gb=gb).config.model.cut for gb in (0.006, 100)]

    assert cuts[0] < cuts[1] == 3  # of 6 blocks
    with pytest.raises(ConfigError, match="cannot hold a front of one block"):
        propose(source, "bundled", memory_gb=0.0001)


def test_a_column_of_clients_gives_their_number(tmp_path):
    source = rows(tmp_path, *({"text": f"a {i}", "clinic": f"c{i % 4}"} for i in range(8)))

    config = propose(
        source, "bundled", by_column="clinic", changes={"data.prompt": "", "data.response": "text"}
    ).config

    assert (config.federation.clients, config.partition.column) == (4, "clinic")
    with pytest.raises(DataError, match=r"no column 'clinics' .*; found: text, clinic"):
        propose(source, "bundled", by_column="clinics")


def test_the_file_reads_back_and_is_not_overwritten(tmp_path):
    source = rows(tmp_path, {"text": "a b c"}, {"text": "d e f"})
    proposal = propose(source, "bundled", labels_stay=True)
    path = tmp_path / "own.toml"

    write_proposal(proposal, path)

    assert Config.load(path) == proposal.config and Config.load(path).model.tail_blocks == 1
    assert 'source = "rows.jsonl"' in path.read_text() and "splitcom train own.toml" in path.read_text()
    with pytest.raises(ConfigError, match="is there already"):
        write_proposal(proposal, path)


@pytest.mark.parametrize(("number", "held_out"), [(2, 1), (3, 1), (4, 1), (60, 12), (499, 99), (501, 100)])
def test_what_is_proposed_can_be_trained_on_whatever_the_number_of_rows(tmp_path, number, held_out):
    source = rows(tmp_path, *({"question": f"what is {i}?", "answer": f"it is {i}"} for i in range(number)))

    config = propose(source, "bundled").config
    texts = load_texts(config)

    assert len(texts.partition.parts) == min(3, number - held_out)
    assert len(texts.held_out.samples) == held_out
    assert sum(map(len, texts.partition.parts)) == number - held_out and all(texts.partition.parts)


def test_more_clients_than_rows_or_values_can_have_are_refused_where_they_are_asked_for(tmp_path):
    source = rows(tmp_path, *({"text": f"a {i}", "id": f"c{i}", "clinic": f"c{i // 39}"} for i in range(40)))
    columns = {"data.prompt": "", "data.response": "text"}

    with pytest.raises(ConfigError, match=r"--clients 33: .* has 32 rows to train on, .* take 32 or fewer"):
        propose(source, "bundled", clients=33, changes=columns)
    with pytest.raises(ConfigError, match=r"--clients 33: .* take 32 or fewer"):
        propose(source, "bundled", changes=columns | {"federation.clients": 33})
    with pytest.raises(ConfigError, match=r"--by id: it has 40 values, .* has 32 rows to train on"):
        propose(source, "bundled", by_column="id", changes=columns)
    fewer = columns | {"data.held_out_samples": 8}
    for asked in ({"clients": 32, "changes": fewer}, {"by_column": "clinic", "changes": fewer}):
        load_texts(propose(source, "bundled", **asked).config)
    lone = rows(tmp_path, {"text": "a"}, name="lone.jsonl")
    with pytest.raises(ConfigError, match="one row alone"):
        propose(lone, "bundled")
    assert propose(lone, "bundled", changes={"data.held_out": source}).config.federation.clients == 1


def test_a_client_whose_only_row_is_held_out_is_not_counted(tmp_path):
    records = [{"text": f"a {i}", "clinic": f"c{i // 2}"} for i in range(30)]
    columns = {"data.prompt": "", "data.response": "text"}
    for number in range(15, 30):
        records[number]["clinic"] = f"of its own {number}"
    source = rows(tmp_path, *records)
    config = propose(source, "bundled", by_column="clinic", changes=columns).config
    assert len(load_texts(config).partition.parts) == config.federation.clients < 23


def test_rows_alone_are_read_as_a_proposal_would(tmp_path):
    assert how_to_read(rows(tmp_path, {"question": "a?", "answer": "b"}), "bundled") == {
        "data.prompt": "{question} =>",
        "data.response": "answer",
    }
