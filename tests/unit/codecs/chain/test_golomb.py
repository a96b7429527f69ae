"""The Golomb code of positions: any come back, in as many bits as theory says; what is kept is the largest."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.golomb import Golomb, _coded, _positions
from splitcom.codecs.wire import Reader, num_bool_bytes, unpack_bools
from splitcom.errors import PacketError


def packet(stage: Golomb, matrix: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    data, restored = stage.encode(matrix, None)
    return b"".join(data), restored


@given(st.integers(1, 5000), st.data())
def test_any_positions_come_back(count: int, data: st.DataObject) -> None:
    positions = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=60))), np.int64)
    bits = data.draw(st.integers(0, 14))
    remainders, unary = _coded(positions, bits)
    kept = len(positions)
    assert len(remainders) == num_bool_bytes(kept * bits)
    read = unpack_bools(remainders, kept * bits), unpack_bools(unary, 8 * len(unary))
    assert _positions(*read, kept, bits, count).tolist() == positions.tolist()


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.2, 0.38, 0.55, 0.95, 1.0])
def test_positions_take_what_theory_says_and_the_bound_holds(density: float) -> None:
    matrix = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    data, restored = Golomb(density).encode(matrix, None)
    kept = math.ceil(density * matrix.numel())
    assert int(restored.count_nonzero()) == kept
    golden = math.log((math.sqrt(5) - 1) / 2)
    bits = 0 if density == 1 else max(0, 1 + math.floor(math.log2(golden / math.log(1 - density))))
    expected = bits + 1 / (1 - (1 - density) ** 2**bits)
    coded = len(data[3]) + len(data[4])
    assert 8 * coded / kept == pytest.approx(expected, rel=0.05 if kept > 100 else 0.2)
    assert len(b"".join(data)) == 9 + coded + 2 * kept <= Golomb(density).size(500, 64)


@pytest.mark.parametrize("kept", [0, 1, 2, 500, 763, 764, 1999, 2000])
def test_the_bound_holds_wherever_the_kept_ones_stand(kept: int) -> None:
    for place in (slice(0, kept), slice(2000 - kept, 2000)):
        matrix = torch.zeros(2000)
        matrix[place] = 1.0
        sent, restored = packet(Golomb(1.0), matrix.view(40, 50))
        assert len(sent) <= Golomb(1.0).size(40, 50)
        reader = Reader(sent)
        assert torch.equal(Golomb(1.0).decode(reader, 40, 50), restored)
        reader.finish()


def test_the_largest_of_the_whole_matrix_are_kept_and_zeros_never() -> None:
    matrix = torch.tensor([[9.0, -8.0, 0.5], [0.25, 7.0, 0.0]])
    assert Golomb(0.5).encode(matrix, None)[1].tolist() == [[9.0, -8.0, 0.0], [0.0, 7.0, 0.0]]
    sparse, restored = packet(Golomb(1.0), torch.tensor([[0.0, 2.0, 0.0]]))
    assert restored.tolist() == [[0.0, 2.0, 0.0]]
    assert len(sparse) == 9 + 1 + 1 + 2  # a count of 1, remainder and unary part of its position, its value


def test_a_share_lies_between_least_and_density_and_its_packets_are_the_same_codec_s() -> None:
    codec = parse("delta > golomb(0.8, least=0.2)")
    batch = Ragged(torch.arange(1.0, 101.0).view(10, 10), torch.tensor([10]))
    for share, kept in ((None, 80), (1.0, 80), (0.5, 50), (0.0, 20)):
        encoded = codec.encode(batch, [0], Context(MemoryReferences(), share=share))
        decoded = codec.decode(encoded.packet, MemoryReferences()).batch
        assert int(decoded.values.count_nonzero()) == kept
        assert torch.equal(decoded.values, encoded.reconstruction.values)


@pytest.mark.parametrize("spoil", [0, 4, 8], ids=["values", "unary", "bits"])
def test_numbers_that_cannot_be_are_refused(spoil: int) -> None:
    sent, _ = packet(Golomb(0.25), torch.arange(1.0, 33.0).view(4, 8))
    spoilt = bytearray(sent)
    spoilt[spoil] = 255
    with pytest.raises(PacketError):
        Golomb(0.25).decode(Reader(spoilt), 4, 8)
    unary = len(sent) - 2 * 8 - 1
    spoilt = bytearray(sent)
    spoilt[unary] = 255
    with pytest.raises(PacketError, match=r"unary|positions"):
        Golomb(0.25).decode(Reader(spoilt), 4, 8)
