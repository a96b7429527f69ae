"""What the bytes of the predicting codec's packets go to, epoch by epoch, with few samples and with many.

    python experiments/codec_parts.py [--samples 150,1000] [--epochs 3] [--preset balanced]

One client of the setting of codec_theory.py, whose loop this is, trains alone through the codecs of a preset. Parts are
the bits that each one's probabilities make it; what is left of a packet is its header, with sample ids and lengths.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from codec_theory import CLIENT, Loop, setting

from splitcom.codecs import Ragged, uncompressed_size
from splitcom.codecs.lattice import streams
from splitcom.codecs.lattice.coder import Writer
from splitcom.config import Config
from splitcom.data import Batch
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.training.loss import learnt_tokens
from splitcom.training.plan import progress_of, round_batches

# by the function that has a part written, inner ones first
PARTS = {
    "code_factors": "which are prompts",
    "HeadCoding.code": "step, mean, directions",
    "code_update": "drift map",
    "ModeModel.code": "how it is predicted",
    "LatticeCodec._code_end": "sum, checksum",
    "BodyCoding.code": "what that misses",
}
HEADER = "header, ids, lengths"


class CountingWriter(Writer):
    """Counts bits by what they are for."""

    bits_of: ClassVar[Counter[str]] = Counter()

    def bits(
        self, probability: npt.NDArray[np.float64], bits: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.bool_]:
        assert bits is not None
        frame = sys._getframe(1)
        while frame.f_code.co_qualname not in PARTS:
            assert frame.f_back is not None
            frame = frame.f_back
        spent = -np.log2(np.where(bits, probability, 1 - probability)).sum()
        self.bits_of[PARTS[frame.f_code.co_qualname]] += float(spent)
        return super().bits(probability, bits)


def train(loop: Loop, batches: Sequence[Batch], config: Config, epoch: int) -> list[Counter[str]]:
    """Train an epoch; gives by flow the bytes of each part, of whole packets ("all"), and of fp16 ("fp16")."""
    counted: list[Counter[str]] = [Counter(), Counter()]

    def send(flow: int, exact: Ragged, ids: list[int]) -> torch.Tensor:
        CountingWriter.bits_of.clear()
        received, percent = loop.send(flow, exact, ids)
        plain_bytes = uncompressed_size(ids, exact.lengths.tolist(), exact.hidden)
        parts = {name: bits / 8 for name, bits in CountingWriter.bits_of.items()}
        sent = percent / 100 * plain_bytes
        counted[flow].update(parts | {HEADER: sent - sum(parts.values()), "all": sent, "fp16": plain_bytes})
        return received.to_padded(batch.attention_mask)

    for index, batch in enumerate(batches):
        ids, mask = batch.sample_ids, batch.attention_mask
        hidden = loop.front(batch.input_ids, mask)
        received = send(0, Ragged.from_padded(hidden.detach(), mask, learnt_tokens(batch.labels)), ids)
        _, at_cut, body = loop.through_body(received, batch)
        front = loop.through_front(hidden, send(1, Ragged.from_padded(at_cut, mask), ids))
        loop.update((front, body), progress_of(config, epoch, index, len(batches)))
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", default="150,1000")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--preset", default="balanced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    streams.Writer = CountingWriter  # type: ignore[misc]
    streams.WORTH_COMPILING = sys.maxsize
    flows = setting().override({"preset": arguments.preset}).flows
    codecs = (flows.activation_up.codec, flows.gradient_down.codec)
    for num_samples in map(int, arguments.samples.split(",")):
        config = setting()
        config = config.override(
            {"data.samples": num_samples * config.federation.clients, "training.rounds": arguments.epochs}
        )
        samples = load_texts(config).partition.parts[0]
        loop = Loop(config, load_parts(config), codecs)
        epochs = [
            train(loop, round_batches(samples, config, CLIENT, epoch), config, epoch)
            for epoch in range(1, arguments.epochs + 1)
        ]
        print(f"\n{num_samples} samples; per cent of fp16, by epoch: activation_up | gradient_down")
        for name in (*PARTS.values(), HEADER, "all"):
            cells = [
                " ".join(f"{100 * counted[flow][name] / counted[flow]['fp16']:7.4f}" for counted in epochs)
                for flow in (0, 1)
            ]
            print(f"{name:24} {cells[0]} | {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
