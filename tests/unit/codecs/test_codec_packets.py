"""Sizes, flags and refusals of packets."""

import pytest
import torch

from splitcom.codecs import (
    ELEMENTS,
    WIRE_VERSION,
    Context,
    Encoded,
    MemoryReferences,
    Ragged,
    parse,
    register,
    uncompressed_size,
)
from splitcom.codecs.chain.number import Float16
from splitcom.errors import CodecError, PacketError


def ragged(*lengths: int, hidden: int = 64) -> Ragged:
    values = torch.randn(sum(lengths), hidden, generator=torch.Generator().manual_seed(0))
    return Ragged(values, torch.tensor(lengths))


HEADER = 10


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("none", 4 * 64),
        ("fp16", 2 * 64),
        ("bf16", 2 * 64),
        ("int8", 64 + 2),
        ("int4", 32 + 2),
        ("int2", 16 + 2),
        ("int4(group=16)", 32 + 8),
        ("topk(0.25) > none", 16 * 4 + 64 // 8),
        ("topk(0.03125) > none", 2 * 4 + 2 * 6 / 8),
    ],
)
def test_bytes_per_token_are_exact(text: str, body: float) -> None:
    batch = ragged(3, 5)
    packet = parse(text).encode(batch, [1, 2]).packet
    assert len(packet) == HEADER + 2 + 2 + 8 * body


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (1, 3), (3, 5), (7, 65)])
def test_codes_are_packed_without_waste(bits: int, tokens: int, hidden: int) -> None:
    packet = parse(f"int{bits}").encode(ragged(tokens, hidden=hidden), [0]).packet
    codes, scales = -(-tokens * hidden * bits // 8), tokens * -(-hidden // 64)
    assert len(packet) == HEADER + 1 + 1 + codes + 2 * scales


@pytest.mark.parametrize("ids", [[0, 1], [255, 3], [256, 3], [2**40, 3]])
@pytest.mark.parametrize("lengths", [(1, 2), (300, 1)])
def test_uncompressed_size_is_that_of_fp16(ids: list[int], lengths: tuple[int, ...]) -> None:
    packet = parse("fp16").encode(ragged(*lengths), ids).packet
    assert len(packet) == uncompressed_size(ids, lengths, hidden=64)


def test_a_batch_of_still_samples_takes_a_few_bytes() -> None:
    codec, batch, store = (
        parse("temporal(0.98) > delta > int4 > zstd"),
        ragged(40, 50, 60),
        MemoryReferences(),
    )
    codec.encode(batch, [1, 2, 3], Context(store))
    encoded = codec.encode(batch, [1, 2, 3], Context(store))
    assert encoded.skipped.all() and encoded.num_skipped_tokens == 150
    # header, ids, bitmap of references, digest, bitmap of skips
    assert len(encoded.packet) == HEADER + 3 + 1 + 4 + 1


def test_a_body_that_does_not_shrink_is_left_as_it_is() -> None:
    batch = ragged(4)
    assert len(parse("none > zstd").encode(batch, [1]).packet) <= len(parse("none").encode(batch, [1]).packet)


def test_delta_takes_fewer_bytes_once_there_is_a_reference() -> None:
    codec, batch, store = parse("delta > int4 > zstd"), ragged(40), MemoryReferences("fp32")
    sizes = [len(codec.encode(batch, [1], Context(store)).packet) for _ in range(3)]
    assert sizes[0] > 0.8 * 40 * 64 / 2
    errors = [batch.values - codec.encode(batch, [1], Context(store)).reconstruction.values for _ in range(3)]
    assert errors[0].norm() > 5 * errors[1].norm() > 25 * errors[2].norm()


def encode_twice(threshold: float | None) -> Encoded:
    codec, store = parse("temporal(0.98)"), MemoryReferences()
    batch = ragged(4, 5)
    codec.encode(batch, [1, 2], Context(store))
    moved = batch.values.clone()
    moved[:4] += 0.1 * torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    moved[4:] += 0.5 * torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    return codec.encode(Ragged(moved, batch.lengths), [1, 2], Context(store, threshold=threshold))


@pytest.mark.parametrize(("threshold", "skipped"), [(None, [1, 0]), (1.0, [0, 0]), (0.5, [1, 1])])
def test_a_threshold_given_overrides_the_codecs(threshold: float | None, skipped: list[int]) -> None:
    assert encode_twice(threshold).skipped.int().tolist() == skipped


def test_arguments_that_do_not_fit_are_refused() -> None:
    batch, codec = ragged(2, 3), parse("temporal(0.98)")
    for ids in ([1], [1, 1], [-1, 2], [1, 2**63]):
        with pytest.raises(CodecError, match="sample ids"):
            codec.encode(batch, ids, Context(MemoryReferences()))
    with pytest.raises(CodecError, match="no temporal stage"):
        parse("int4").encode(batch, [1, 2], Context(threshold=0.5))
    store = MemoryReferences()
    codec.encode(batch, [1, 2], Context(store))
    with pytest.raises(CodecError, match=r"width 8.*of 64"):
        codec.encode(ragged(2, 3, hidden=8), [1, 2], Context(store))
    with pytest.raises(CodecError, match="65535"):
        parse("none").encode(ragged(1, hidden=65536), [1])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 0x54, "not a packet"),
        (1, WIRE_VERSION + 1, "wire version"),
        (2, 0xFF, "another codec"),
        (4, 0, "impossible header"),
        (6, 0, "impossible header"),
        (8, 0x19, "impossible header"),
        (9, 1, "builds on references"),
        (9, 4, "changes the step"),
        (9, 8, "impossible header"),
        (10, 0, "distinct"),
        (12, 0, "at least 1"),
        (13, 3, "left over"),
        (13, 255, "ends within"),
        (15, 0x7C, "not finite"),
    ],
)
def test_a_damaged_packet_says_where(position: int, value: int, message: str) -> None:
    packet = bytearray(parse("fp16").encode(ragged(3, 4), [1, 0]).packet)
    packet[position] = value
    with pytest.raises(PacketError, match=message):
        parse("fp16").decode(packet)


