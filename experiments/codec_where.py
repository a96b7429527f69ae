"""Where rounding errors of activations cost most on natural text: tokens, directions, dead zone, drift.

    python experiments/codec_natural.py FILE --record
    python experiments/codec_where.py FILE

Activations of the recording's first epoch are rounded in all directions of their KLT with one step for all, in units
of the root mean square; prompts' tokens in twice that. Bits are of a usual token, order-0 entropies of each direction,
prompts for themselves, without side information. KL is from the logits of exact activations to those of rounded ones,
per labelled token of the epoch's last step. What the figures say is in docs/research/codec.md, "Natural text".
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from codec_natural import Recording
from codec_theory import order_0_bits, relative
from torch import Tensor

from splitcom.codecs import Ragged

NUM_STEPS = 4
LAST = NUM_STEPS - 1


class Where:
    """Activations `[tokens, hidden]` of the first epoch, and what others in their place do to the last step."""

    def __init__(self, recording: Recording) -> None:
        self.recording, steps = recording, recording.steps[:NUM_STEPS]
        self.exact = torch.cat([step["values"] for step in steps]).double()
        self.gradients = torch.cat(
            [step["gradients"] / step["gradients"].square().mean().sqrt() for step in steps]
        ).double()
        flags = [recording.ragged(index, step["values"]).learnt for index, step in enumerate(steps)]
        self.learnt = torch.cat([flag for flag in flags if flag is not None])
        self.last = slice(len(self.exact) - len(steps[-1]["values"]), len(self.exact))
        norms = self.exact.norm(dim=1)
        self.usual = norms < 4 * norms.median()
        self.mean = self.exact[self.usual].mean(0)
        self.rms = float((self.exact[self.usual] - self.mean).square().mean().sqrt())
        self.likelihoods = recording.likelihoods(LAST)

    @torch.no_grad()
    def show(self, name: str, values: Tensor, bits: float) -> None:
        """One line."""
        batch, labels = self.recording.at(LAST), self.recording.labels(LAST)
        padded = self.recording.ragged(LAST, values[self.last].float()).to_padded(batch.attention_mask)
        found = self.recording.logits(LAST, padded).log_softmax(-1)
        divergence = float((self.likelihoods.exp() * (self.likelihoods - found)).sum(1).mean())
        exact, loss = F.nll_loss(self.likelihoods, labels), F.nll_loss(found, labels)
        rows = self.usual[self.last]
        error = relative((values - self.exact)[self.last][rows], (self.exact - self.mean)[self.last][rows])
        print(
            f"{name:44} {bits:6.0f} bits a token, error {error:.3f}, KL {divergence:.5f}, "
            f"loss {100 * (float(loss / exact) - 1):+.2f} %",
            flush=True,
        )

    def rounded(
        self, step: float, dead_zone: float = 0.3, prompt: int = 2, metric: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """All tokens rounded, and bits; with a `metric`, to steps that are as long in it in all directions."""
        there = torch.eye(len(self.mean)).double() if metric is None else metric
        centred = (self.exact - self.mean) @ there
        _, basis = torch.linalg.eigh(centred[self.usual].T @ centred[self.usual])
        steps = step * self.rms * torch.where(self.learnt, 1.0, float(prompt)).double()[:, None]
        codes = centred @ basis / steps
        codes = torch.where(codes.abs() < 0.5 + dead_zone, 0.0, codes.round())
        groups = [self.usual & self.learnt, self.usual & ~self.learnt]
        bits = sum(order_0_bits(codes[rows]) * codes.shape[1] * int(rows.sum()) for rows in groups)
        restored = codes * steps @ basis.T @ torch.linalg.inv(there) + self.mean
        return restored, bits / int(self.usual.sum())

    def metric(self, power: float) -> Tensor:
        """The second moment of gradients of the steps before the last, to half of a power: symmetric."""
        gradients = self.gradients[: self.last.start][self.usual[: self.last.start]]
        norms = gradients.norm(dim=1)
        gradients = gradients * (norms.quantile(0.9) / norms).clamp(max=1)[:, None]
        energies, directions = torch.linalg.eigh(gradients.T @ gradients)
        energies = (energies / energies.mean()).clamp(min=0.02)
        return directions * energies ** (power / 2) @ directions.T


def show_rounding(where: Where) -> None:
    """Steps, and whose errors matter."""
    for step in (0.25, 0.5, 0.75):
        values, bits = where.rounded(step)
        where.show(f"step {step}", values, bits)
        values[~where.usual] = where.exact[~where.usual]
        where.show(f"step {step}, long tokens exact", values, bits)
    values, bits = where.rounded(0.75)
    for name, rows in (
        ("long tokens", ~where.usual),
        ("learnt tokens", where.learnt),
        ("prompts' tokens", ~where.learnt),
    ):
        where.show(f"step 0.75, {name} only", torch.where(rows[:, None], values, where.exact), bits)
    for step, options in (
        (0.5, {"prompt": 1}),
        (0.5, {"prompt": 3}),
        (0.5, {"dead_zone": 0.15}),
        (0.35, {"dead_zone": 0.0}),
        (0.5, {"dead_zone": 0.0}),
        (0.7, {"dead_zone": 0.0}),
        (1.0, {"dead_zone": 0.0}),
    ):
        values, bits = where.rounded(step, **options)
        values[~where.usual] = where.exact[~where.usual]
        where.show(f"step {step}, {options}", values, bits)
    for power, step, dead_zone in (
        (0.25, 0.4, 0.3),
        (0.25, 0.6, 0.3),
        (0.5, 0.4, 0.3),
        (0.5, 0.6, 0.3),
        (0.5, 0.55, 0.0),
        (1.0, 0.6, 0.3),
    ):
        values, bits = where.rounded(step, dead_zone, metric=where.metric(power))
        values[~where.usual] = where.exact[~where.usual]
        where.show(f"metric of gradients to {power}, step {step}, zone {dead_zone}", values, bits)


def show_drift(where: Where) -> None:
    """How far activations of the second step of later epochs are from the first epoch's, and what a map tells of it."""
    recording, first = where.recording, {}
    for index in range(NUM_STEPS):
        ragged: Ragged = recording.ragged(index, recording.steps[index]["values"].double())
        tokens = ragged.values.split(ragged.lengths.tolist())
        first |= dict(zip(recording.batches[index].sample_ids, tokens, strict=True))
    for epoch in (2, 3):
        index = (epoch - 1) * NUM_STEPS + 1
        old = torch.cat([first[sample] for sample in recording.batches[index].sample_ids])
        rows = old.norm(dim=1) < 4 * old.norm(dim=1).median()
        old = old[rows]
        change = recording.steps[index]["values"].double()[rows] - old
        inputs = torch.cat([torch.full((len(old), 1), where.rms).double(), old - where.mean], 1)
        gram = inputs.T @ inputs
        fitted = inputs @ torch.linalg.solve(gram + 0.02 * gram.diag().diag(), inputs.T @ change)
        left, sizes, right = torch.linalg.svd(fitted, full_matrices=False)
        shares = [
            f"{rank}: {1 - relative(change - left[:, :rank] * sizes[:rank] @ right[:rank], change) ** 2:.2f}"
            for rank in (1, 4, 16, 64)
        ]
        print(
            f"epoch {epoch}: change {float(change.square().mean().sqrt()) / where.rms:.3f} of the rms; a map "
            f"of rank explains {', '.join(shares)} of its energy"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    torch.set_num_threads(1)
    where = Where(Recording(parser.parse_args().file, {}))
    print(f"{len(where.exact)} tokens, {int((~where.usual).sum())} longer than 4 times the median")
    show_drift(where)
    show_rounding(where)


if __name__ == "__main__":
    main()
