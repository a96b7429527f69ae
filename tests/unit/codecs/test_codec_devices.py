"""Codecs where hidden states are on a GPU: all on one device, and no more is fetched than what is coded."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from splitcom.codecs import Ragged, parse
from splitcom.codecs.along import Along
from splitcom.codecs.codec import Context
from splitcom.codecs.references import MemoryReferences
from splitcom.settings.presets import PRESETS

from ...elsewhere import CUDA, Elsewhere

QUALITY = {flow: PRESETS["quality"][flow]["codec"] for flow in ("activation_up", "gradient_down")}
CODECS = [
    *QUALITY.values(),
    "none",
    "fp16",
    "bf16",
    "int4 > zstd",
    "temporal(0.98) > delta > int8 > zstd",
    "temporal(0.98) > projection(32) > fp16",
    "svd(8) > fp16",
    "topk(0.1) > fp16",
    "randtopk(0.1) > fp16",
    "delta > grid(1.5)",
    "delta > golomb(0.05)",
    "predict > klt(64) > uniform(1) > range",
]
LENGTHS = torch.tensor([100, 120, 80, 100, 60, 140])
IDS = list(range(len(LENGTHS)))


def values(visit: int) -> torch.Tensor:
    """Wider than what its tokens vary along, and moved a little from visit to visit."""
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(24, 640, generator=draws) * torch.logspace(1, -1, 24)[:, None]
    tokens = int(LENGTHS.sum())
    found = torch.randn(tokens, 24, generator=draws) @ directions + 0.01 * torch.randn(
        tokens, 640, generator=draws
    )
    return found + 0.05 * visit * torch.randn(tokens, 640, generator=draws)


@pytest.fixture(params=["as if", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request):
    """A way to put tensors on a GPU while it is entered: one that is not there, and one that is."""
    if request.param == "as if":
        return Elsewhere()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    real = nullcontext()
    real.put = lambda tensor: tensor.to(CUDA)
    return real


class Near:
    """A guess of all tokens, on some device."""

    def __init__(self, put):
        self.put = put

    def of(self, ids, lengths):
        assert list(ids) == IDS
        return np.ones(int(lengths.sum()), np.bool_), self.put(values(0) + 0.05 * values(4))


def through(text: str, put, device, sides: dict[str, MemoryReferences]) -> list[tuple[bytes, torch.Tensor]]:
    """Two visits of the same samples: packets, and what arrives."""
    codec, found = parse(text), []
    for visit in range(2):
        along = [Along.kept(Ragged(put(values(2)), LENGTHS), IDS, codec.wants_along) for _ in sides]
        stores = [side if codec.needs_references else None for side in sides.values()]
        context = Context(references=stores[0], seed=visit, along=along[0], guess=Near(put))
        packet = codec.encode(Ragged(put(values(visit)), LENGTHS), IDS, context).packet
        arrived = codec.decode(packet, stores[1], device=device, along=along[1], guess=Near(put)).batch.values
        found.append((bytes(packet), arrived))
    return found


def sides() -> dict[str, MemoryReferences]:
    return {"sender": MemoryReferences(), "receiver": MemoryReferences()}


@pytest.mark.parametrize("text", CODECS)
def test_a_packet_made_on_a_gpu_arrives_there_and_at_a_cpu_alike(text, gpu):
    there, here = sides(), MemoryReferences()
    with gpu:
        found = through(text, gpu.put, CUDA, there)
        assert all(arrived.device == CUDA for _, arrived in found)
        found = [(packet, arrived.cpu()) for packet, arrived in found]
    codec, usual = parse(text), through(text, torch.Tensor.clone, "cpu", sides())
    for visit, ((packet, arrived), plain) in enumerate(zip(found, usual, strict=True)):
        along = Along.kept(Ragged(values(2), LENGTHS), IDS, codec.wants_along)
        store, guess = here if codec.needs_references else None, Near(torch.Tensor.clone)
        alike = codec.decode(packet, store, along=along, guess=guess).batch.values
        assert torch.allclose(arrived, alike, rtol=1e-4, atol=1e-4)
        missed = [float((one - values(visit)).norm()) for one in (arrived, plain[1])]
        assert missed[0] == pytest.approx(missed[1], rel=0.02, abs=1e-6)
        assert len(packet) == pytest.approx(len(plain[0]), rel=0.02)
    kept = [side.peek(IDS) for side in (*there.values(), here)]
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize("text", [*QUALITY.values(), "predict > klt(64) > uniform(1) > range"])
def test_only_coordinates_are_fetched(text):
    """Neither the values nor a matrix of their size: what is fetched waits for the device."""
    whole, codec, both = values(0).nbytes, parse(text), sides()
    with (gpu := Elsewhere()):
        for visit in range(2):
            batch = Ragged(gpu.put(values(visit)), LENGTHS)
            along = Along.kept(Ragged(gpu.put(values(2)), LENGTHS), IDS, codec.wants_along)
            gpu.fetched.clear()
            packet = codec.encode(batch, IDS, Context(references=both["sender"], along=along)).packet
            assert max(gpu.fetched) < whole / 4 and sum(gpu.fetched) < whole / 2
            assert len(gpu.fetched) <= 16
            gpu.fetched.clear()
            codec.decode(packet, both["receiver"], device=CUDA, along=along)
            assert sum(gpu.fetched) < 100 and len(gpu.fetched) <= 2


def test_what_a_driver_refuses_is_refused():
    with (gpu := Elsewhere()):
        tensor = gpu.put(torch.ones(3))
        with pytest.raises(RuntimeError, match="tensors on cuda:0 and on the CPU"):
            tensor + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            tensor.numpy()
        assert (tensor + torch.tensor(1.0)).device == tensor.to("cpu").to(tensor).device == CUDA
        assert float(tensor.sum()) == 3 and gpu.fetched == [12, 4]