def test_references_of_another_width_are_refused() -> None:
    codec, receiver = parse("delta"), MemoryReferences()
    codec.encode(ragged(2, hidden=8), [1], Context(receiver))
    packet = codec.encode(ragged(2), [2], Context(MemoryReferences())).packet
    with pytest.raises(PacketError, match=r"width 64.*of 8"):
        codec.decode(packet, receiver)


def test_a_frame_that_swells_beyond_its_batch_is_refused() -> None:
    codec = parse("fp16 > zstd")
    short = Ragged(torch.zeros(1, 8), torch.tensor([1]))
    long = Ragged(torch.zeros(10_000, 8), torch.tensor([10_000]))
    bomb = codec.encode(short, [1]).packet[: HEADER + 2] + codec.encode(long, [1]).packet[HEADER + 3 :]
    bomb = bomb[:9] + b"\0" + bomb[10:]
    with pytest.raises(PacketError, match="zstd body"):
        codec.decode(bomb)


def test_a_second_stage_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="registered already"):
        register(Float16)
    assert ELEMENTS["fp16"] is Float16


@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        (torch.zeros(3), torch.tensor([3])),
        (torch.zeros(3, 0), torch.tensor([3])),
        (torch.zeros(3, 2, dtype=torch.int64), torch.tensor([3])),
        (torch.zeros(3, 2), torch.tensor([3], dtype=torch.int32)),
        (torch.zeros(3, 2), torch.tensor([[3]])),
        (torch.zeros(3, 2), torch.tensor([2])),
        (torch.zeros(3, 2), torch.tensor([0, 3])),
        (torch.zeros(0, 2), torch.tensor([], dtype=torch.int64)),
    ],
)
def test_a_ragged_batch_checks_itself(values: torch.Tensor, lengths: torch.Tensor) -> None:
    with pytest.raises(CodecError):
        Ragged(values, lengths)


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_padding_comes_and_goes(side: str) -> None:
    mask = torch.ones(2, 5, dtype=torch.int64)
    if side != "none":
        mask[1, :2] = 0
    if side == "right":
        mask = mask.flip(1)
    padded = torch.randn(2, 5, 3) * mask[:, :, None]
    batch = Ragged.from_padded(padded, mask)
    assert batch.lengths.tolist() == mask.sum(1).tolist()
    assert torch.equal(batch.to_padded(mask), padded)
