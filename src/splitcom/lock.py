"""A lock file that one process holds at a time, and that is free again when it dies; knows nothing of what it guards.

The lock is the operating system's (`flock`), not the file's existence: what a killed process has left locks nobody out.
"""

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splitcom.durable import make_folder
from splitcom.errors import RunError

_LOG = logging.getLogger(__name__)
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
NAME = ".lock"
"""What a folder's lock file is called."""

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, waits: bool) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond what is written, or the holder could not be read
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if waits else msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _take(descriptor: int, waits: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))


@contextmanager
def locked(path: Path, refusal: str, *, waits: bool = False) -> Iterator[None]:
    """Hold a lock file, made where it is missing and removed afterwards, while the block runs.

    Raises RunError where another process holds it: `refusal`, which says what to do, after a word on who that is.
    With `waits` it is waited for instead. A file system without locks is warned of, and nothing is locked.
    Raises OSError if the file cannot be made.
    """
    descriptor = _acquire(path, refusal, waits)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file; also if the file system cannot tell. Raises OSError if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return False
    try:
        _take(descriptor, waits=False)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _acquire(path: Path, refusal: str, waits: bool) -> int:
    while True:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(descriptor, path, refusal, waits)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who held it has removed it meanwhile: this one locks nobody out


def _lock(descriptor: int, path: Path, refusal: str, waits: bool) -> None:
    try:
        try:
            _take(descriptor, waits=False)
        except OSError as error:
            if error.errno in _UNSUPPORTED or not waits:
                raise
            _LOG.info("waiting for %s, which is at the same thing", _holder(descriptor))
            _take(descriptor, waits=True)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise RunError(f"{path.parent}: in use by {_holder(descriptor)}: {refusal}") from error
        _LOG.warning(
            "%s: this file system has no locks; see to it that nobody else uses the folder", path.parent
        )


def _holder(descriptor: int) -> str:
    """What the holder says of itself, which it may not have come to yet."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace") or "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
