"""What the columns of a record hold, as text to learn from or to go by; knows no template and no tokenizer."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from splitcom.errors import DataError

_TO_TEXT = (
    'write a prompt and a response of each row as text in columns of their own, such as {"prompt": "…", '
    '"response": "…"}, and name them in data.prompt and data.response'
)
_CHAT_KEYS = ({"role", "content"}, {"from", "value"})
_FIRST_OBJECT, _KEY = re.compile(r"\s*\[?\s*\{([^{}]*)"), re.compile(r"""["'](\w+)["']\s*:""")


def value_of(record: Mapping[str, Any], column: str, where: str, setting: str) -> Any:
    """Return what a column holds; DataError, with the columns there are, if it is missing."""
    if column in record:
        return record[column]
    close = difflib.get_close_matches(column, map(str, record), n=1)
    suggestion = f"did you mean {close[0]!r}?" if close else f"change {setting}"
    raise DataError(
        f"{where}: no column {column!r} (asked for by {setting}); found: {', '.join(map(str, record))}; {suggestion}"
    )


def text_of(record: Mapping[str, Any], column: str, where: str, setting: str) -> str:
    """Return a column as text to learn from; DataError if it holds something that is none."""
    value = value_of(record, column, where, setting)
    if is_chat(value):
        raise DataError(
            f"{where}: column {column!r} ({setting}) holds a chat conversation; set data.format = 'chat' to learn from "
            f"it, or {_TO_TEXT}"
        )
    if isinstance(value, (list, tuple, Mapping, bytes)):
        raise DataError(
            f"{where}: column {column!r} ({setting}) holds a {_kind(value)}, which is no text (nor a chat "
            f"conversation); {_TO_TEXT}"
        )
    return whole_characters(as_text(value), f"{where}: column {column!r}")


def whole_characters(text: str, where: str) -> str:
    """Return the text; DataError if it holds half a character, as broken JSON may."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(text[error.start]):04x}), which is no text; "
            "write the whole character, or take the row out"
        ) from error
    return text


def is_chat(value: Any) -> bool:
    """Whether a value is a conversation, its messages, or such as text."""
    if isinstance(value, str):
        first = _FIRST_OBJECT.match(value)
        return first is not None and any(keys <= set(_KEY.findall(first[1])) for keys in _CHAT_KEYS)
    if isinstance(value, Mapping):
        return any(keys <= value.keys() for keys in _CHAT_KEYS) or any(map(_is_chat_list, value.values()))
    return _is_chat_list(value)


def as_text(value: Any) -> str:
    """Return a value as text: null and what is no number are empty; true, numbers and lists are as in JSON."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _is_chat_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(
        isinstance(item, Mapping) and any(keys <= item.keys() for keys in _CHAT_KEYS) for item in value
    )


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "piece of binary data"
    return "set of named values" if isinstance(value, Mapping) else "list"
