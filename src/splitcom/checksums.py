"""Whether files are what was written: a folder's checksums, kept in it; knows nothing of what is in the files.

checksums.json holds the SHA-256 of every other file of the folder, by name.
"""

import hashlib
import json
from pathlib import Path

from splitcom.durable import write_atomic

NAME = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write down what the files of a folder hold now; raises RunError or OSError if that cannot be done."""
    write_atomic(folder / NAME, json.dumps(_of(folder), indent=1).encode())


def changed_files(folder: Path) -> list[str]:
    """The files that are not what was written down, or are missing, or have come since; all, if nothing was.

    Raises OSError or ValueError if the checksums themselves cannot be read.
    """
    expected, found = json.loads((folder / NAME).read_text(encoding="utf-8")), _of(folder)
    if not isinstance(expected, dict):
        raise ValueError(f"{NAME} holds no object")
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


def _of(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != NAME and path.is_file():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
