"""What is too much for memory lies on the disk while it is used: memory holds numbers of places; knows no row.

    items ─► Spool, a file without a name ◄─ Picked: some of its items, in an order of its own

A file without a name is gone when its process is, however that ends: nothing of it is ever left, or half there.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from struct import Struct
from threading import Lock
from typing import Any, Self, TypeVar, overload

import numpy as np
from typing_extensions import override

from splitcom.durable import remedy
from splitcom.errors import DataError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
CHUNK = 65536  # of many numbers, as many as are worked on at a time
_END, _SPAN = Struct("<q"), Struct("<qq")
_ON_DISK = "/var/tmp"


def scratch_folder() -> str:
    """Where items lie: in TMPDIR if that is set, else in a folder that is not in memory."""
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return tempfile.gettempdir() if chosen or not os.access(_ON_DISK, os.W_OK) else _ON_DISK


class Spool:
    """Pieces of bytes, appended one after the other and read by their place; nothing of them is in memory.

    Raises DataError if the disk takes no more.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # a piece is sought, and then read
        self._length = self._end = 0
        with _told():
            self._pieces = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115 - they live as long as this
            self._ends = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115
            self._ends.write(_END.pack(0))  # where the first one begins
        for file in (self._pieces, self._ends):
            weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self._length

    def append(self, piece: bytes) -> None:
        """Put one behind the others."""
        with self._lock, _told():
            self._pieces.seek(self._end)
            self._pieces.write(piece)
            self._ends.seek((self._length + 1) * _END.size)
            self._ends.write(_END.pack(self._end + len(piece)))
        self._end += len(piece)
        self._length += 1

    def __getitem__(self, place: int) -> bytes:
        with self._lock, _told():
            self._ends.seek(place * _END.size)
            start, end = _SPAN.unpack(self._ends.read(_SPAN.size))
            self._pieces.seek(start)
            return self._pieces.read(end - start)


@contextmanager
def _told() -> Iterator[None]:
    """Have an error of the disk say where it was, and what to do."""
    try:
        yield
    except OSError as error:
        folder = Path(scratch_folder())
        raise DataError(
            f"{folder}: rows cannot be kept here while they are used: {remedy(folder, error)}, or name another folder "
            "in the environment variable TMPDIR"
        ) from error


class Picked(Sequence[T_co]):
    """Items that `read` makes by their place, in the order of `places`; a slice of it copies no item.

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
    """The items at these places, in this order."""
    if isinstance(items, Picked):
        return items.take(indices)
    return [items[index] for index in indices.tolist()]


def places_of(number: int) -> np.ndarray:
    """The numbers below `number`, of 4 bytes each if that is enough."""
    return np.arange(number, dtype=np.int32 if number < 2**31 else np.int64)


def shuffled_places(number: int, generator: Random) -> np.ndarray:
    """The same in the order that `random.Random.shuffle` gives a list of so many."""
    order = places_of(number)
    generator.shuffle(memoryview(order))  # type: ignore[arg-type]  # it swaps single numbers, which is all that is done
    return order
