"""A reference store in an lmdb file, and the pool of those that a process has open."""

import os
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import RLock

import lmdb
from typing_extensions import override

from splitcom.codecs.precision import Precision
from splitcom.codecs.references.store import ReferenceStore
from splitcom.codecs.wire import Buffer
from splitcom.durable import make_folder
from splitcom.errors import CodecError

_MIN_MAP_BYTES = 1 << 20
_MAX_OPEN = 64  # files; a process may have a thousand or so, and a simulation has several for each client
_OPEN: OrderedDict["FileReferences", lmdb.Environment] = OrderedDict()
_TURN = RLock()  # threads use files of their own; none may close another's while that is in use


class FileReferences(ReferenceStore):
    """References in an lmdb file, for more of them than memory holds.

    The file is scratch space of one process, which begins with a new one. What must outlive the process goes
    through `save` and `load`.

    Args:
        path: folder of the file, made where missing.
        limit_bytes: upper bound of the stored values; the file itself is up to about twice as large (pages).
        precision: as for every store.

    Raises:
        CodecError: where the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], limit_bytes: int, precision: Precision = "fp16") -> None:
        super().__init__(precision, limit_bytes)
        self._path = Path(path)
        self._map_bytes = 2 * limit_bytes + _MIN_MAP_BYTES
        try:
            make_folder(self._path, private=True)
            for name in ("data.mdb", "lock.mdb"):
                (self._path / name).unlink(missing_ok=True)  # a crash may have left a file that is damaged
            self._open()
        except (OSError, lmdb.Error) as error:
            raise CodecError(f"cannot open a reference file in {self._path}: {error}") from error

    @override
    def close(self) -> None:
        with _TURN:
            if (environment := _OPEN.pop(self, None)) is not None:
                environment.close()

    def _open(self) -> lmdb.Environment:
        """Open the file where it is not; of all stores in a process only the last ones used have theirs open."""
        with _TURN:
            if self not in _OPEN:
                if len(_OPEN) >= _MAX_OPEN:
                    next(iter(_OPEN)).close()
                # sync=False: nothing is read again after a crash, so nothing need be flushed
                _OPEN[self] = lmdb.open(str(self._path), map_size=self._map_bytes, sync=False, mode=0o600)
            _OPEN.move_to_end(self)
            return _OPEN[self]

    @override
    def _load(self, sample_ids: Sequence[int]) -> list[Buffer]:
        with _TURN, self._open().begin() as transaction:
            items: list[Buffer | None] = [transaction.get(_key(sample_id)) for sample_id in sample_ids]
        found = [item for item in items if item is not None]
        if len(found) < len(items):
            raise KeyError(sample_ids[items.index(None)])
        return found

    @override
    def _write(self, data: Mapping[int, Buffer], removed: Sequence[int]) -> None:
        try:
            with _TURN, self._open().begin(write=True) as transaction:
                for sample_id in removed:
                    transaction.delete(_key(sample_id))
                for sample_id, item in data.items():
                    transaction.put(_key(sample_id), item)
        except lmdb.MapFullError:  # free pages are scattered; the map is only address space
            self._map_bytes *= 2
            with _TURN:
                self._open().set_mapsize(self._map_bytes)
            self._write(data, removed)
        except lmdb.Error as error:
            raise CodecError(f"cannot write references to {self._path}: {error}") from error


def _key(sample_id: int) -> bytes:
    return struct.pack(">q", sample_id)
