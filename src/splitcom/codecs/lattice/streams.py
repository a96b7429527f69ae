"""Which writer or reader a packet gets: compiled loops, if numba is installed, or numpy.

The bytes are the same.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

from splitcom.codecs.lattice.coder import Reader, Writer
from splitcom.codecs.wire import Buffer

WORTH_COMPILING = 1 << 18
"""Numbers of a batch from which on it pays to load the compiled loops: that takes a second, the first time ten."""


def writer(num_values: int) -> Writer:
    """What writes the packet of so many numbers."""
    loops = _native() if num_values >= WORTH_COMPILING else None
    return Writer() if loops is None else loops.FastWriter()


def reader(data: Buffer, num_values: int) -> Reader:
    """What reads the packet of so many numbers."""
    loops = _native() if num_values >= WORTH_COMPILING else None
    return Reader(data) if loops is None else loops.FastReader(data)


@cache
def _native() -> ModuleType | None:
    try:
        return import_module("splitcom.codecs.lattice.native")
    except ImportError:
        return None
