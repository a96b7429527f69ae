"""A number on the disk that grows, and that survives the death of its process; knows nothing of what is counted.

It is written without waiting for the disk: a power failure may lose the last of it.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path

from splitcom.durable import make_folder

_FORMAT = struct.Struct("<Q")


class Tally:
    """One number in a file, which is made with the first `write`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     tally = Tally(Path(folder) / "sent")
    ...     before = tally.read()
    ...     tally.write(7)
    ...     tally.close()
    ...     before, Tally(Path(folder) / "sent").read()
    (0, 7)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> int:
        """The number; 0 if there is none."""
        with suppress(OSError, struct.error):
            return int(_FORMAT.unpack(self._path.read_bytes())[0])
        return 0

    def write(self, value: int) -> None:
        """Replace the number; raises OSError if it cannot be written."""
        if self._descriptor is None:
            make_folder(self._path.parent, private=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, _FORMAT.pack(value))

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
