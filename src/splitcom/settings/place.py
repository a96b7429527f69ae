"""Settings that say where a file or folder is, and relative to what; knows no setting.

In a file they are relative to the file, elsewhere to the working directory. A tree holds absolute ones, so that it
means the same wherever it is written and read again. What names no file stays as it is: it may be a name on a hub.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from splitcom.errors import ConfigError
from splitcom.settings.presets import Tree


@dataclass(frozen=True)
class Place:
    """Marks a text as the path of a file or folder, unless it is one of these words.

    One that `holds_text` may also be what the file would hold, a jinja template.
    """

    words: tuple[str, ...] = ()
    holds_text: bool = False

    def absolute(self, text: str, folder: Path | None = None) -> str:
        """The absolute path that `text` stands for in `folder` (None: the working directory), or `text`.

        >>> Place(("bundled",)).absolute("bundled"), Place().absolute("./m", Path("/runs")), Place().absolute("a/b")
        ('bundled', '/runs/m', 'a/b')
        """
        if text in self.words or not text or (self.holds_text and ("{%" in text or "{{" in text)):
            return text
        path = (folder or Path.cwd()) / Path(text).expanduser()
        without_split = Path(re.sub(r"\[[^\[\]]+\]$", "", str(path)))  # the folder of "folder[test]"
        is_path = text.startswith((".", "~", "/")) or path.exists() or without_split.exists()
        return str(path.absolute()) if is_path else text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.absolute, handler(source))


def with_places(cls: type[BaseModel], tree: Mapping[str, Any], file: Path) -> Tree:
    """A copy of a file's tree of `cls`, whose keys may be dotted, in which its places are absolute.

    Raises ConfigError if one is in the working directory, but not beside the file.
    """
    found = dict(tree)
    for key, value in tree.items():
        field = _field_at(cls, key)
        if field is None:
            continue
        place = _place_of(field)
        if isinstance(value, Mapping) and (section := _section_of(field)):
            found[key] = with_places(section, value, file)
        elif isinstance(value, str) and place is not None:
            found[key] = place.absolute(value, file.absolute().parent)
            if found[key] == value and place.absolute(value) != value:
                raise ConfigError(
                    f"{file}: {key} = {value!r}: it is not beside this file, to which the paths in it are relative, "
                    f"but in the working directory; write {str(Path(value).absolute())!r}"
                )
    return found


def places_of(section: BaseModel, prefix: str = "") -> dict[str, str]:
    """The places that a section and those below it name, by dotted key."""
    found: dict[str, str] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= places_of(value, f"{prefix}{name}.")
        elif isinstance(value, str) and _place_of(field) is not None:
            found[prefix + name] = value
    return found


def _field_at(cls: type[BaseModel], key: str) -> FieldInfo | None:
    *path, last = key.split(".")
    for part in path:
        field = cls.model_fields.get(part)
        section = None if field is None else _section_of(field)
        if section is None:
            return None
        cls = section
    return cls.model_fields.get(last)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _place_of(field: FieldInfo) -> Place | None:
    parts = get_args(field.annotation)  # of what may be None
    marks = [*field.metadata, *(mark for part in parts for mark in getattr(part, "__metadata__", ()))]
    return next((mark for mark in marks if isinstance(mark, Place)), None)
