"""How well other predictions than a linear map tell where activations have moved since a sample's last visit.

    python experiments/codec_drift.py [--epochs 4] [--history 5] [--set model.cut=1]

The setting of codec_theory.py. The model trains uncompressed; beside it, a codec sends the activations at the cut, and
what it has decoded of each sample at its last visit is what is predicted from. All but the last rows learn from what
the latest packets have decoded, so that they would cost no bytes. Figures are of what the prediction misses in the 64
first directions of the KLT: bits per token, estimated as the codec's own choices do, and energy in steps². What they
say is in docs/research/codec.md.
"""

import argparse
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from codec_theory import CLIENT, Loop, setting
from torch import Tensor

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice.predict import spent
from splitcom.config import Config
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.loss import learnt_tokens
from splitcom.training.plan import progress_of, round_batches

RIDGE = 0.02
STEP = 0.75
CODEC = f"predict > klt(64) > uniform({STEP}, dead_zone=0.3, prompt=2) > range"


@dataclass
class Moves:
    """Tokens before and after, fp64 `[tokens, directions]`, and where in their sample they are."""

    old: Tensor
    new: Tensor
    position: Tensor

    @classmethod
    def joined(cls, parts: "Iterable[Moves]") -> "Moves":
        """All of them."""
        return cls(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("old", "new", "position"))
        )


def with_one(values: Tensor) -> Tensor:
    return torch.cat([values.new_ones(len(values), 1), values], 1)


