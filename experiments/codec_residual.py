"""What flows that leave the body cost whole, and less what has come in: both at the same step, not relative to either.

    python experiments/codec_residual.py [--epochs 5] [--tail-blocks 1]

The setting of codec_theory.py; the model trains with what has come in coded (`balanced`), the rest exact. Of both flows
are printed the bytes in per cent of fp16 and the error over the norm of the flow (of the activations' spread); of
gradients also that of the front's LoRA gradient, the median of the steps. "Mapped": less what a linear map makes of
what has come in, fitted to the very first packet and known to the receiver for nothing. What the figures say is in
docs/research/codec.md.
"""

import argparse
import statistics
from collections import defaultdict

import torch
from codec_drift import ridge
from codec_theory import CLIENT, Loop, relative, setting
from torch import Tensor

from splitcom.codecs import Codec, Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.codecs.lattice.basis import lengths_of, spread_of, weights_of
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.presets import PRESETS
from splitcom.training.loss import learnt_tokens, losses_through
from splitcom.training.plan import progress_of, round_batches

UP, DOWN = (PRESETS["balanced"][flow]["codec"] for flow in ("activation_up", "gradient_down"))
GRADIENT_UP = PRESETS["balanced"]["gradient_up"]["codec"]
ACTIVATION_STEP, GRADIENT_STEP = 0.375, 3.0  # of the spread of the first packet, whole
OUT = "predict > klt(128) > uniform({}, dead_zone=0.3, prompt=6) > range"
BACK = "predict(window=0, rank=0) > klt(64, threshold=0.3, centre=sum) > uniform({}) > range"


class Predicted:
    """A codec of what is left of a flow when a linear map of another has been taken away."""

    def __init__(
        self, text: str, step: float, matrix: Tensor, first: Tensor, base: Tensor, centred: bool
    ) -> None:
        """`step` is relative to the first packet whole; the codec wants it relative to what it is given."""
        whole, rest = (
            spread_of(values, centred, weights_of(lengths_of(values)))
            for values in (first, first - base @ matrix)
        )
        self.matrix, self.references = matrix, MemoryReferences()
        self.codec: Codec = parse(text.format(f"{step * whole / rest:.5f}"))

    def send(self, exact: Ragged, base: Tensor, ids: list[int]) -> tuple[Tensor, int]:
        """What arrives, and the bytes of the packet."""
        rest = Ragged(exact.values - base @ self.matrix, exact.lengths, exact.learnt)
        encoded = self.codec.encode(rest, ids, Context(self.references))
        return encoded.reconstruction.values + base @ self.matrix, len(encoded.packet)


def _codecs(text: str, step: float, first: Tensor, base: Tensor, centred: bool) -> dict[str, Predicted]:
    identity = torch.eye(base.shape[1])
    maps = {"whole": 0 * identity, "residual": identity, "mapped": ridge(base, first)}
    return {name: Predicted(text, step, matrix, first, base, centred) for name, matrix in maps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--tail-blocks", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = setting()
    samples = load_texts(config).partition.parts[0]
    loop = Loop(config, load_parts(config), (UP, DOWN))
    inside: dict[str, Tensor] = {}
    blocks = [module for module in loop.body.modules() if type(module).__name__ == "GPT2Block"]
    blocks[-arguments.tail_blocks].register_forward_pre_hook(lambda _, given: inside.update(out=given[0]))
    gradient_up, references = parse(GRADIENT_UP), MemoryReferences()
    out_codecs: dict[str, Predicted] = {}
    back_codecs: dict[str, Predicted] = {}
    for epoch in range(1, arguments.epochs + 1):
        sizes: dict[str, int] = defaultdict(int)
        errors: dict[str, list[float]] = defaultdict(list)
        plain_bytes = 0
        batches = round_batches(samples, config, CLIENT, epoch)
        for index, batch in enumerate(batches):
            ids, mask, learnt = batch.sample_ids, batch.attention_mask, learnt_tokens(batch.labels)
            hidden = loop.front(batch.input_ids, mask)
            came_in, _ = loop.send(0, Ragged.from_padded(hidden.detach(), mask, learnt), ids)
            received = came_in.to_padded(mask).requires_grad_()
            loss = losses_through(loop.body, received, mask, batch.labels).losses.mean()
            at_tail, *of_body = torch.autograd.grad(
                loss, [inside["out"], *loop.parameters[1]], retain_graph=True
            )
            sent = gradient_up.encode(
                Ragged.from_padded(at_tail, mask), ids, Context(references)
            ).reconstruction
            (at_cut,) = torch.autograd.grad(inside["out"], received, sent.to_padded(mask))
            out = Ragged.from_padded(inside["out"].detach(), mask, learnt)
            back = Ragged.from_padded(at_cut, mask)
            exact_front = loop.through_front(hidden, at_cut)
            if not out_codecs:
                out_codecs = _codecs(OUT, ACTIVATION_STEP, out.values, came_in.values, centred=True)
                back_codecs = _codecs(BACK, GRADIENT_STEP, back.values, sent.values, centred=False)
            plain_bytes += uncompressed_size(ids, out.lengths.tolist(), out.hidden)
            for name, codec in out_codecs.items():
                values, size = codec.send(out, came_in.values, ids)
                sizes[f"activation_down, {name}"] += size
                spread = out.values - out.values.mean(0)
                errors[f"activation_down, {name}"].append(relative(values - out.values, spread))
            for name, codec in back_codecs.items():
                values, size = codec.send(back, sent.values, ids)
                sizes[f"gradient_down, {name}"] += size
                errors[f"gradient_down, {name}"].append(relative(values - back.values, back.values))
                front = loop.through_front(hidden, Ragged(values, back.lengths).to_padded(mask))
                errors[f"gradient_down, {name}: front"].append(relative(front - exact_front, exact_front))
            body = torch.cat([part.flatten() for part in of_body])
            loop.update((exact_front, body), progress_of(config, epoch, index, len(batches)))
        print(f"epoch {epoch}")
        for name, values_of in errors.items():
            percent = f"{100 * sizes[name] / plain_bytes:7.3f} %" if name in sizes else " " * 9
            print(f"  {name:32} {percent}  error {statistics.median(values_of):.3f}", flush=True)


if __name__ == "__main__":
    main()
