"""One party's state on disk after a round, from which it continues to the same bits; whole or not there at all.

    <folder>/round-00007/
        state.safetensors           adapters, optimizer, labels
        state.json                  counts and clocks
        references-<name>.safetensors
        checksums.json              of every other file

Nobody but the owner can read it: what it holds is made of text. The last rounds are kept, two or more: where one party
was stopped before it could save a round that another has saved, both still have the round before. So they have where a
disk has damaged the last: a state whose checksums do not hold is as if it had not been saved. A run that has gone back
and saves a round has left the course of later ones, so their states are removed.

References that have not changed are not written again, since a run may have thousands of clients at rest: their file
gets one more name. It is that of the last round but one, so that the last two rounds still share no file.
"""

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splitcom.checksums import changed_files, read_checksums, write_checksums
from splitcom.codecs import ReferenceStore
from splitcom.durable import new_folder, remedy
from splitcom.errors import CodecError, RunError

_LOG = logging.getLogger(__name__)
NamedReferences = Iterable[tuple[str, ReferenceStore]]
_Counted = dict[str, tuple[ReferenceStore, int]]  # stores by name, and how often each had been changed
_FORMAT = 7  # 1, of version 0.1, was not written down


class PartyStore:
    """The saved states of one party of one run, of which the last `keep` are kept (`training.keep_checkpoints`)."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep
        self._whole: dict[int, bool] = {}  # by round, as far as it has been looked into
        self._written: list[tuple[int, _Counted]] = []  # the last two rounds that were saved here

    def rounds(self) -> list[int]:
        """The rounds after which a whole state is there, in ascending order; warns of those that are damaged.

        Raises RunError if the state is that of another version.
        """
        return [round_index for round_index in self._saved() if self._is_whole(round_index)]

    def latest(self) -> int | None:
        """The last round after which a whole state is there; None if none was ever saved.

        Raises RunError if all of them are damaged.
        """
        if rounds := self.rounds():
            return rounds[-1]
        if self._saved():
            raise RunError(
                f"{self.folder}: every checkpoint here is damaged; start the run anew in another folder, or put back "
                "a copy of this one"
            )
        return None

    def save(
        self,
        round_index: int,
        tensors: Mapping[str, torch.Tensor],
        scalars: Mapping[str, Any],
        references: NamedReferences = (),
    ) -> None:
        """Write the state after a round; raises RunError, and leaves what was there, if it cannot be written.

        States of later rounds, and all but the last that are to be kept, are removed.
        """
        final = self._path(round_index)
        stores = {name: store for name, store in references if not store.is_blank}
        before = [written for written in self._written if written[0] < round_index]
        last_but_one = before[0] if len(before) == 2 else (0, {})
        try:
            with new_folder(final, private=True) as folder:
                for name in ("state.safetensors", "state.json"):
                    (folder / name).touch(0o600)
                save_file(_apart(tensors), folder / "state.safetensors")
                _write_json(folder / "state.json", {"format": _FORMAT, "scalars": scalars})
                write_checksums(folder, self._save_references(stores, folder, *last_but_one))
        except (OSError, SafetensorError, CodecError) as error:
            raise RunError(
                f"{final}: cannot write the checkpoint: {remedy(final, error)}: what was saved before is whole, and "
                "the run continues from it with --resume"
            ) from error
        self._whole[round_index] = True
        self._written = [*before[-1:], (round_index, _counted(stores))]
        self.go_back_to(round_index)
        self._remove_all_but(self._keep)

    def _save_references(
        self, stores: Mapping[str, ReferenceStore], folder: Path, earlier: int, counted: _Counted
    ) -> dict[str, str]:
        """Write references to a new folder, but for those that are as they were `counted` in an earlier round.

        Returns the checksums of these.
        """
        older = self._path(earlier)
        known: dict[str, str] = {}
        checksums: dict[str, str] = {}
        with suppress(OSError, ValueError):
            checksums = read_checksums(older)
        for name, store in stores.items():
            file = f"references-{name}.safetensors"
            is_same = counted.get(name) == (store, store.num_changes) and file in checksums
            if is_same and _linked(older / file, folder / file):
                known[file] = checksums[file]
            else:
                store.save(folder / file)
        return known

    def load(self, round_index: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Read tensors and scalars back; raises RunError if they are damaged."""
        path = self._path(round_index)
        if not self._is_whole(round_index):
            raise _damaged(path, "its checksums do not hold")
        try:
            return load_file(path / "state.safetensors"), _read_json(path / "state.json")["scalars"]
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

    def go_back_to(self, round_index: int) -> None:
        """Remove the states of all later rounds, so that this one is the last."""
        for later in (saved for saved in self._saved() if saved > round_index):
            shutil.rmtree(self._path(later), ignore_errors=True)
            self._whole.pop(later, None)

    def keep_last(self) -> None:
        """Remove all states but the last."""
        self._remove_all_but(1)

    def _remove_all_but(self, number: int) -> None:
        for old in self._saved()[:-number]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def _saved(self) -> list[int]:
        return sorted(int(path.name.removeprefix("round-")) for path in self.folder.glob("round-*"))

    def _is_whole(self, round_index: int) -> bool:
        if round_index not in self._whole:
            path = self._path(round_index)
            found = _fault(path)
            if found is not None:
                _LOG.warning("%s: damaged checkpoint (%s): it is not used", path, found)
            self._whole[round_index] = found is None
        return self._whole[round_index]

    def _path(self, round_index: int) -> Path:
        return self.folder / f"round-{round_index:05d}"


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


def _counted(stores: Mapping[str, ReferenceStore]) -> _Counted:
    return {name: (store, store.num_changes) for name, store in stores.items()}


def _linked(file: Path, name: Path) -> bool:
    """Give a file one more name; returns whether that could be done, as not every file system has that."""
    try:
        os.link(file, name)
    except OSError:
        return False
    return True


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, none of which shares memory with another, as safetensors wants it."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        memory = whole.untyped_storage().data_ptr()
        apart[name] = whole.clone() if memory in taken else whole
        taken.add(memory)
    return apart


def _fault(folder: Path) -> str | None:
    """What is wrong with a saved state, None if nothing is; raises RunError if another version has written it."""
    try:
        state = _read_json(folder / "state.json")
        # 0.1 wrote neither a format nor checksums
        if "format" in state and (changed := changed_files(folder)):
            return f"the checksum of {changed[0]} does not hold"
    except (OSError, ValueError) as error:
        return str(error)
    if state.get("format") != _FORMAT:
        raise RunError(
            f"{folder}: a checkpoint of another version of splitcom, from which this one cannot go on; finish the run "
            "with the version that began it (this one can use the adapter), or start it anew in another folder"
        )
    return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _damaged(path: Path, error: object) -> RunError:
    return RunError(
        f"{path}: damaged checkpoint ({error}); start the run again with --resume: it takes the one before"
    )
