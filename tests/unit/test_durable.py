"""What is written is on the disk before it has its name, and its name before anybody relies on it."""

import errno
import os
from pathlib import Path

import pytest

from splitcom import durable
from splitcom.durable import is_partial, make_folder, new_folder, put_in_place, remedy, write_atomic
from splitcom.errors import RunError


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order, by name."""
    events: list[tuple[str, str]] = []
    sync, replace = durable.sync, Path.replace

    def renamed(self: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(durable, "sync", lambda path: (events.append(("sync", path.name)), sync(path)))
    monkeypatch.setattr(Path, "replace", renamed)
    return events


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    write_atomic(tmp_path / "a", b"1")
    assert disk == [
        ("sync", f".a.{os.getpid()}.partial"),
        ("rename", "a"),
        ("sync", tmp_path.name),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_to_be_on_the_disk_is_to_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    write_atomic(tmp_path / "a", b"1")
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


def test_so_is_everything_in_a_folder(tmp_path: Path, disk: list[tuple[str, str]]) -> None:
    with new_folder(tmp_path / "up" / "f") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
    before = [name for kind, name in disk[: disk.index(("rename", "f"))] if kind == "sync"]
    assert {tmp_path.name, "a", "sub", ".f.partial"} <= set(before)  # the first holds the new folder `up`
    assert disk[-1] == ("sync", "up")


def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match="full"), new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("new")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f" / "a").read_text() == "old"
    with new_folder(tmp_path / "f") as folder:
        (folder / "b").write_text("new")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["b"]


def test_a_folder_in_use_is_not_replaced_by_renaming(tmp_path: Path) -> None:
    for name in "ab":
        make_folder(tmp_path / name)
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match=r"(?i)not empty"):
        put_in_place(tmp_path / "a", tmp_path / "b")


def test_the_remedy_is_that_of_the_reason(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    exists, full = OSError(errno.EEXIST, "File exists"), OSError(errno.ENOSPC, "No space left on device")
    for path in (file, file / "run", file / "run" / "deep"):
        assert remedy(path, exists) == f"{file} is a file, and a folder is expected; remove it"
    for path in (link, link / "run"):
        assert remedy(path, exists) == f"{link} is a link that leads nowhere; remove it"
    assert remedy(file, full) == "No space left on device; free some space"
    assert remedy(tmp_path / "run", OSError(errno.EROFS, "")).endswith("; let it be written to")
    assert remedy(tmp_path, ValueError("odd")) == "odd; see to it"


def test_what_cannot_be_written_is_named_and_what_a_crash_leaves_is_known(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / "none" / "a", b"")
    assert is_partial(tmp_path / ".a.17.partial") and not is_partial(tmp_path / "a.partial")