def ridge(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Weights by ridge regression."""
    gram = inputs.T @ inputs
    small = 1e-9 * gram.max() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + torch.diag(RIDGE * gram.diagonal()) + small, inputs.T @ outputs)


def unmoved(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
    return old


def shifted(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
    return old + (seen.new - seen.old).mean(0)


def linear(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
    return old + with_one(old) @ ridge(with_one(seen.old), seen.new - seen.old)


def by_position(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
    """A linear map, and the mean of what it misses at each of the first 16 positions."""
    missed = seen.new - linear(seen, seen.old, seen.position)
    moved = linear(seen, old, position)
    for place in range(16):
        at = seen.position == place
        moved[position == place] += missed[at].sum(0) / (at.sum() + 8)
    return moved


def by_cluster(clusters: int) -> Callable[[Moves, Tensor, Tensor], Tensor]:
    """A linear map, and one of what it misses for each cluster of old activations."""

    def predict(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
        centres = seen.old[torch.linspace(0, len(seen.old) - 1, clusters).long()]
        for _ in range(10):
            of_seen = torch.cdist(seen.old, centres).argmin(1)
            centres = torch.stack(
                [
                    seen.old[of_seen == index].mean(0) if (of_seen == index).any() else centre
                    for index, centre in enumerate(centres)
                ]
            )
        of_old = torch.cdist(old, centres).argmin(1)
        missed = seen.new - linear(seen, seen.old, seen.position)
        moved = linear(seen, old, position)
        for index in range(clusters):
            some, here = of_seen == index, of_old == index
            if int(some.sum()) > 4 * seen.old.shape[1]:  # of fewer tokens a map says nothing
                moved[here] += with_one(old[here]) @ ridge(with_one(seen.old[some]), missed[some])
        return moved

    return predict


def by_neighbours(number: int) -> Callable[[Moves, Tensor, Tensor], Tensor]:
    """A linear map, and the mean of what it missed of the most similar old activations, by their nearness."""

    def predict(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
        missed = seen.new - linear(seen, seen.old, seen.position)
        distances, nearest = torch.cdist(old, seen.old).topk(number, largest=False)
        width = torch.cdist(seen.old[:500], seen.old[500:]).min(1).values.median().clamp(min=0.5)
        weights = torch.exp(-0.5 * (distances / width) ** 2)
        change = (weights[..., None] * missed[nearest]).sum(1) / (weights.sum(1, keepdim=True) + 0.5)
        return linear(seen, old, position) + change

    return predict


def non_linear(seen: Moves, old: Tensor, position: Tensor) -> Tensor:
    """A linear map, and one of what it misses on 256 random features (cosines) of old activations."""
    generator = torch.Generator().manual_seed(0)
    scale = seen.old.std()
    directions = torch.randn(old.shape[1], 256, generator=generator, dtype=old.dtype) / (
        scale * old.shape[1] ** 0.5
    )
    phases = 2 * torch.pi * torch.rand(256, generator=generator, dtype=old.dtype)
    missed = seen.new - linear(seen, seen.old, seen.position)
    weights = ridge(torch.cos(seen.old @ directions + phases), missed)
    return linear(seen, old, position) + torch.cos(old @ directions + phases) @ weights


PREDICTIONS = {
    "the reference as it is": unmoved,
    "one shift for all": shifted,
    "linear map": linear,
    "linear map, shift by position": by_position,
    "linear maps of 2 clusters": by_cluster(2),
    "linear maps of 4 clusters": by_cluster(4),
    "linear maps of 8 clusters": by_cluster(8),
    "linear map, the nearest token's rest": by_neighbours(1),
    "linear map, 8 near tokens' rest": by_neighbours(8),
    "linear map, cosine features": non_linear,
}


def of_itself(rank: int) -> Callable[[Moves], Tensor]:
    """A linear map of some rank, fitted to the very packet: what it would save if its factors cost nothing."""

    def predict(packet: Moves) -> Tensor:
        inputs = with_one(packet.old)
        weights = ridge(inputs, packet.new - packet.old)
        _, _, directions = torch.linalg.svd(inputs @ weights, full_matrices=False)
        kept = directions[:rank]
        return packet.old + inputs @ weights @ kept.T @ kept

    return predict


FITTED = {f"fitted to the packet, rank {rank}": of_itself(rank) for rank in (1, 4, 16, 64)}


def visits(config: Config, num_epochs: int) -> Iterator[tuple[int, Moves, Tensor]]:
    """Epoch, a packet's tokens since their last visit, and what the codec makes of them, in steps."""
    samples = load_texts(config).partition.parts[0]
    loop, codec = Loop(config, load_parts(config), ("fp16", "fp16")), parse(CODEC)
    references, held = MemoryReferences(), dict[int, Tensor]()
    mean, basis, step = (
        torch.zeros(1),
        torch.eye(1),
        1.0,
    )  # of the base model's activations, once they are known
    for epoch in range(num_epochs + 1):  # in the first, the base model's activations are sent
        batches = round_batches(samples, config, CLIENT, max(epoch, 1))
        for index, batch in enumerate(batches):
            mask = batch.attention_mask
            hidden = loop.front(batch.input_ids, mask)
            exact = Ragged.from_padded(hidden.detach(), mask, learnt_tokens(batch.labels))
            lengths = exact.lengths.tolist()
            decoded = codec.encode(
                exact, batch.sample_ids, Context(references)
            ).reconstruction.values.double()
            if epoch:
                old = torch.cat([held[sample] for sample in batch.sample_ids])
                position = torch.cat([torch.arange(length) for length in lengths])
                old, new, decoded_in_steps = (
                    (values - mean) @ basis / step for values in (old, exact.values.double(), decoded)
                )
                yield epoch, Moves(old, new, position), decoded_in_steps
                _, at_cut, body = loop.through_body(hidden, batch)
                front = loop.through_front(hidden, at_cut)
                loop.update((front, body), progress_of(config, epoch, index, len(batches)))
            held |= dict(zip(batch.sample_ids, decoded.split(lengths), strict=True))
        if not epoch:
            values = torch.cat([*held.values()])
            mean = values.mean(0)
            step = STEP * float((values - mean).square().mean().sqrt())
            basis = torch.linalg.eigh((values - mean).T @ (values - mean))[1].flip(1)[:, :64]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--history", type=int, default=5, help="packets to learn from")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = setting().override(dict(map(parse_assignment, arguments.set)))
    history: deque[Moves] = deque(maxlen=arguments.history)
    missed: defaultdict[str, defaultdict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for epoch, packet, decoded in visits(config, arguments.epochs):
        if len(history) == arguments.history:
            seen = Moves.joined(history)
            for name, predict in PREDICTIONS.items():
                missed[name][epoch].append(packet.new - predict(seen, packet.old, packet.position))
            for name, fit in FITTED.items():
                missed[name][epoch].append(packet.new - fit(packet))
            missed["what was decoded in the end"][epoch].append(packet.new - decoded)
        history.append(Moves(packet.old, decoded, packet.position))
    print(f"{'epoch':40}" + "".join(f"{epoch:>16}" for epoch in range(1, arguments.epochs + 1)))
    for name, epochs in missed.items():
        cells = [torch.cat(parts).numpy() for parts in epochs.values()]
        bits = [float(spent(cell, np.float32(1)).mean()) for cell in cells]
        energies = [float((cell**2).sum(1).mean()) for cell in cells]
        print(f"{name:40}" + "".join(f"{a:9.2f} {b:6.2f}" for a, b in zip(bits, energies, strict=True)))


if __name__ == "__main__":
    main()
