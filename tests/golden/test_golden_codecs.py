"""Frozen packets of every stage and wire version; `python tests/golden/test_golden_codecs.py` writes them anew.

Write them anew only together with a new wire version: the packets of a version never change.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splitcom.codecs import ELEMENTS, WIRE_VERSION, Context, Encoded, MemoryReferences, Ragged, parse

FOLDER = Path(__file__).parent / f"wire{WIRE_VERSION}"
CODECS = {
    "none": "none",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "int8",
    "int4": "int4(group=16)",
    "int4_stochastic": "int4(rounding=stochastic)",
    "int2": "int2(group=7)",
    "grid": "delta > grid(1.2)",
    "golomb": "delta > golomb(0.2)",
    "dither": "delta > dither(0.3)",
    "topk_indices": "topk(0.05) > none",
    "topk_bitmap": "topk(0.5) > int8",
    "randtopk": "randtopk(0.1) > fp16",
    "svd": "svd(2) > fp16",
    "zstd": "int4 > zstd",
    "delta": "delta > fp16",
    "temporal_sample": "temporal(0.98)",
    "temporal_token": "temporal(0.1, metric=relative_l2, per=token)",
    "projection": "temporal(0.98) > projection(16)",
    "klt": "klt(4) > uniform(0.5) > range",
    "predict": "predict > klt(37) > uniform(0.3) > range",
    "gains": "predict(gain=fitted) > klt(37) > uniform(0.3) > range",
    "guess": "predict(guess=labels) > klt(37) > uniform(0.3) > range",
    "steps": "predict > klt(37, centre=sum) > uniform(0.3) > range",
    "chain": "temporal(0.98) > delta > int4(group=64) > zstd",
}
NOT_OF_OUR_MAKING = {
    "grid",
    "golomb",
    "dither",
    "int4_stochastic",
    "randtopk",
    "svd",
    "zstd",
    "chain",
    "klt",
    "predict",
    "gains",
    "guess",
    "steps",
}
"""The sender's bytes depend on torch's random numbers, ties or sums, on LAPACK or zstd; only decoding is frozen."""
IDS = [3, 70_000, 1]
STEPS = {"steps": (0.6, 0.2)}
"""What a controller has set for the visits of some."""


def visits() -> list[Ragged]:
    """The same three samples twice, without random numbers; one in three moves."""
    lengths = torch.tensor([2, 1, 4])
    index = torch.arange(7 * 37).view(7, 37)
    first = ((index * 7919 % 257) - 128).float() / 64
    moving = (torch.arange(7) % 3 == 0)[:, None]
    second = first + moving * ((index * 104_729 % 31) - 15).float() / 32
    return [Ragged(first, lengths), Ragged(second, lengths)]


class Halves:
    """Guesses all tokens of the first visit."""

    def of(self, ids: Sequence[int], lengths: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        return np.ones(int(lengths.sum()), np.bool_), (2 * visits()[0].values).round() / 2


def encode(name: str) -> list[Encoded]:
    codec, store, steps = parse(CODECS[name]), MemoryReferences(), STEPS.get(name, (None, None))
    return [
        codec.encode(batch, IDS, Context(store, step=step, guess=Halves()))
        for batch, step in zip(visits(), steps, strict=True)
    ]


def test_every_stage_is_frozen() -> None:
    assert {stage.name for text in CODECS.values() for stage in parse(text).elements} == set(ELEMENTS)


@pytest.mark.parametrize("name", CODECS)
def test_old_packets_decode_to_the_same_values(name: str) -> None:
    frozen, codec, store = load_file(FOLDER / f"{name}.safetensors"), parse(CODECS[name]), MemoryReferences()
    for visit in range(2):
        packet = frozen[f"packet{visit}"].numpy().tobytes()
        decoded = codec.decode(packet, store, guess=Halves())
        assert decoded.ids == IDS
        assert torch.equal(decoded.batch.values.view(torch.int32), frozen[f"values{visit}"].view(torch.int32))


@pytest.mark.parametrize("name", sorted(set(CODECS) - NOT_OF_OUR_MAKING))
def test_packets_are_still_the_same_bytes(name: str) -> None:
    frozen = load_file(FOLDER / f"{name}.safetensors")
    for visit, encoded in enumerate(encode(name)):
        assert encoded.packet == frozen[f"packet{visit}"].numpy().tobytes()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in CODECS.items():
        tensors, codec, store = {}, parse(text), MemoryReferences()
        for visit, encoded in enumerate(encode(name)):
            tensors[f"packet{visit}"] = torch.frombuffer(bytearray(encoded.packet), dtype=torch.uint8)
            tensors[f"values{visit}"] = codec.decode(
                encoded.packet, store, guess=Halves()
            ).batch.values.contiguous()
        save_file(tensors, FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    main()
