"""Conversations as people store them, in one form, or refused in words."""

import json

import pytest

from splitcom.data import Message, read_rows, recognised
from splitcom.data.chat import ChatError, read_chat

TURNS = (Message("user", "hi"), Message("assistant", "yo"))
OPENAI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"messages": OPENAI}, "messages (role, content)"),
        ({"conversations": SHAREGPT}, "conversations (from, value)"),
        ({"messages": SHAREGPT}, "messages (from, value)"),
        ({"messages": json.dumps(OPENAI)}, "messages (role, content)"),
        ({"instruction": "hi", "input": "", "output": "yo"}, "instruction, input, output"),
        ({"instruction": "hi", "output": "yo"}, "instruction, output"),
    ],
)
def test_each_form_is_told_by_its_keys(record, form):
    conversation = read_chat(record)
    assert (conversation.messages, conversation.form) == (TURNS, form)


def test_the_column_that_is_named_is_looked_in_first():
    record = {
        "messages": SHAREGPT,
        "talk": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    assert read_chat(record, "talk").columns == ("talk",)
    assert read_chat(record).columns == ("messages",)
    assert read_chat({"talk": OPENAI}, "talk").messages == TURNS


def test_alpaca_joins_instruction_and_input_and_takes_history_and_system():
    record = {
        "instruction": "Add.",
        "input": "1 2",
        "output": "3",
        "history": [["a", "b"]],
        "system": "Be exact.",
    }
    assert read_chat(record).messages == (
        Message("system", "Be exact."),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "Add.\n\n1 2"),
        Message("assistant", "3"),
    )


def test_system_prompts_are_kept_and_empty_ones_are_none():
    turns = [{"role": "developer", "content": "Be kind."}, *OPENAI]
    assert read_chat({"messages": turns}).messages == (Message("system", "Be kind."), *TURNS)
    assert read_chat({"conversations": SHAREGPT, "system": " "}).messages == TURNS
    assert read_chat({"conversations": SHAREGPT, "system": "Be kind."}).columns == ("conversations", "system")


def test_an_answer_of_weight_zero_is_not_learnt():
    turns = [OPENAI[0], OPENAI[1] | {"weight": 0}]
    assert [message.learnt for message in read_chat({"messages": turns}).messages] == [True, False]


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "the conversation is empty"),
        (None, "holds no list of messages"),
        ("hello", "text that is not JSON"),
        (["hi"], "message 1 is no object with 'role' and 'content'"),
        ([{"role": "user"}], "message 1 is no object"),
        ([{"role": "narrator", "content": "x"}], "message 1 has the role 'narrator'; known are system"),
        ([OPENAI[0], {"role": "assistant", "content": " "}], r"message 2 \(assistant\) is empty"),
        ([{"role": "user", "content": None}, OPENAI[1]], r"message 1 \(user\) is empty"),
        (OPENAI[1:], "the assistant speaks first"),
        (OPENAI[:1], "the assistant says nothing"),
        ([OPENAI[0], {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}], "message 2 is a tool call"),
        ([*OPENAI, {"role": "tool", "content": "4"}], "message 3 is a tool call or its result"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "message 1 has a list of parts"),
        ([{"role": "user", "content": 3}], "message 1 has 3 in 'content', which is no text"),
        ([OPENAI[0], OPENAI[1] | {"reasoning_content": "hm"}], "message 2 has 'reasoning_content', which is not read"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_said_in_words(messages, why):
    with pytest.raises(ChatError, match=why):
        read_chat({"messages": messages})


def test_a_row_without_a_conversation_names_its_columns():
    with pytest.raises(ChatError, match="no conversation in the columns q, a; expected 'messages'"):
        read_chat({"q": "x", "a": "y"})


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_rows_keep_their_place_and_what_is_wrong_with_them(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": OPENAI, "clinic": "north"}, {"messages": OPENAI[1:]})
    good, bad = list(read_rows(path, format="chat"))
    assert (good.prompt, good.response, good.columns["clinic"]) == ("user: hi", "yo", "north")
    assert good.asked == TURNS[:1]
    assert bad.is_empty and bad.place.endswith("a.jsonl:2") and "speaks first" in bad.problem


@pytest.mark.parametrize(
    ("record", "template", "response", "wanted"),
    [
        ({"messages": OPENAI}, "{mr} =>", "text", "chat"),
        ({"messages": OPENAI}, "", "messages", "chat"),
        ({"conversations": SHAREGPT}, "{mr} =>", "text", "chat"),
        ({"instruction": "a", "input": "", "output": "b"}, "{mr} =>", "text", "chat"),
        ({"instruction": "a", "input": "", "output": "b"}, "{instruction}", "output", "columns"),
        ({"mr": "a", "text": "b", "messages": OPENAI}, "{mr} =>", "text", "columns"),
        ({"mr": "a", "txt": "b"}, "{mr} =>", "text", "columns"),
    ],
)
def test_chat_is_recognised_unless_all_columns_are_there(tmp_path, record, template, response, wanted):
    path = write(tmp_path / "a.jsonl", record)
    assert recognised(path, template=template, response_column=response) == wanted
