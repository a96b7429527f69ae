"""Whether a party's rows are those that its run began with: a fingerprint of each is kept beside its state.

A run that goes on holds labels and references of the old rows, at both ends. Fingerprints are of what is trained on, so
of token ids and labels; they are salted for each run, and never leave the machine.
"""

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitcom.amount import counted
from splitcom.data import Sample
from splitcom.durable import make_folder, write_atomic
from splitcom.errors import DataError

_FILE = "rows.json"
_HASH_BYTES = 12
Fingerprints = dict[str, dict[str, str]]  # by group, such as "train", and sample id


def check_rows(folder: Path, groups: Mapping[str, Sequence[Sample]], *, goes_on: bool, remedy: str) -> None:
    """Keep the fingerprints of the rows in `folder`; of a run that goes on, compare them with those kept.

    Raises DataError, which says how many rows have changed and ends with the remedy, if they differ.
    """
    path = folder / _FILE
    kept = _read(path) if goes_on else None
    if kept is not None:
        salt, was = kept
        difference = _difference(was, _fingerprints(groups, salt))
        if difference is not None:
            raise DataError(
                f"the rows are not those that this run began with: {difference}. What is kept of them at both ends "
                f"is of the old ones: bring the old data back, or {remedy}"
            )
        return
    salt = secrets.token_hex(16)
    content = {"salt": salt, "rows": _fingerprints(groups, salt)}
    make_folder(folder, private=True)
    write_atomic(path, json.dumps(content).encode(), private=True)


def _read(path: Path) -> tuple[str, Fingerprints] | None:
    """What is kept; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["salt"], content["rows"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _fingerprints(groups: Mapping[str, Sequence[Sample]], salt: str) -> Fingerprints:
    return {
        group: {str(sample.sample_id): _fingerprint(sample, salt) for sample in samples}
        for group, samples in groups.items()
    }


def _fingerprint(sample: Sample, salt: str) -> str:
    found = hashlib.sha256(salt.encode())
    for tensor in (sample.input_ids, sample.labels):
        found.update(f"/{len(tensor)}/".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[: 2 * _HASH_BYTES]


def _difference(was: Fingerprints, now: Fingerprints) -> str | None:
    """What has changed, in words; None if nothing has."""
    if was == now:
        return None
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
