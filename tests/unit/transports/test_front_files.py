"""What is no front is refused before it is fetched, what is not as listed while it is, and neither is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest

from splitcom.errors import RemoteProtocolError
from splitcom.transports.frames_pb2 import FilePiece, FrontFile, FrontListing, FrontRequest
from splitcom.transports.front_files import Download, FrontFiles, list_files, pieces

CONTENTS = {"config.json": b"{}", "model.safetensors": bytes(100_000), "tokenizer.json": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "front"
    made.mkdir()
    for name, content in CONTENTS.items():
        (made / name).write_bytes(content)
    return made


def named(name: str, size: int = 1) -> Callable[[FrontListing], object]:
    return lambda listing: listing.files.append(FrontFile(name=name, size=size, sha256=bytes(32)))


LISTS: dict[str, Callable[[FrontListing], object]] = {
    "code": named("modeling.py"),
    "a pickle": named("pytorch_model.bin"),
    "a path": named("../model.safetensors"),
    "an absolute path": named("/etc/passwd"),
    "hidden": named(".lock"),
    "twice": named("config.json"),
    "a terminal's escape": named("\x1b[2J.json"),
    "a huge tokenizer": named("vocab.json", 1 << 40),
    "too much": named("merges.txt", 1 << 26),
    "no hash": lambda listing: listing.files.append(FrontFile(name="vocab.txt", size=1)),
    "no weights": lambda listing: listing.files.pop(1),
    "nothing": lambda listing: listing.Clear(),
}


@pytest.mark.parametrize("lie", LISTS)
def test_what_is_no_front_is_not_fetched(folder: Path, lie: str) -> None:
    listing = list_files(folder)
    assert FrontFiles.of(listing, 1 << 20)
    LISTS[lie](listing)
    with pytest.raises(RemoteProtocolError) as refused:
        FrontFiles.of(listing, 1 << 20)
    assert "\x1b" not in str(refused.value)


def fetched(
    folder: Path, into: Path, change: Callable[[FilePiece], None] = lambda piece: None
) -> tuple[FrontFiles, list[str]]:
    files, whole = FrontFiles.of(list_files(folder), 1 << 20), []
    into.mkdir()

    def changed(piece: FilePiece) -> FilePiece:
        change(piece)
        return piece

    download = Download(files, into, lambda path: whole.append(path.name))
    download.take(map(changed, pieces(folder, FrontRequest())), lambda: None)
    return files, whole


def test_what_is_fetched_is_what_is_listed_and_found_again(folder: Path, tmp_path: Path) -> None:
    files, whole = fetched(folder, tmp_path / "cache")
    assert whole == sorted(CONTENTS)
    assert files.are_in(tmp_path / "cache")
    for damage in (
        lambda: (tmp_path / "cache" / "config.json").write_bytes(b"[]"),
        lambda: (tmp_path / "cache" / "extra.json").write_bytes(b""),
    ):
        before = (tmp_path / "cache" / "config.json").read_bytes()
        damage()
        assert not files.are_in(tmp_path / "cache")
        (tmp_path / "cache" / "config.json").write_bytes(before)
    assert not files.are_in(tmp_path / "nowhere")


def other_bytes(piece: FilePiece) -> None:
    piece.data = piece.data.replace(b"\0", b"\1")


def more(piece: FilePiece) -> None:
    piece.data += b"more"


def elsewhere(piece: FilePiece) -> None:
    piece.offset += 1


def not_listed(piece: FilePiece) -> None:
    piece.name = "vocab.json"


@pytest.mark.parametrize("change", [other_bytes, more, elsewhere, not_listed])
def test_what_is_not_as_listed_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[FilePiece], None]
) -> None:
    with pytest.raises(RemoteProtocolError):
        fetched(folder, tmp_path / "cache", change)


def test_two_fronts_never_have_one_name(folder: Path) -> None:
    one = FrontFiles.of(list_files(folder), 1 << 20).digest
    (folder / "config.json").write_bytes(b"[]")
    assert FrontFiles.of(list_files(folder), 1 << 20).digest != one
