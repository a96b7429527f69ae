"""Where errors of activations matter: by token, by direction; what steps of different sizes gain at equal bits.

    python experiments/codec_sensitivity.py [--epochs 0] [--set model.cut=1] [--codec CODEC ...]

The setting of codec_theory.py, after some epochs of uncompressed training. Activations of one epoch are rounded in the
64 first directions of their KLT with a dead zone of 0.3, without prediction; bits are order-0 entropies of each
direction, of each size of step for itself. A `--codec` is measured as it is, on first visits, with the bytes of its
packets. Errors of LoRA gradients are medians over the batches. What the figures say is in docs/research/codec.md.
"""

import argparse
import statistics
from collections.abc import Iterator

import torch
from codec_theory import CLIENT, Loop, order_0_bits, relative, setting
from torch import Tensor

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.loss import learnt_tokens
from splitcom.training.plan import progress_of, round_batches

DIRECTIONS = 64


class Probe:
    """A model, one epoch of batches, and the exact activations `[tokens, hidden]` at the cut."""

    def __init__(self, epochs: int, changes: dict[str, object]) -> None:
        config = setting().override(changes)
        samples = load_texts(config).partition.parts[0]
        self.loop = Loop(config, load_parts(config), ("fp16", "fp16"))
        for epoch in range(1, epochs + 1):
            batches = round_batches(samples, config, CLIENT, epoch)
            for index, batch in enumerate(batches):
                self.loop.step(batch, progress_of(config, epoch, index, len(batches)))
        self.batches = round_batches(samples, config, CLIENT, max(epochs, 1))
        masks = [batch.attention_mask.bool() for batch in self.batches]
        with torch.no_grad():
            hidden = [self.loop.front(batch.input_ids, batch.attention_mask) for batch in self.batches]
        self.exact = torch.cat([part[mask] for part, mask in zip(hidden, masks, strict=True)]).double()
        flags = [learnt_tokens(batch.labels) for batch in self.batches]
        self.learnt = torch.cat(
            [flag[mask] for flag, mask in zip(flags, masks, strict=True) if flag is not None]
        )
        at_cut = [
            self.loop.through_body(part, batch)[1][mask]
            for part, batch, mask in zip(hidden, self.batches, masks, strict=True)
        ]
        self.gradients = torch.cat(at_cut).double()
        self.loss, self.body, self.front = self._effects(self.exact)

    def _effects(self, values: Tensor) -> tuple[float, Tensor, Tensor]:
        """Mean loss and the LoRA gradients `[batches, parameters]` of both parts, of other activations."""
        losses, body, front, first = [], [], [], 0
        for batch in self.batches:
            mask = batch.attention_mask
            hidden = self.loop.front(batch.input_ids, mask)
            rows = slice(first, first := first + int(mask.sum()))
            changed = Ragged(values[rows].float(), mask.sum(1)).to_padded(mask)
            loss, at_cut, of_body = self.loop.through_body(changed, batch)
            losses.append(loss)
            body.append(of_body)
            front.append(self.loop.through_front(hidden, at_cut))
        return statistics.mean(losses), torch.stack(body), torch.stack(front)

    def show(self, name: str, values: Tensor, bits: float) -> None:
        """One line of what these activations in place of the exact ones do."""
        loss, body, front = self._effects(values)
        errors = [
            statistics.median(relative(a - b, b) for a, b in zip(coded, exact, strict=True))
            for coded, exact in ((body, self.body), (front, self.front))
        ]
        print(
            f"{name:58} {bits:6.3f} {relative(values - self.exact, self.exact):6.3f} "
            f"{100 * (loss / self.loss - 1):+7.2f} {errors[0]:6.3f} {errors[1]:6.3f}",
            flush=True,
        )

    def coded(self, text: str) -> tuple[Tensor, float]:
        """First visits through a codec, and bits per element."""
        codec, store, first, size, parts = parse(text), MemoryReferences(), 0, 0, []
        for batch in self.batches:
            lengths = batch.attention_mask.sum(1)
            rows = slice(first, first := first + int(lengths.sum()))
            ragged = Ragged(self.exact[rows].float(), lengths, self.learnt[rows])
            encoded = codec.encode(ragged, batch.sample_ids, Context(store))
            size += len(encoded.packet)
            parts.append(encoded.reconstruction.values)
        return torch.cat(parts).double(), 8 * size / self.exact.numel()


def at_bits(coordinates: Tensor, by_direction: Tensor, by_token: Tensor, bits: float) -> tuple[Tensor, float]:
    """Coordinates rounded to steps in these proportions, as fine as `bits` per element allow."""
    low, high = 1e-4, 1e2
    for _ in range(25):
        scale = (low * high) ** 0.5
        steps = scale * by_token[:, None] * by_direction[None]
        codes = coordinates / steps
        codes = torch.where(codes.abs() < 0.8, 0.0, codes.round())
        share = [(by_token == size) for size in by_token.unique()]
        spent = sum(order_0_bits(codes[rows]) * float(rows.double().mean()) for rows in share)
        low, high = (scale, high) if spent > bits else (low, scale)
    return codes * steps, spent


def sizes(probe: Probe, moments: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, and proportions of steps by direction and by token."""
    directions, tokens = torch.ones_like(moments), torch.ones_like(probe.exact[:, 0])
    yield "one step for all", directions, tokens
    for factor in (2, 3):
        yield f"prompts {factor} times", directions, torch.where(probe.learnt, 1.0, float(factor)).double()
    norms = probe.gradients.norm(dim=1)
    for power in (0.25, 0.4):
        proportions = (norms / norms.median()).clamp(min=1e-9) ** -power
        yield (
            f"by the token's gradient, to the power {-power}",
            directions,
            2 ** ((2 * proportions.log2()).round() / 2).clamp(-2, 2),
        )
    yield "by the direction's gradient, to the power -0.5", (moments / moments.mean()) ** -0.5, tokens
    token_norms = probe.exact.norm(dim=1)
    yield (
        "by the token's norm",
        directions,
        2 ** (2 * (token_norms / token_norms.median()).log2()).round().div(2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=0, help="of uncompressed training before")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--codec", action="append", default=[], help="measure this one too")
    parser.add_argument("--bits", type=float, default=0.45, help="per element")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    probe = Probe(arguments.epochs, dict(map(parse_assignment, arguments.set)))
    energy = probe.gradients.square().sum(1)
    print(
        f"{len(probe.exact)} tokens, {float(probe.learnt.double().mean()):.0%} learnt from or at; the energy of their "
        f"gradients is {float(energy[probe.learnt].mean() / energy[~probe.learnt].mean()):.1f} times a prompt's"
    )
    print(f"{'':58} {'bits':>6} {'error':>6} {'loss, %':>7} {'body':>6} {'front':>6}")
    mean = probe.exact.mean(0)
    _, basis = torch.linalg.eigh((probe.exact - mean).T @ (probe.exact - mean))
    basis = basis.flip(1)[:, :DIRECTIONS]
    coordinates = (probe.exact - mean) @ basis
    for name, by_direction, by_token in sizes(probe, (probe.gradients @ basis).square().mean(0)):
        share = basis.shape[1] / probe.exact.shape[1]
        rounded, bits = at_bits(coordinates, by_direction, by_token, arguments.bits / share)
        probe.show(name, mean + rounded @ basis.T, bits * share)
    for text in arguments.codec:
        probe.show(text, *probe.coded(text))


if __name__ == "__main__":
    main()
