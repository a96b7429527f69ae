"""What is too much for memory lies on the disk while it is used: memory holds where each item is; knows no row.

    items ─► Spool, a file without a name ◄─ Picked: some of its items, in an order of its own

A file without a name is gone when its process is, however that ends: nothing of it is ever left, or half there.
"""

import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Self, TypeVar, overload

import numpy as np
from typing_extensions import override

from splitcom.errors import DataError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
_ON_DISK = "/var/tmp"


def scratch_folder() -> str:
    """Where items lie: in TMPDIR if that is set, else in a folder that is not in memory."""
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return tempfile.gettempdir() if chosen or not os.access(_ON_DISK, os.W_OK) else _ON_DISK


class Spool:
    """Pieces of bytes, appended one after the other and read by their number; each takes 8 bytes of memory.

    Raises DataError if the disk takes no more.
    """

    def __init__(self) -> None:
        self._ends = array("q", [0])
        self._lock = Lock()  # a piece is sought, and then read
        with _told():
            self._file = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115 - it lives as long as this
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, piece: bytes) -> None:
        """Put one behind the others."""
        with self._lock, _told():
            self._file.seek(self._ends[-1])
            self._file.write(piece)
        self._ends.append(self._ends[-1] + len(piece))

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        with self._lock, _told():
            self._file.seek(start)
            return self._file.read(end - start)


@contextmanager
def _told() -> Iterator[None]:
    """Have an error of the disk say where it was, and what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{scratch_folder()}: rows cannot be kept here while they are used ({error.strerror or error}); free some "
            "space, or name another folder in the environment variable TMPDIR"
        ) from error


class Picked(Sequence[T_co]):
    """Items that `read` makes by their place, in the order of `places`, int64; a slice of it copies no item.

    What it is pickled into is a list of them.
    """

    def __init__(self, read: Callable[[int], T_co], places: np.ndarray) -> None:
        self._read = read
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    @override
    def __getitem__(self, index: int | slice) -> T_co | Self:
        return self.take(index) if isinstance(index, slice) else self._read(int(self.places[index]))

    def take(self, indices: "np.ndarray | slice") -> Self:
        """Those at some places of this sequence."""
        taken = object.__new__(type(self))
        taken.__dict__ = self.__dict__ | {"places": self.places[indices]}
        return taken

    @override
    def __iter__(self) -> Iterator[T_co]:
        return map(self._read, map(int, self.places))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def taken(items: Sequence[T], indices: np.ndarray) -> Sequence[T]:
    """The items at these places, int64, in this order."""
    if isinstance(items, Picked):
        return items.take(indices)
    return [items[index] for index in indices.tolist()]


def shuffled_places(number: int, generator: Any) -> np.ndarray:
    """The numbers below `number`, int64, in the order that `random.Random.shuffle` gives a list of so many."""
    order = array("q", range(number))
    generator.shuffle(order)
    return np.array(order, dtype=np.int64)
