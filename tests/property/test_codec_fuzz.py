"""Damaged packets give the package's own errors or a batch of bounded size, and never change the store on error."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.errors import PacketError, UnknownReference

SPECS = [
    "none",
    "fp16",
    "int4(group=3)",
    "delta > grid(0.7)",
    "delta > golomb(0.2)",
    "delta > dither(0.2)",
    "topk(0.3) > int8",
    "topk(0.9) > bf16",
    "randtopk(0.2) > none",
    "svd(2) > fp16",
    "int8 > zstd",
    "temporal(0.9, per=token) > delta > int4 > zstd",
    "temporal(0.9) > delta > svd(1) > int2",
    "klt(4, centre=sum) > uniform(0.5) > range",
    "klt(4, centre=sum, along=2) > uniform(0.5) > range",
    "predict > klt(9) > uniform(0.2, prompt=3) > range",
    "predict(gain=fitted) > klt(9) > uniform(0.2) > range",
    "predict(guess=labels) > klt(9) > uniform(0.2) > range",
]
IDS, LENGTHS, HIDDEN = [3, 400, 5], [2, 1, 4], 9
LIMIT_BYTES = 1 << 16


class Some:
    """Guesses all tokens."""

    def of(self, ids, lengths):
        tokens = int(lengths.sum())
        values = 100 * torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(1))
        return np.ones(tokens, np.bool_), values


def packets(text: str) -> tuple[list[bytes], MemoryReferences]:
    """A first packet, a second that builds on it, and the receiver between the two."""
    codec, sender, receiver = parse(text), MemoryReferences(), MemoryReferences()
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(sum(LENGTHS), HIDDEN, generator=generator)
    first = codec.encode(Ragged(values, torch.tensor(LENGTHS)), IDS, Context(sender, guess=Some())).packet
    codec.decode(first, receiver, guess=Some())
    values = values + torch.randn(values.shape, generator=generator) * 0.3
    batch, steps = Ragged(values, torch.tensor(LENGTHS)), codec.knob is not None and codec.knob.name == "step"
    return [
        first,
        codec.encode(batch, IDS, Context(sender, step=0.4 if steps else None)).packet,
    ], receiver


def assert_harmless(text: str, data: bytes, receiver: MemoryReferences) -> None:
    before = (list(receiver), receiver.peek(receiver), receiver.flow)
    try:
        decoded = parse(text).decode(data, receiver, limit_bytes=LIMIT_BYTES, guess=Some())
    except (PacketError, UnknownReference):
        assert (list(receiver), receiver.peek(receiver), receiver.flow) == before
    else:
        assert decoded.batch.values.nbytes <= LIMIT_BYTES
        assert decoded.batch.values.isfinite().all()


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SPECS), st.integers(0, 1), st.data())
def test_damage(text: str, which: int, data: st.DataObject) -> None:
    both, receiver = packets(text)
    packet = bytearray(both[which])
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "cut"]))
        # damage near the start is the most telling
        at = data.draw(st.integers(0, min(len(packet), 30)) | st.integers(0, len(packet)))
        if kind == "set" and at < len(packet):
            packet[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            packet[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del packet[at : at + data.draw(st.integers(1, 9))]
        else:
            del packet[at:]
    assert_harmless(text, bytes(packet), receiver)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(SPECS), st.binary(max_size=60))
def test_noise_after_a_good_header(text: str, noise: bytes) -> None:
    both, receiver = packets(text)
    assert_harmless(text, both[1][:10] + noise, receiver)
    assert_harmless(text, noise, receiver)
