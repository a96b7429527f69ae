"""What is beyond the range of fp16 never arrives as another number without a word."""

import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.errors import OutOfRangeError
from splitcom.training.channel import Channel


def batch_of(*largest: float) -> Ragged:
    """Samples of two tokens whose values end at these."""
    values = torch.stack([torch.linspace(-one, one, 16) for one in largest for _ in range(2)])
    return Ragged(values, torch.tensor([2] * len(largest)))


@pytest.mark.parametrize("text", ["fp16", "fp16 > zstd", "topk(0.25) > fp16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_fp16_refuses_what_it_cannot_hold(text, sign):
    batch = Ragged(sign * torch.tensor([[0.0, 1.0, 2.0, 65600.0]]), torch.tensor([1]))
    with pytest.raises(
        OutOfRangeError, match=r"6.56e\+04 is beyond the range of fp16, which ends at 65,504; .*bf16"
    ):
        parse(text).encode(batch, [1])


def test_fp16_holds_its_largest_numbers():
    batch = Ragged(torch.tensor([[65504.0, -65504.0, 65503.0]]), torch.tensor([1]))
    assert torch.equal(parse("fp16").encode(batch, [1]).reconstruction.values[0, :2], batch.values[0, :2])


def test_the_flow_is_named():
    with pytest.raises(
        OutOfRangeError, match=r"clinic, round 2, step 3, flow activation_up: .* none in place of fp16"
    ):
        Channel("activation_up", "clinic", parse("fp16"), None, 0).encode(batch_of(1e6), [1], (2, 3))


@pytest.mark.parametrize("text", ["temporal(0.9) > none", "temporal(0.9) > projection(4) > none"])
def test_what_a_reference_cannot_hold_is_sent_again(text):
    codec, store, held = parse(text), MemoryReferences(precision="fp16"), MemoryReferences(precision="fp16")
    batch = batch_of(1.0, 1e6)
    for _ in range(2):
        encoded = codec.encode(batch, [1, 2], Context(store))
        decoded = codec.decode(encoded.packet, held)
        assert torch.allclose(decoded.batch.values, batch.values, rtol=1e-3)
    assert encoded.skipped.tolist() == [True, False]
