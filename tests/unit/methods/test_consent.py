"""What a server may ask of a client's rows, and what the client is shown of it."""

import pytest

from splitcom.config import Config
from splitcom.data import read_rows
from splitcom.errors import RefusedError
from splitcom.methods.consent import Pins, asked, columns_asked, columns_read, disclosure


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}], "name": "x"}\n'
    )
    return list(read_rows(path, format="chat"))


CHAT = Config().override({"data.format": "chat", "data.chat_template": "chatml", "data.learn": "last"})


def test_of_chat_the_rows_tell_which_columns_are_read(rows):
    assert columns_asked(CHAT) == [] and columns_read(CHAT, rows) == ["messages"]
    assert columns_read(CHAT.override({"data.held_out_by": "name"}), rows) == ["messages", "name"]
    Pins(frozenset({"messages"})).check_columns(columns_read(CHAT, rows))
    with pytest.raises(RefusedError, match="asks for the column 'messages', and --columns allows name alone"):
        Pins(frozenset({"name"})).check_columns(columns_read(CHAT, rows))


def test_a_prompt_with_conditions_shows_its_columns():
    config = Config().override(
        {"data.prompt": "{{ q }}{% if more %}{{ more }}{% endif %}", "data.response": "a"}
    )
    assert columns_asked(config) == ["q", "more", "a"]


def test_template_and_what_is_learnt_are_shown_pinned_and_kept(rows):
    shown = dict(disclosure(CHAT, rows, rows))
    assert (shown["columns"], shown["a row"]) == ("messages; name are not read", "'user: hi' | 'yo'")
    assert (shown["template"], shown["learnt"]) == ("chatml", "the assistant's last turn")
    assert "labels (the token ids of the assistant's last turn)" in shown["leaves"]
    assert asked(CHAT, "f")["data.learn"] == "last" and asked(CHAT, "f")["data.chat_template"] == "chatml"
    with pytest.raises(RefusedError, match=r"data\.learn = 'last', and --expect says 'assistant'"):
        Pins(expected={"data.learn": "assistant"}).check(CHAT)
