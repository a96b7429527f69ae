"""Compiled loops write and read the same bytes as numpy does, and refuse the same."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice import streams
from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, BitModel, MatrixModel, Reader, Writer, code_uints
from splitcom.errors import PacketError

pytest.importorskip("numba")
from splitcom.codecs.lattice.native import FastReader, FastWriter


def written(writer: Writer, matrix: np.ndarray, kinds: np.ndarray) -> tuple[bytes, list[np.ndarray]]:
    bits, codes = BitModel.new(3), MatrixModel.new(matrix.shape[1], 4)
    for _ in range(6):  # so that counts reach their limit
        bits.code(writer, kinds % 3, kinds == 1)
        codes.code(writer, matrix, *matrix.shape, kinds)
        code_uints(writer, np.arange(7), 7, 16)
    return writer.finish(), [bits.counts, codes.bits.counts, codes.means]


def read(reader: Reader, matrix: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
    bits, codes = BitModel.new(3), MatrixModel.new(matrix.shape[1], 4)
    for _ in range(6):
        assert np.array_equal(bits.code(reader, kinds % 3, None), kinds == 1)
        assert np.array_equal(codes.code(reader, None, *matrix.shape, kinds), matrix)
        assert np.array_equal(code_uints(reader, None, 7, 16), np.arange(7))
    reader.finish()
    return [bits.counts, codes.bits.counts, codes.means]


@pytest.mark.parametrize(
    ("rows", "width", "scale"), [(250, 40, 1.5), (300, 12, 30.0), (1, 1, 1.0), (9, 70, 0.0)]
)
def test_bytes_and_models_are_those_of_numpy(rows: int, width: int, scale: float) -> None:
    random = np.random.default_rng(rows)
    matrix = np.rint(random.laplace(size=(rows, width)) * scale / np.arange(1, width + 1)).astype(np.int64)
    matrix[0, 0], matrix[-1, -1] = MAX_MAGNITUDE, -MAX_MAGNITUDE
    kinds = random.integers(0, 4, rows)
    data, models = written(Writer(), matrix, kinds)
    fast_data, fast_models = written(FastWriter(), matrix, kinds)
    assert fast_data == data
    for learnt in (fast_models, read(FastReader(data), matrix, kinds), read(Reader(data), matrix, kinds)):
        assert all(np.array_equal(a, b) for a, b in zip(learnt, models, strict=True))


def test_a_carry_goes_through_words_that_are_all_ones() -> None:
    """Improbable bits keep the lower end close below a whole number of words for as long as they please."""
    random = np.random.default_rng(0)
    for _ in range(40):
        probability = np.where(random.random(300) < 0.7, 1e-7, 0.5)
        bits = random.random(300) < 0.5
        data = []
        for writer in (Writer(), FastWriter()):
            writer.bits(np.full(40, 1 - 1e-7), np.ones(40, np.bool_))
            writer.bits(probability, bits)
            data.append(writer.finish())
        assert data[0] == data[1]
    assert FastWriter().finish() == Writer().finish() == b""


@pytest.mark.parametrize("reader_of", [Reader, FastReader])
def test_what_no_writer_gives_is_refused(reader_of: Callable[[bytes], Reader]) -> None:
    with pytest.raises(PacketError, match="ends with a zero byte"):
        reader_of(b"ab\0")
    with pytest.raises(PacketError, match="cannot be read"):
        reader_of(b"\xff" * 40).bits(np.full(200, 0.5), None)
    with pytest.raises(PacketError, match="left over"):
        reader_of(b"abcdefghijklm").finish()


def test_packets_states_and_references_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged packets end in the same error, too."""
    random = torch.Generator().manual_seed(0)
    codec = parse("predict(window=60) > klt(12) > uniform(0.4, dead_zone=0.3, prompt=2) > range")
    values = torch.randn(80, 12, generator=random) @ torch.randn(12, 24, generator=random)
    learnt = torch.arange(80) % 20 > 8
    stores: dict[bool, list[MemoryReferences]] = {True: [], False: []}
    packets: dict[bool, list[bytes]] = {True: [], False: []}
    errors: dict[bool, list[str]] = {True: [], False: []}
    for compiled in (True, False):
        monkeypatch.setattr(streams, "WORTH_COMPILING", 0 if compiled else 1 << 60)
        sender, receiver = MemoryReferences(), MemoryReferences()
        noise = torch.Generator().manual_seed(1)
        for _ in range(3):
            batch = values + 0.1 * torch.randn(80, 24, generator=noise)
            encoded = codec.encode(Ragged(batch, torch.full((4,), 20), learnt), [1, 2, 3, 4], Context(sender))
            for place in range(20, len(encoded.packet), 9):
                damaged = bytearray(encoded.packet)
                damaged[place] ^= 0x5A
                with pytest.raises(PacketError) as error:
                    codec.decode(bytes(damaged), receiver)
                errors[compiled].append(type(error.value).__name__)
            decoded = codec.decode(encoded.packet, receiver)
            assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
            packets[compiled].append(encoded.packet)
        stores[compiled] = [sender, receiver]
    assert packets[True] == packets[False] and errors[True] == errors[False]
    states = [store.flow for store in stores[True] + stores[False]]
    assert all(state is not None and state.chain == states[0].chain for state in states if states[0])


def test_loops_are_loaded_when_a_process_has_coded_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_coded", 0)
    half = streams.WORTH_COMPILING // 2
    assert type(streams.writer(half)) is Writer
    assert type(streams.reader(b"", half - 1)) is Reader
    assert type(streams.writer(1)) is FastWriter
    assert type(streams.reader(b"", 1)) is FastReader


def test_without_numba_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "splitcom.codecs.lattice.native", None)
    streams._native.cache_clear()
    try:
        assert type(streams.writer(streams.WORTH_COMPILING)) is Writer
    finally:
        streams._native.cache_clear()
