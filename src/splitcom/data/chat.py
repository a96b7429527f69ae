"""Conversations as people store them, in one form: system, user and assistant in turn; knows no tokenizer.

    messages       [{"role": "user", "content": "…"}, …]     OpenAI and most others
    conversations  [{"from": "human", "value": "…"}, …]      ShareGPT
    instruction, input, output                               Alpaca

The first two are told by the keys of their messages, whatever the column is called.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitcom.data.columns import as_text, is_chat, whole_characters

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = {
    "system": SYSTEM, "developer": SYSTEM,
    "user": USER, "human": USER,
    "assistant": ASSISTANT, "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT,
}  # fmt: skip
_TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "ipython"}
_UNREAD = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking")
_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialog")
_INSTRUCTION, _INPUT, _OUTPUT, _HISTORY = "instruction", "input", "output", "history"


class ChatError(ValueError):
    """Says in words why a conversation cannot be learnt from; whoever has the row adds its place."""


@dataclass(frozen=True)
class Message:
    """One turn. `learnt` is false for an assistant's that its file marks as not to be learnt (`weight` 0)."""

    role: str
    content: str
    learnt: bool = True

    def __str__(self) -> str:
        return f"{self.role}: {self.content}"


@dataclass(frozen=True)
class Conversation:
    """Messages in turn, with at least one of the assistant; read from these `columns`, and stored in this `form`."""

    messages: tuple[Message, ...]
    columns: tuple[str, ...]
    form: str

    @property
    def last(self) -> int:
        """The place of the assistant's last turn."""
        return max(index for index, message in enumerate(self.messages) if message.role == ASSISTANT)

    @property
    def asked(self) -> tuple[Message, ...]:
        """What stands before the assistant's last turn."""
        return self.messages[: self.last]


def asked_by(text: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation that begins with what a user says."""
    before = () if system is None else (Message(SYSTEM, system),)
    return (*before, Message(USER, text))


def chat_columns(record: Mapping[str, Any], named: str = "") -> tuple[str, ...]:
    """The columns that hold a record's conversation, none if it has none; `named` is one to look in first."""
    for column in (named, *_COLUMNS):
        if column in record and is_chat(record[column]):
            return (column, SYSTEM) if SYSTEM in record else (column,)
    for column in _COLUMNS[:2]:
        if column in record:  # empty, or no conversation: it is said what is wrong with it
            return (column,)
    if _INSTRUCTION in record and _OUTPUT in record:
        return tuple(c for c in (SYSTEM, _INSTRUCTION, _INPUT, _HISTORY, _OUTPUT) if c in record)
    return ()


def read_chat(record: Mapping[str, Any], named: str = "") -> Conversation:
    """Return a record's conversation; raises ChatError if it has none that can be learnt from."""
    columns = chat_columns(record, named)
    if not columns:
        raise ChatError(
            f"no conversation in the columns {', '.join(map(str, record))}; expected 'messages', 'conversations', or "
            "'instruction' and 'output'"
        )
    if _INSTRUCTION in columns:
        found, form = _alpaca(record), ", ".join(column for column in columns if column != SYSTEM)
    else:
        found, form = _turns(record[columns[0]], columns[0])
    if SYSTEM in columns and (given := as_text(record[SYSTEM]).strip()):
        found.insert(0, Message(SYSTEM, given))
    return Conversation(tuple(_checked(found)), columns, form)


def _turns(value: Any, column: str) -> tuple[list[Message], str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ChatError(f"column {column!r} holds a conversation as text that is not JSON") from None
    if isinstance(value, Mapping):
        value = next((inner for inner in value.values() if is_chat(inner)), value)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ChatError(f"column {column!r} holds no list of messages")
    keys = (
        ("from", "value")
        if any(isinstance(m, Mapping) and "from" in m for m in value)
        else ("role", "content")
    )
    return [
        _turn(m, number, *keys) for number, m in enumerate(value, start=1)
    ], f"{column} ({', '.join(keys)})"


def _turn(message: Any, number: int, role_key: str, content_key: str) -> Message:
    what = f"message {number}"
    if not isinstance(message, Mapping) or not {role_key, content_key} <= message.keys():
        raise ChatError(f"{what} is no object with {role_key!r} and {content_key!r}")
    name = str(message[role_key])
    if name.lower() in _TOOLS or message.get("tool_calls") or message.get("function_call"):
        raise ChatError(f"{what} is a tool call or its result, which cannot be learnt from; take it out")
    if unread := [key for key in _UNREAD if message.get(key)]:
        raise ChatError(f"{what} has {unread[0]!r}, which is not read; write it into {content_key!r}")
    role = _ROLES.get(name.lower())
    if role is None:
        raise ChatError(f"{what} has the role {name!r}; known are {', '.join(_ROLES)}")
    content = message[content_key]
    if isinstance(content, (list, tuple)):
        raise ChatError(f"{what} has a list of parts in {content_key!r}; write its text as one string")
    if content is not None and not isinstance(content, str):
        raise ChatError(
            f"{what} has {json.dumps(content, default=str)[:40]} in {content_key!r}, which is no text"
        )
    return Message(role, whole_characters(content or "", what), learnt=message.get("weight", 1) != 0)


def _alpaca(record: Mapping[str, Any]) -> list[Message]:
    texts = {}
    for column in (_INSTRUCTION, _INPUT, _OUTPUT):
        value = record.get(column)
        if isinstance(value, (list, tuple, Mapping, bytes)):
            raise ChatError(f"column {column!r} holds no text")
        texts[column] = whole_characters(as_text(value), f"column {column!r}")
    found = []
    for pair in record.get(_HISTORY) or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ChatError(f"column {_HISTORY!r} holds something else than pairs of question and answer")
        found += [Message(USER, as_text(pair[0])), Message(ASSISTANT, as_text(pair[1]))]
    asked = "\n\n".join(text for text in (texts[_INSTRUCTION], texts[_INPUT]) if text.strip())
    return [*found, Message(USER, asked), Message(ASSISTANT, texts[_OUTPUT])]


def _checked(messages: list[Message]) -> list[Message]:
    """The messages without an empty system prompt; raises ChatError for what nothing can be learnt from."""
    spoken = [message for message in messages if message.role != SYSTEM]
    if not spoken:
        raise ChatError("the conversation is empty")
    for number, message in enumerate(messages, start=1):
        if message.role != SYSTEM and not message.content.strip():
            raise ChatError(f"message {number} ({message.role}) is empty")
    if spoken[0].role == ASSISTANT:
        raise ChatError("the assistant speaks first; begin with what the user says")
    if all(message.role != ASSISTANT for message in spoken):
        raise ChatError("the assistant says nothing, so there is nothing to learn")
    return [message for message in messages if message.content.strip()]
