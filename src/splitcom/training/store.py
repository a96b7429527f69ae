"""One party's state on disk after a round, from which it continues to the same bits; whole or not there at all.

    <folder>/round-00007/
        state.safetensors           adapters, optimizer, labels
        state.json                  counts and clocks
        references-<name>.safetensors

The last two rounds are kept: where one party was stopped before it could save a round that another has saved,
both still have the round before.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splitcom.codecs import ReferenceStore
from splitcom.errors import CodecError, RunError

NamedReferences = Iterable[tuple[str, ReferenceStore]]
_KEPT = 2


class PartyStore:
    """The saved states of one party of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rounds(self) -> list[int]:
        """The rounds after which a state is there, in ascending order."""
        return sorted(int(path.name.removeprefix("round-")) for path in self._folder.glob("round-*"))

    def save(
        self,
        round_index: int,
        tensors: Mapping[str, torch.Tensor],
        scalars: Mapping[str, Any],
        references: NamedReferences = (),
    ) -> None:
        """Write the state after a round; raises RunError, and leaves what was there, where it cannot be written."""
        final = self._path(round_index)
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(whole, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps(scalars, indent=1), encoding="utf-8")
            for name, store in references:
                store.save(temporary / f"references-{name}.safetensors")
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise RunError(
                f"{final}: cannot write the checkpoint: {reason}; free some space: what was saved before is whole, and "
                "the run continues from it with --resume"
            ) from error
        for old in self.rounds()[:-_KEPT]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def load(self, round_index: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Read tensors and scalars back; raises RunError where they are damaged."""
        path = self._path(round_index)
        try:
            scalars = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return load_file(path / "state.safetensors"), scalars
        except (OSError, ValueError, SafetensorError) as error:
            raise _damaged(path, error) from error

    def load_references(self, round_index: int, references: NamedReferences) -> None:
        """Fill reference stores with what was saved under their names; those that were not there are emptied."""
        path = self._path(round_index)
        for name, store in references:
            file = path / f"references-{name}.safetensors"
            try:
                store.load(file) if file.exists() else store.clear()
            except (OSError, ValueError, SafetensorError, CodecError) as error:
                raise _damaged(file, error) from error

    def _path(self, round_index: int) -> Path:
        return self._folder / f"round-{round_index:05d}"


def sections_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by the first word of their dotted name; a section that nothing belongs to is empty.

    >>> sections_of({"a.b.c": torch.tensor(1)})["a"]
    {'b.c': tensor(1)}
    """
    sections: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        section, _, rest = name.partition(".")
        sections[section][rest] = tensor
    return sections


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path}: damaged checkpoint ({error}); start the run anew in another folder")
