"""Whether files are what was written: a folder's checksums, kept in it; knows nothing of what is in the files.

checksums.json holds the SHA-256 of every other file of the folder, by name.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from splitcom.durable import write_atomic

NAME = "checksums.json"


def write_checksums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write down what the files of a folder hold now, or of some of them what is `known` by name.

    Raises RunError or OSError if that cannot be done.
    """
    write_atomic(folder / NAME, json.dumps(_of(folder, known or {}), indent=1).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """What was written down, by the file's name; raises OSError or ValueError if that cannot be read."""
    content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{NAME} holds no object")
    return content


def changed_files(folder: Path) -> list[str]:
    """The files that are not what was written down, or are missing, or have come since; all, if nothing was.

    Raises OSError or ValueError if the checksums themselves cannot be read.
    """
    expected, found = read_checksums(folder), _of(folder, {})
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def fault_in(folder: Path) -> str | None:
    """What is wrong with a folder that may have checksums: None if nothing is, or nothing was written down."""
    if not (folder / NAME).exists():
        return None
    try:
        changed = changed_files(folder)
    except (OSError, ValueError) as error:
        return str(error)
    return f"the checksum of {changed[0]} does not hold" if changed else None


def _of(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name in known:
            found[path.name] = known[path.name]
        elif path.name != NAME and path.is_file():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
