"""Rows of token ids, made by a program of one's own: `input_ids`, and `labels` of what is learnt; knows no tokenizer.

input_ids   [1, 17, 4, 9, 2]
labels      [-100, -100, 4, 9, 2]     as transformers has them; without labels, all is learnt
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitcom.errors import DataError

IDS, LABELS = "input_ids", "labels"
UNLEARNT = -100
_LARGEST = 2**31 - 1  # they are kept in 32 bits


@dataclass(frozen=True)
class Tokens:
    """A sample's token ids and labels, of one length."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def num_before(self) -> int:
        """How many tokens stand before the first one that is learnt."""
        return next((place for place, label in enumerate(self.labels) if label != UNLEARNT), len(self.labels))


def has_tokens(record: Mapping[str, Any]) -> bool:
    """Whether a record holds token ids by its keys."""
    return _are_numbers(record.get(IDS, ""))


def read_tokens(record: Mapping[str, Any], where: str) -> Tokens:
    """A record's tokens; DataError, with its place, if they are none or labels do not fit them."""
    ids: Any = record.get(IDS)
    labels: Any = record.get(LABELS)
    if not _are_numbers(ids) or min(ids, default=0) < 0 or max(ids, default=0) > _LARGEST:
        raise DataError(
            f"{where}: column {IDS!r} holds no list of token ids (whole numbers from 0 to {_LARGEST})"
        )
    labels = ids if labels is None else labels
    if not _are_numbers(labels) or len(labels) != len(ids):
        raise DataError(f"{where}: column {LABELS!r} holds no list of {len(ids)} numbers, one for each token")
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (token, UNLEARNT):
            raise DataError(
                f"{where}: label {place} is {label}; expected the token itself, {token}, or {UNLEARNT} if it is not "
                "learnt (labels are not shifted)"
            )
    return Tokens(tuple(ids), tuple(labels))


def _are_numbers(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )
