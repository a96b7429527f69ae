"""What is wrong with a tree of settings, in one line for each fault: file, key, value and remedy."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from splitcom.settings.types import is_optional, other_keys_of

_MEMBER = re.compile(r"(list|dict|tuple)\[.*\]|constrained-\w+")  # pydantic's names of a union's types
_WORDS = {
    "Input should be a valid dictionary or instance of": "must be a table of",
    "Input should be a valid integer": "must be a whole number",
    "Input should be a valid string": "must be a text",
    "Input should be a valid boolean": "must be true or false",
    "Input should be a valid": "must be a",
    "Input should be": "must be",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}
"""pydantic's words and ours, the longer ones first."""


def explain(error: ValidationError, cls: type[BaseModel], where: str, changed: Collection[str] = ()) -> str:
    """Turn pydantic's account of what is wrong with a tree of `cls` into lines for its user.

    `where` names the tree's source; `changed` are dotted keys that were given beside it, by --set.
    """
    by_path: dict[tuple[str, ...], list[Any]] = {}
    for detail in error.errors():
        path = tuple(str(part) for part in detail["loc"] if not _MEMBER.fullmatch(str(part)))
        by_path.setdefault(path, []).append(detail)
    # Of a setting of several types, what is said of the type that was given.
    return "\n".join(
        _line(
            cls,
            list(path),
            next((one for one in found if not one["type"].endswith("_type")), found[0]),
            "--set" if _is_changed(".".join(path), found[0]["type"], changed) else where,
        )
        for path, found in by_path.items()
    )


def _line(cls: type[BaseModel], path: list[str], detail: Any, where: str) -> str:
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _keys(cls, path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"{at(where)}{key}: unknown key; {hint}"
    message = _in_plain_words(detail["msg"].removeprefix("Value error, "))
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping | BaseModel):
        # of a section, whose validator names the field and its value first: not all of the section
        return (
            f"{at(where)}{message}"
            if not key or message.startswith(f"{key}.")
            else f"{at(where)}{key}.{message}"
        )
    if _may_be_none(cls, path):
        first, *drawing = message.split("\n", 1)  # a drawing points at the place
        message = "\n".join([f"{first}; false stands for none", *drawing])
    return at(where) + (f"{key} = {detail['input']!r}: {message}" if key else message)


def _in_plain_words(message: str) -> str:
    """What pydantic says, as a sentence of ours.

    >>> _in_plain_words("Input should be a valid integer"), _in_plain_words("Input should be greater than 0")
    ('must be a whole number', 'must be above 0')
    """
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _is_changed(key: str, kind: str, changed: Collection[str]) -> bool:
    """Whether a key was given by --set; one of a section that does not exist stands for the section."""
    return key in changed or (kind == "extra_forbidden" and any(one.startswith(f"{key}.") for one in changed))


def at(where: str) -> str:
    """How a message begins that is about the tree of this source."""
    return f"{where} " if where == "--set" else f"{where}: "


def _may_be_none(cls: type[BaseModel], path: Iterable[str]) -> bool:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None:
            other = other_keys_of(cls)
            if other is None:
                return False
            cls = other
            continue
        if is_optional(field):
            return True
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        cls = field.annotation
    return False


def _keys(cls: type[BaseModel], path: Iterable[str]) -> list[str]:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None:
            cls = other_keys_of(cls) or cls
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        cls = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), cls)
    return list(cls.model_fields)
