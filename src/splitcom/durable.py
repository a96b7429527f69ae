"""Files and folders that are there whole or not at all, also after a power failure; knows nothing of what is in them.

What is written under another name and renamed survives the death of the process. For it to survive that of the machine,
contents must be on the disk before the name is, and the name before anybody relies on it.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splitcom.errors import RunError

_PARTIAL = ".partial"
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "let it be written to",
    errno.ENAMETOOLONG: "give it a shorter name",
}


def write_atomic(path: Path, content: bytes | Iterable[bytes], *, private: bool = False) -> Path:
    """Write a file, of one piece or many, whole or not at all; raises RunError if the folder cannot be written."""
    partial = _partial_name(path, f".{os.getpid()}")
    try:
        partial.touch(0o600 if private else 0o666)
        with partial.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        put_in_place(partial, path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {remedy(path, error)}, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()  # there only where the write failed or was interrupted
    return path


def remedy(path: Path, error: Exception) -> str:
    """Why a file or folder could not be written and what helps, as "reason; advice"."""
    code = (isinstance(error, OSError) and error.errno) or 0
    for place in (*reversed(path.parents), path):
        if place.is_symlink() and not place.exists():
            return f"{place} is a link that leads nowhere; remove it"
        if place.exists() and not place.is_dir() and (place != path or code == errno.EEXIST):
            return f"{place} is a file, and a folder is expected; remove it"
    return f"{os.strerror(code) if code else error}; {_ADVICE.get(code, 'see to it')}"


@contextmanager
def new_folder(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` when the block ends without an error.

    One that is private is its owner's alone, with all that is in it, and so is its parent if that is made here.
    Raises OSError if it cannot; `path` is then as it was, and nothing else is left.
    """
    partial = _partial_name(path)
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(path.parent, private=private)
    try:
        partial.mkdir(mode=_mode(private))
        yield partial
        if private:
            make_private(partial)
        _sync_all(partial)
        shutil.rmtree(path, ignore_errors=True)  # for as short a time as can be, neither is there
        _rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a file or a folder when what is in it is on the disk.

    Raises OSError if it cannot, and if `path` is a folder that is not empty.
    """
    _sync_all(partial)
    _rename(partial, path)


def _rename(partial: Path, path: Path) -> None:
    partial.replace(path)
    sync(path.parent)


def make_folder(folder: Path, *, private: bool = False) -> None:
    """Make a folder, and those above it, if there is none, all of them private or none; raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent, private=private)
        folder.mkdir(mode=_mode(private), exist_ok=True)
        sync(folder.parent)


def make_private(folder: Path) -> None:
    """Leave a folder and all that is in it to its owner alone, whatever the umask was; raises OSError."""
    folder.chmod(0o700)
    for below in folder.rglob("*"):
        below.chmod(0o700 if below.is_dir() else 0o600)


def _mode(private: bool) -> int:
    return 0o700 if private else 0o777


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk; raises OSError."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders, and keeps names in a journal
    descriptor = os.open(path, os.O_RDONLY if hasattr(os, "O_DIRECTORY") else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    for below in path.rglob("*"):
        sync(below)
    sync(path)


def is_partial(path: Path) -> bool:
    """Whether a process that was killed while it wrote has left it."""
    return path.name.startswith(".") and path.suffix == _PARTIAL


def _partial_name(path: Path, of_process: str = "") -> Path:
    return path.with_name(f".{path.name}{of_process}{_PARTIAL}")
