"""What every reference store promises."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from splitcom.codecs import (
    Context,
    FileReferences,
    MemoryReferences,
    Precision,
    Ragged,
    ReferenceStore,
    parse,
)
from splitcom.codecs.references import file as lmdb_file
from splitcom.codecs.references.state import FlowState
from splitcom.errors import CodecError

Make = Callable[..., ReferenceStore]


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    made: list[ReferenceStore] = []

    def make_store(limit_bytes: int = 1 << 20, precision: Precision = "fp16") -> ReferenceStore:
        if request.param == "memory":
            store: ReferenceStore = MemoryReferences(precision, limit_bytes)
        else:
            store = FileReferences(tmp_path / f"references{len(made)}", limit_bytes, precision)
        made.append(store)
        return store

    def close() -> None:
        for store in made:
            store.close()

    request.addfinalizer(close)
    return make_store


def put(store: ReferenceStore, samples: dict[int, torch.Tensor], known: bool = False) -> None:
    lengths = np.array([len(values) for values in samples.values()])
    flags = np.ones(len(samples), np.bool_)
    store.update(list(samples), lengths, torch.cat([*samples.values()]), changed=flags, known=flags & known)


def touch(store: ReferenceStore, *ids: int) -> None:
    lengths = np.array([reference.length for reference in store.peek(ids) if reference])
    flags = np.zeros(len(ids), np.bool_)
    store.update(ids, lengths, torch.empty(0, store.hidden or 1), changed=flags, known=~flags)


def sample(value: float, length: int = 2, hidden: int = 4) -> torch.Tensor:
    return torch.full((length, hidden), value)


def test_reads_what_was_put_in_the_order_asked(make: Make) -> None:
    store = make()
    put(store, {7: sample(1.0), 9: sample(2.0, length=1)})
    assert store.read([9, 7])[:, 0].tolist() == [2.0, 1.0, 1.0]
    assert len(store) == 2 and 7 in store and 8 not in store
    assert store.num_bytes == 3 * 4 * 2
    assert store.peek([8]) == [None]


def test_versions_count_from_one_and_start_anew_without_the_old(make: Make) -> None:
    store = make()
    versions = []
    for known in (False, True, True, False):
        put(store, {7: sample(len(versions))}, known=known)
        versions += [reference.version for reference in store.peek([7]) if reference]
    assert versions == [1, 2, 3, 1]


def test_checksum_tells_values_apart(make: Make) -> None:
    store = make()
    put(store, {1: sample(1.0), 2: sample(1.0), 3: sample(1.001)})
    one, two, three = (reference.checksum for reference in store.peek([1, 2, 3]) if reference)
    assert one == two != three


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504.0), ("bf16", 1e6), ("fp32", 1e6)])
def test_what_a_precision_cannot_hold_becomes_its_largest(
    make: Make, precision: Precision, largest: float
) -> None:
    store = make(precision=precision)
    put(store, {1: sample(1e6), 2: sample(-1e6), 3: sample(3e38), 4: sample(1 / 3)})
    assert store.read([1])[0, 0].item() == pytest.approx(largest, rel=2**-8)
    assert store.read([2])[0, 0].item() == pytest.approx(-largest, rel=2**-8)
    assert store.read([3]).isfinite().all()
    assert store.num_bytes == 4 * 8 * {"fp16": 2, "bf16": 2, "fp32": 4}[precision]


def test_the_least_recently_used_goes_first(make: Make) -> None:
    store = make(limit_bytes=3 * 16)
    put(store, {1: sample(1.0), 2: sample(2.0), 3: sample(3.0)})
    touch(store, 1)
    put(store, {4: sample(4.0)})
    assert list(store) == [3, 1, 4] and store.num_bytes == 48
    assert store.peek([2]) == [None]
    put(store, {5: sample(5.0, length=6)})
    assert list(store) == [5]
    put(store, {6: sample(6.0, length=7)})
    assert len(store) == 0 and store.num_bytes == 0


def test_a_batch_larger_than_the_limit_keeps_its_last_samples(make: Make) -> None:
    store = make(limit_bytes=16)
    put(store, {1: sample(1.0), 2: sample(2.0)})
    assert list(store) == [2] and store.read([2])[0, 0].item() == 2.0


def test_replacing_frees_the_old_bytes(make: Make) -> None:
    store = make(limit_bytes=64)
    for length in (1, 8, 2, 4):
        put(store, {1: sample(float(length), length=length)})
        assert store.num_bytes == length * 8 and len(store.read([1])) == length


def test_clear(make: Make) -> None:
    store = make()
    put(store, {1: sample(1.0)})
    store.clear()
    assert len(store) == 0 and store.num_bytes == 0
    put(store, {1: sample(1.0, hidden=9)})
    assert store.read([1]).shape == (2, 9)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_save_and_load_keep_everything(make: Make, tmp_path: Path, precision: Precision) -> None:
    store, other = make(precision=precision), make(precision=precision)
    put(store, {3: sample(0.1), 1: sample(0.2, length=5), 2: sample(0.3)})
    put(store, {3: sample(0.4)}, known=True)
    put(other, {99: sample(1.0, hidden=7)})
    store.save(tmp_path / "store.safetensors")
    other.load(tmp_path / "store.safetensors")
    assert list(other) == list(store) == [1, 2, 3]
    assert other.peek(other) == store.peek(store)
    assert torch.equal(other.read([1, 2, 3]), store.read([1, 2, 3]))
    assert (other.num_bytes, other.hidden) == (store.num_bytes, 4)
    assert [path.name for path in tmp_path.glob("*store*")] == ["store.safetensors"]


def test_what_would_be_saved_otherwise_counts_as_a_change(make: Make, tmp_path: Path) -> None:
    store = make()

    def changes(*calls: Callable[[], object]) -> list[bool]:
        counts = [store.num_changes]
        for call in calls:
            call()
            counts.append(store.num_changes)
        return [after > before for before, after in pairwise(counts)]

    assert changes(
        lambda: put(store, {1: sample(1.0), 2: sample(2.0)}),
        lambda: touch(store, 1),
        lambda: setattr(store, "flow", FlowState(5, {"counts": np.arange(3)})),
        lambda: setattr(store, "basis", torch.eye(4)),
    ) == [True, True, True, True]
    path = tmp_path / "store.safetensors"
    assert not any(changes(lambda: store.save(path), lambda: store.read([1, 2]), lambda: store.peek([1, 7])))
    assert all(changes(lambda: store.load(path), store.clear))


def test_something_else_is_kept_in_place_of_the_whole(make: Make, tmp_path: Path) -> None:
    whole, reduced, other = make(), make(), make()
    values, flags = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), np.ones(2, np.bool_)
    items = [b"three", b"of another size"]
    for store, kept in ((whole, None), (reduced, items)):
        store.update([3, 1], np.array([2, 3]), values, changed=flags, known=~flags, kept=kept)
    reduced.basis = torch.eye(4)[:, :2]
    assert reduced.peek([3, 1]) == whole.peek([3, 1])
    assert [bytes(item) for item in reduced.read_kept([1, 3])] == items[::-1]
    assert torch.equal(whole.read([1, 3]), values[[2, 3, 4, 0, 1]].half().float())
    assert (reduced.hidden, reduced.num_bytes, reduced.kept_bytes) == (4, 40, 20)
    assert (whole.hidden, whole.num_bytes, whole.kept_bytes) == (4, 40, 40)
    assert reduced.reduced and not whole.reduced
    only = np.array([False, True])
    reduced.update([3, 1], np.array([2, 3]), values[2:], changed=only, known=~flags, kept=[b"one"])
    assert [bytes(item) for item in reduced.read_kept([3, 1])] == [b"three", b"one"]
    assert (reduced.num_bytes, reduced.kept_bytes) == (40, 8)

    reduced.save(path := tmp_path / "store.safetensors")
    other.load(path)
    assert list(other) == [3, 1] and other.peek([3, 1]) == whole.peek([3, 1])
    assert [bytes(item) for item in other.read_kept([3, 1])] == [b"three", b"one"]
    assert (other.hidden, other.reduced, other.num_bytes, other.kept_bytes) == (4, True, 40, 8)
    assert other.basis is not None and torch.equal(other.basis, reduced.basis)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CodecError, match="checksum of sample 1"):
        other.load(path)
    assert (len(other), other.hidden, other.reduced, other.basis) == (0, None, False, None)


def test_an_empty_store_can_be_saved(make: Make, tmp_path: Path) -> None:
    make().save(tmp_path / "store.safetensors")
    store = make()
    put(store, {1: sample(1.0)})
    store.load(tmp_path / "store.safetensors")
    assert len(store) == 0 and store.hidden is None


@pytest.mark.parametrize("kept", [None, [b"packed"]])
def test_a_store_whose_references_were_all_evicted_loads_as_it_was(
    make: Make, tmp_path: Path, kept: list[bytes] | None
) -> None:
    store, other = make(limit_bytes=4), make(limit_bytes=4)
    new = np.ones(1, np.bool_)
    store.update([1], np.array([2]), sample(1.0), changed=new, known=~new, kept=kept)
    store.save(tmp_path / "store.safetensors")
    other.load(tmp_path / "store.safetensors")
    for each in (store, other):
        assert (len(each), each.hidden, each.reduced) == (0, 4, kept is not None)
        assert (each.num_bytes, each.kept_bytes, each.is_blank) == (0, 0, False)


def test_load_evicts_what_the_limit_does_not_allow(make: Make, tmp_path: Path) -> None:
    store = make()
    put(store, {1: sample(1.0), 2: sample(2.0)})
    store.save(tmp_path / "store.safetensors")
    small = make(limit_bytes=16)
    small.load(tmp_path / "store.safetensors")
    assert list(small) == [2]


def test_a_bad_file_is_refused_and_named(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "store.safetensors"
    store = make()
    with pytest.raises(CodecError, match=r"store\.safetensors"):
        store.load(path)
    put(store, {1: sample(1.0)})
    store.save(path)
    with pytest.raises(CodecError, match="keeps bf16"):
        make(precision="bf16").load(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CodecError, match="checksum of sample 1"):
        store.load(path)
    assert len(store) == 0
    path.write_bytes(data[:50])
    with pytest.raises(CodecError, match="cannot read"):
        store.load(path)


def test_a_failed_save_leaves_the_older_file(make: Make, tmp_path: Path) -> None:
    store = make()
    put(store, {1: sample(1.0)})
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(CodecError, match="cannot write"):
        store.save(path)
    assert list(tmp_path.glob("*folder*")) == [path]


@pytest.mark.parametrize("text", ["temporal(0.98) > delta > int4", "temporal(0.98) > projection(4) > int4"])
def test_both_sides_evict_alike(make: Make, text: str) -> None:
    codec = parse(text)
    sender, receiver = make(limit_bytes=700), make(limit_bytes=700)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, 5, 16, generator=generator)
    evicted = 0
    for step in range(12):
        values += 0.1 * torch.randn(values.shape, generator=generator) * (step % 3)
        ids = torch.randperm(12, generator=generator)[:3]
        evicted += sum(1 for i in ids.tolist() if sender.peek([i]) == [None])
        batch = Ragged(values[ids].flatten(0, 1), torch.full((3,), 5))
        encoded = codec.encode(batch, ids.tolist(), Context(sender))
        received, sent = codec.decode(encoded.packet, receiver).batch.values, encoded.reconstruction.values
        assert torch.equal(received[~sent.isnan()], sent[~sent.isnan()])
        assert list(sender) == list(receiver) and sender.peek(sender) == receiver.peek(receiver)
        assert sender.num_bytes == receiver.num_bytes <= 700
    assert evicted > 12


def test_wrong_arguments_are_named(make: Make) -> None:
    with pytest.raises(CodecError, match="one of fp32, fp16, bf16, not 'fp8'"):
        make(precision="fp8")
    with pytest.raises(CodecError, match="negative"):
        make(limit_bytes=-1)


def test_a_file_that_outgrows_its_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "_MIN_MAP_BYTES", 0)
    store = FileReferences(tmp_path / "references", limit_bytes=20 * 2400)
    for _ in range(3):  # a page of 4 KiB holds one of them; replaced pages are free only later
        put(store, {i: sample(float(i), length=1, hidden=1200) for i in range(20)})
    assert (tmp_path / "references" / "data.mdb").stat().st_size > 2 * 20 * 2400
    assert store.read([19, 0])[:, 0].tolist() == [19.0, 0.0]
    store.close()


def test_a_file_store_starts_empty(tmp_path: Path) -> None:
    store = FileReferences(tmp_path / "references", limit_bytes=1 << 20)
    put(store, {1: sample(1.0)})
    store.close()
    again = FileReferences(tmp_path / "references", limit_bytes=1 << 20)
    assert len(again) == 0
    again.close()


@pytest.mark.parametrize("damage", [b"", b"not lmdb", None])
def test_a_file_that_a_crash_has_damaged_is_in_nobodys_way(tmp_path: Path, damage: bytes | None) -> None:
    store = FileReferences(tmp_path / "references", limit_bytes=1 << 20)
    put(store, {i: sample(1.0, length=8, hidden=256) for i in range(32)})
    store.close()
    file = tmp_path / "references" / "data.mdb"
    file.write_bytes(file.read_bytes()[: 3 * 4096] if damage is None else damage)
    again = FileReferences(tmp_path / "references", limit_bytes=1 << 20)
    put(again, {1: sample(2.0)})
    assert len(again) == 1 and again.read([1])[0, 0] == 2.0
    again.close()


def test_more_file_stores_than_a_process_may_open_files(tmp_path: Path) -> None:
    stores = [FileReferences(tmp_path / str(index), limit_bytes=1 << 16) for index in range(150)]
    for index, store in enumerate(stores):
        put(store, {1: sample(float(index))})
    opened = [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(path.resolve())]
    assert 0 < len(opened) <= 3 * lmdb_file._MAX_OPEN < 3 * 150
    assert all(store.read([1])[0, 0] == index for index, store in enumerate(stores))
    for store in stores:
        store.close()


def test_threads_that_use_files_of_their_own_do_not_close_one_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_file, "_MAX_OPEN", 1)
    stores = [FileReferences(tmp_path / str(index), limit_bytes=1 << 16) for index in range(4)]

    def use(index: int) -> list[float]:
        found = []
        for turn in range(50):
            put(stores[index], {1: sample(float(index + 4 * turn))}, known=bool(turn))
            found.append(float(stores[index].read([1])[0, 0]))
        return found

    with ThreadPoolExecutor(len(stores)) as pool:
        for index, found in enumerate(pool.map(use, range(len(stores)))):
            assert found == [index + 4 * turn for turn in range(50)]
    for store in stores:
        store.close()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(CodecError, match="plain"):
        FileReferences(tmp_path / "plain", limit_bytes=1)
