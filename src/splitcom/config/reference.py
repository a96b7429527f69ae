"""All settings with their types, defaults and meanings, read from the sections themselves."""

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from splitcom.config.config import Config
from splitcom.settings.types import MOST, other_keys_of

_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = ((Gt, "gt", "above"), (Ge, "ge", "at least"), (Lt, "lt", "below"), (Le, "le", "at most"))


class Setting(NamedTuple):
    """One setting. `default` is as in TOML, where `false` stands for None."""

    key: str
    kind: str
    default: str
    meaning: str


class Group(NamedTuple):
    """A table of the TOML file: the key of its head, "" at the top, and what it is about."""

    key: str
    meaning: str
    settings: list[Setting]


def reference(under: str = "") -> list[Group]:
    """The tables, in the order of the configuration; only what is, or is in, `under`.

    >>> [setting.key for group in reference("control") for setting in group.settings]
    ['control.controller', 'control.start_from']
    """
    found = []
    for group in _groups(Config, "", Config()):
        rows = [row for row in group.settings if not under or f"{row.key}.".startswith(f"{under}.")]
        if rows:
            found.append(group._replace(settings=rows))
    return found


def _groups(section: type[BaseModel], key: str, values: BaseModel | None) -> Iterator[Group]:
    """`values`: a section with the defaults that hold at this place, if there is one by default."""
    prefix = f"{key}." if key else ""
    own, below = [], []
    for name, field in section.model_fields.items():
        value = field.default if values is None else getattr(values, name)
        inner = _section(field.annotation)
        if inner is not None:
            each = ".NAME" if isinstance(value, dict) else "[]" if isinstance(value, list) else ""
            below.append((prefix + name + each, inner, value if isinstance(value, BaseModel) else None))
        if not isinstance(value, BaseModel):
            own.append(_setting(prefix + name, field, value))
    if (other := other_keys_of(section)) is not None:
        below.append((f"{prefix}NAME", other, None))
    yield Group(key, _as_in_a_file((section.__doc__ or "").split("\n\n")[0]), own)
    for name, inner, value in below:
        yield from _groups(inner, name, value)


def _setting(key: str, field: FieldInfo, default: Any) -> Setting:
    text = "" if default is PydanticUndefined else _toml(default)
    return Setting(key, _kind(field.annotation, field.metadata), text, _as_in_a_file(field.description or ""))


def _as_in_a_file(text: str) -> str:
    return re.sub(r"\bNone\b", "false", " ".join(text.split()))


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting is, or that its values are."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    match get_origin(annotation):
        case None:
            name = _NAMES.get(annotation, "table")
        case origin if origin is Annotated:
            inner, *marks = get_args(annotation)
            return _kind(inner, [*metadata, *_flat(marks)])
        case origin if origin is Literal:
            return " or ".join(f'"{word}"' for word in get_args(annotation))
        case origin if origin in (Union, UnionType):
            kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
            return " or ".join([*(_kind(kind, metadata) for kind in kinds), "false"])
        case origin if origin is list:
            return f"list, each {_kind(get_args(annotation)[0], [])}"
        case _:
            return "table"
    bounds = [
        f"{word} {getattr(mark, attribute):g}"
        for kind, attribute, word in _BOUNDS
        for mark in metadata
        if isinstance(mark, kind)
        and getattr(mark, attribute) != MOST  # the machine's bound, which nobody reaches
    ]
    return f"{name} {', '.join(bounds)}" if bounds else name


def _flat(marks: list[Any]) -> Iterator[Any]:
    for mark in marks:
        yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]


def _toml(value: Any) -> str:
    match value:
        case None | False:
            return "false"
        case True:
            return "true"
        case str():
            return f'"{value}"'
        case float():
            return re.sub(r"^(\d+)$", r"\1.0", f"{value:g}")
        case _:
            return str(value)
