"""A model and rows that are objects of a program: kept in the run folder, so that a run is whole without it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom.durable import new_folder
from splitcom.errors import ConfigError, DataError, RunError
from splitcom.metrics.record import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rows = Iterable[Mapping[str, Any]]
_MODEL, _ROWS, _HELD_OUT = "model", "rows.jsonl", "held_out.jsonl"


@dataclass(frozen=True)
class Given:
    """What `train` was given beside the configuration."""

    model: "PreTrainedModel | None" = None
    tokenizer: "PreTrainedTokenizerBase | None" = None
    data: Rows | None = None
    held_out: Rows | None = None

    def keep(self, folder: RunFolder, *, resume: bool) -> dict[str, str]:
        """Write it into the run folder, and return the settings that name it there; nothing of what is None.

        A run that goes on does so with the model and the rows that are there; RunError if other rows are given now.
        Raises ConfigError for a model without its tokenizer, and DataError for a row that JSON cannot hold.
        """
        if (self.model is None) != (self.tokenizer is None):
            raise ConfigError(
                "train: a model needs its tokenizer, and a tokenizer its model; give both, or neither"
            )
        lines = {
            name: _as_lines(rows, name)
            for name, rows in ((_ROWS, self.data), (_HELD_OUT, self.held_out))
            if rows is not None
        }
        kept = folder.given
        if resume and kept.exists():
            for name, given in lines.items():
                with (kept / name).open("rb") as file:
                    same = all(one == other for one, other in zip_longest(file, given))
                if not same:
                    raise RunError(
                        f"{kept / name}: the run began with other rows; give those, or another folder"
                    )
        elif lines or self.model is not None:
            with new_folder(kept, private=True) as place:
                for name, given in lines.items():
                    with (place / name).open("wb") as file:
                        file.writelines(given)
                if self.model is not None and self.tokenizer is not None:
                    self.model.save_pretrained(place / _MODEL)
                    self.tokenizer.save_pretrained(place / _MODEL)
        return self._settings(kept)

    def _settings(self, kept: Path) -> dict[str, str]:
        places = {"model.source": (_MODEL, self.model), "data.source": (_ROWS, self.data)}
        places["data.held_out"] = (_HELD_OUT, self.held_out)
        return {
            key: str((kept / name).absolute()) for key, (name, what) in places.items() if what is not None
        }


def _as_lines(rows: Rows, name: str) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        try:
            yield (json.dumps(dict(row), ensure_ascii=False) + "\n").encode()
        except (TypeError, ValueError) as error:
            what = "data" if name == _ROWS else "held_out"
            raise DataError(
                f"{what}, row {number}: cannot be kept as JSON ({error}); expected a mapping of columns to text, "
                "numbers, or conversations"
            ) from error
