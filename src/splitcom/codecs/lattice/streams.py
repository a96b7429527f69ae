"""Which writer or reader a packet gets: compiled loops, if numba is there and pays, or numpy.

The bytes are the same.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

from splitcom.codecs.lattice.coder import Reader, Writer
from splitcom.codecs.wire import Buffer

WORTH_COMPILING = 1 << 20
"""Numbers that a process has coded when it loads the compiled loops. That takes half a second, and four on a machine
that has never done it; a few million numbers make up for it, and who has coded one will code more."""

_coded = 0  # numbers, by this process; of no consequence for the bytes


def writer(num_values: int) -> Writer:
    """What writes the packet of so many numbers."""
    loops = _loops(num_values)
    return Writer() if loops is None else loops.FastWriter()


def reader(data: Buffer, num_values: int) -> Reader:
    """What reads the packet of so many numbers."""
    loops = _loops(num_values)
    return Reader(data) if loops is None else loops.FastReader(data)


def _loops(num_values: int) -> ModuleType | None:
    global _coded
    _coded += num_values
    return _native() if _coded >= WORTH_COMPILING else None


@cache
def _native() -> ModuleType | None:
    try:
        return import_module("splitcom.codecs.lattice.native")
    except ImportError:
        return None
