"""Whether a party's rows are those that its run began with: a fingerprint of each is kept beside its state.

A run that goes on holds labels and references of the old rows, at both ends. Fingerprints are of what is trained on, so
of token ids and labels; they are salted for each run, and never leave the machine.
"""

import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from splitcom.amount import counted
from splitcom.data import Sample
from splitcom.durable import make_folder, write_atomic
from splitcom.errors import DataError

_FILE = "rows.json"
_HASH_BYTES = 12
_BEGINNING = re.compile(rb'{"salt": "([0-9a-f]+)", ')
_MOST_BYTES = (
    50_000_000  # of fingerprints, a million or so, that are compared one by one to say what has changed
)
Fingerprints = dict[str, dict[str, str]]  # by group, such as "train", and sample id


def check_rows(folder: Path, groups: Mapping[str, Sequence[Sample]], remedy: str) -> None:
    """Compare the rows of a run that goes on with the fingerprints in `folder`, if there are any; writes nothing.

    Raises DataError, which says how many rows have changed and ends with the remedy, if they differ.
    """
    path = folder / _FILE
    if (salt := _salt_of(path)) is not None and (difference := _difference(path, groups, salt)):
        raise DataError(
            f"the rows are not those that this run began with: {difference}. What is kept of them at both ends "
            f"is of the old ones: bring the old data back, or {remedy}"
        )


def keep_rows(folder: Path, groups: Mapping[str, Sequence[Sample]]) -> None:
    """Keep the fingerprints of the rows in `folder`, if they are not there already."""
    path = folder / _FILE
    if (salt := _salt_of(path)) is None or not _is_same(path, _written(groups, salt)):
        make_folder(folder, private=True)
        write_atomic(path, _written(groups, secrets.token_hex(16)), private=True)


def _salt_of(path: Path) -> str | None:
    """The salt that is kept; None if there is none, or the file is damaged."""
    try:
        with path.open("rb") as file:
            found = _BEGINNING.match(file.read(100))
    except OSError:
        return None
    return None if found is None else found[1].decode()


def _written(groups: Mapping[str, Sequence[Sample]], salt: str) -> Iterator[bytes]:
    """Fingerprints as JSON, in pieces: {"salt": "…", "rows": {"train": {"0": "…", …}, …}}."""
    yield f'{{"salt": "{salt}", "rows": {{'.encode()
    for number, (group, samples) in enumerate(groups.items()):
        yield (", " * bool(number) + json.dumps(group) + ": {").encode()
        for index, sample in enumerate(samples):
            yield f'{", " * bool(index)}"{sample.sample_id}": "{_fingerprint(sample, salt)}"'.encode()
        yield b"}"
    yield b"}}"


def _difference(path: Path, groups: Mapping[str, Sequence[Sample]], salt: str) -> str | None:
    """What of the rows differs from what is kept, in words; empty if nothing does, None if the file is damaged."""
    if _is_same(path, _written(groups, salt)):
        return ""
    if path.stat().st_size > _MOST_BYTES:
        return f"they are {counted(sum(map(len, groups.values())), 'row')} now, and some have changed"
    try:
        was = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return _told(was, json.loads(b"".join(_written(groups, salt)))["rows"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_same(path: Path, pieces: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def _fingerprint(sample: Sample, salt: str) -> str:
    found = hashlib.sha256(salt.encode())
    for tensor in (sample.input_ids, sample.labels):
        found.update(f"/{len(tensor)}/".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[: 2 * _HASH_BYTES]


def _told(was: Fingerprints, now: Fingerprints) -> str:
    old, new = _flat(was), _flat(now)
    changed = [key for key in old.keys() & new.keys() if old[key] != new[key]]
    if Counter(old.values()) == Counter(new.values()):
        return f"they are the same {len(old)} rows in another order"
    return (
        f"of {counted(len(old), 'row')} there are {len(changed)} changed, {len(old.keys() - new.keys())} gone and "
        f"{len(new.keys() - old.keys())} new"
    )


def _flat(fingerprints: Fingerprints) -> dict[tuple[str, str], str]:
    return {(group, row): of for group, rows in fingerprints.items() for row, of in rows.items()}
