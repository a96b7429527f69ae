"""What a configuration trains, wherever its files are: the name of a run that comparisons share."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from splitcom.config import Config
from splitcom.metrics.record import RunFolder
from splitcom.models import fingerprint
from splitcom.settings.place import places_of

_SPLIT = re.compile(r"(?P<path>.+?)(?P<split>\[[^\[\]]+\])?")


class Identities:
    """Names runs; what is at a place is read once."""

    def __init__(self) -> None:
        self._contents: dict[tuple[str, str], str] = {}

    def of(self, config: Config) -> str:
        """16 hexadecimal digits that two configurations share if they train the same.

        Paths count by what is there: the fingerprint of a model, the bytes and endings of rows and templates, what a
        run's controllers have learnt. What is not there, and names on a hub, count by name. Settings at their defaults
        do not count, so that a new setting leaves old runs valid; a default that has changed is noticed when a run is
        to be continued, as its config.toml is complete.
        """
        tree = config.model_dump(exclude_defaults=True)
        for key, place in places_of(config).items():
            section: dict[str, Any] = tree
            *sections, name = key.split(".")
            for part in sections:
                section = section.get(part, {})
            if name in section:
                section[name] = self._content(key, place)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]

    def _content(self, key: str, place: str) -> str:
        if (key, place) not in self._contents:
            self._contents[key, place] = _content(key, place)
        return self._contents[key, place]


def _content(key: str, place: str) -> str:
    """What is at a place, or its name."""
    parts = _SPLIT.fullmatch(place)
    named = [(place, "")] if parts is None else [(place, ""), (parts["path"], parts["split"] or "")]
    found = next(((Path(path), split) for path, split in named if _is_there(path)), None)
    if found is None:
        return place
    path, split = found
    if key == "model.source":
        return fingerprint(path)
    return _digest(RunFolder(path).controllers if key == "control.start_from" else path) + split


def _is_there(path: str) -> bool:
    try:
        return Path(path).is_absolute() and Path(path).exists()
    except OSError:  # a text that is no path
        return False


def _digest(path: Path) -> str:
    """The SHA-256 of a file's ending and bytes, or of all of a folder's files and their names."""
    files = sorted(below for below in path.rglob("*") if below.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else "".join(file.suffixes)
        with file.open("rb") as content:
            digest.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
