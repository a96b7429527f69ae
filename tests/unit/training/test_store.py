"""A flipped bit in any file of a checkpoint is noticed, and the round before is gone on from."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from splitcom.codecs import MemoryReferences
from splitcom.errors import RunError
from splitcom.training import store as module
from splitcom.training.store import PartyStore

FILES = ("state.safetensors", "state.json", "references-a-up.safetensors", "checksums.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store, references = PartyStore(tmp_path), MemoryReferences()
    new = np.array([True])
    references.update([3], np.array([2]), torch.ones(2, 4), changed=new, known=~new)
    for index in range(3):
        store.save(index, {"front.w": torch.full((64,), float(index))}, {"n": index}, [("a-up", references)])
    return tmp_path


def flip(path: Path, position: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def test_the_last_two_are_kept_and_read_back(folder: Path) -> None:
    store, references = PartyStore(folder), MemoryReferences()
    assert store.rounds() == [1, 2] and store.latest() == 2
    tensors, scalars = store.load(2)
    store.load_references(2, [("a-up", references), ("a-down", MemoryReferences())])
    assert torch.equal(tensors["front.w"], torch.full((64,), 2.0)) and scalars == {"n": 2}
    assert references.peek([3])[0] is not None
    assert sorted(path.name for path in folder.iterdir()) == ["round-00001", "round-00002"]


def test_as_many_are_kept_as_are_asked_for(tmp_path: Path) -> None:
    for index in range(6):
        PartyStore(tmp_path, keep=4).save(index, {}, {"n": index})
    assert PartyStore(tmp_path).rounds() == [2, 3, 4, 5]


def test_what_was_saved_after_the_round_that_is_gone_back_to_is_not_gone_on_from(tmp_path: Path) -> None:
    store = PartyStore(tmp_path, keep=4)
    for index in range(4):
        store.save(index, {}, {"n": index})
    store.go_back_to(2)
    assert store.rounds() == [0, 1, 2] and store.load(2)[1] == {"n": 2}
    other = PartyStore(tmp_path, keep=4)  # one that has gone back without being told so
    other.save(1, {}, {"n": "anew"})
    assert PartyStore(tmp_path).rounds() == [0, 1] and other.load(1)[1] == {"n": "anew"}


def held(*samples: int) -> MemoryReferences:
    references = MemoryReferences()
    for sample in samples:
        learn(references, sample)
    return references


def learn(references: MemoryReferences, sample: int) -> None:
    new = np.array([True])
    references.update([sample], np.array([2]), torch.full((2, 4), float(sample)), changed=new, known=~new)


def test_references_that_have_not_changed_share_a_file_with_the_last_round_but_one(tmp_path: Path) -> None:
    store, still, busy = PartyStore(tmp_path, keep=4), held(3), held(3)

    def inode(index: int, name: str) -> int:
        return (tmp_path / f"round-{index:05d}" / f"references-{name}.safetensors").stat().st_ino

    for index in range(4):
        learn(busy, 10 + index)
        store.save(index, {}, {}, [("still", still), ("busy", busy)])
    assert inode(0, "still") == inode(2, "still") != inode(1, "still") == inode(3, "still")
    assert len({inode(index, "busy") for index in range(4)}) == 4
    other = PartyStore(tmp_path, keep=4)
    assert other.rounds() == [0, 1, 2, 3]
    for index in other.rounds():
        one, two = MemoryReferences(), MemoryReferences()
        other.load_references(index, [("still", one), ("busy", two)])
        assert [*one] == [3] and [*two] == [3, *range(10, 11 + index)]


def test_a_round_that_is_done_again_is_written_with_what_is_there_then(tmp_path: Path) -> None:
    store, references = PartyStore(tmp_path, keep=4), held(3)
    for index in range(3):
        store.save(index, {}, {}, [("a", references)])
    store.go_back_to(1)
    store.load_references(1, [("a", references)])
    learn(references, 4)
    for index in (2, 3):
        store.save(index, {}, {}, [("a", references)])
    for index, expected in ((1, [3]), (2, [3, 4]), (3, [3, 4])):
        found = MemoryReferences()
        PartyStore(tmp_path, keep=4).load_references(index, [("a", found)])
        assert [*found] == expected


def test_without_second_names_of_files_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(module.os, "link", refuse)
    store, references = PartyStore(tmp_path), held(3)
    for index in range(4):
        store.save(index, {}, {}, [("a", references)])
    assert PartyStore(tmp_path).rounds() == [2, 3]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("position", "bit"), [(0.0, 0), (0.3, 6), (0.7, 3), (1.0, 7)])
def test_a_flipped_bit_is_noticed(
    folder: Path, file: str, position: float, bit: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(folder / "round-00002" / file, position, bit)
    with caplog.at_level(logging.WARNING):
        store = PartyStore(folder)
        assert store.rounds() == [1] and store.latest() == 1
    assert "round-00002: damaged checkpoint" in caplog.text
    with pytest.raises(RunError, match="damaged checkpoint"):
        store.load(2)
    store.save(2, {}, {"n": 2})  # the round is done again
    assert PartyStore(folder).rounds() == [1, 2]


@pytest.mark.parametrize("file", FILES)
def test_so_is_a_file_that_is_missing_or_too_many(folder: Path, file: str) -> None:
    (folder / "round-00002" / file).unlink()
    (folder / "round-00001" / f"more-{file}").write_text("{}")
    store = PartyStore(folder)
    assert store.rounds() == []
    with pytest.raises(RunError, match="every checkpoint here is damaged"):
        store.latest()


def test_nothing_saved_is_no_damage(tmp_path: Path) -> None:
    assert PartyStore(tmp_path / "none").latest() is None


def test_checkpoints_of_other_versions_are_refused_with_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FORMAT", module._FORMAT + 1)
    with pytest.raises(RunError, match="of another version"):
        PartyStore(folder).latest()
    monkeypatch.undo()
    for old in folder.iterdir():
        (old / "checksums.json").unlink()
        (old / "state.json").write_text('{"n": 2}')
    with pytest.raises(
        RunError, match=r"of another version .* finish the run with the version that began it"
    ):
        PartyStore(folder).latest()


def test_tensors_that_share_memory_are_saved_each_on_its_own(tmp_path):
    """A client that pauses in the round it was last sent the adapter for holds it twice."""
    one = torch.arange(6.0).view(2, 3)
    given = {"held.x": one, "base.x": one, "row": one[1], "turned": one.T}
    store = PartyStore(tmp_path)
    store.save(1, given, {})
    found, _ = store.load(1)
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
