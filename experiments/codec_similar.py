"""How well a similar token predicts a new one, direction by direction, and what other predictions would do.

    python experiments/codec_natural.py FILE --record --set data.samples=120 --set data.held_out_samples=40 \
        --set data.max_tokens=256 --set training.batch_size=10
    python experiments/codec_similar.py FILE

Of the recording's first epoch, with `predict > klt > uniform(0.7, dead_zone=0.3, prompt=2, first=0) > range`: what is
fitted is fitted to the third packet, and bits are those of the fourth, a token: order-0 entropies of each direction in
eight classes of tokens by the size of what was missed. What the figures say is in docs/research/codec.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from codec_natural import Recording

import splitcom.codecs.lattice.body as body
from splitcom.codecs import Context, MemoryReferences, parse
from splitcom.codecs.lattice.coder import bands_of

CODEC = "predict > klt > uniform(0.7, dead_zone=0.3, prompt=2, first=0) > range"
Floats = np.ndarray


class Packet:
    """Coordinates of new tokens, what the codec predicts of them, and the tokens that pointers can name."""

    def __init__(
        self, coordinates: Floats, own: Floats, known, lengths, window, zones, units: Floats
    ) -> None:
        self.before = window._tokens[: window.size].copy()
        self.planned = PLAN(coordinates, own, known, lengths, window, zones, units)
        modes, codes, restored = self.planned
        self.wanted, self.units, self.lengths = coordinates.copy(), units, lengths
        self.named, self.pointed = restored - units * codes, ~modes.zero


PLAN = body.plan


def packets_of(recording: Recording) -> list[Packet]:
    found: list[Packet] = []

    def plan(*given):
        found.append(Packet(*given))
        return found[-1].planned

    body.plan = plan
    codec, store = parse(CODEC), MemoryReferences()
    for index in recording.judged(1):
        ragged = recording.ragged(index, recording.steps[index]["values"])
        codec.encode(ragged, recording.batches[index].sample_ids, Context(store))
    body.plan = PLAN
    return found


def bits(missed: Floats, units: Floats) -> float:
    steps = np.rint(missed / units).astype(int)
    sizes = np.abs(missed / units).mean(1)
    classes = np.digitize(sizes, np.quantile(sizes, np.arange(1, 8) / 8))
    total = 0.0
    for one in range(8):
        for column in steps[classes == one].T:
            counts = np.unique(column, return_counts=True)[1]
            total -= (counts * np.log2(counts / counts.sum())).sum()
    return total / len(missed)


def multiples(wanted: Floats, named: Floats) -> Floats:
    return (wanted * named).sum(0) / np.maximum((named * named).sum(0), 1e-9)


def banded(fitted: Packet, dims: int) -> Floats:
    """One multiple, in eighths, for each band."""
    wanted, named = fitted.wanted[fitted.pointed], fitted.named[fitted.pointed]
    result = np.ones(dims)
    for band in bands_of(dims):
        energy = max(float((named[:, band] ** 2).sum()), 1e-9)
        result[band] = np.rint(8 * (wanted[:, band] * named[:, band]).sum() / energy).clip(0, 8) / 8
    return result


def earlier(missed: Floats, lengths) -> dict[str, Floats]:
    """Of each token what was missed of the one before, and on average of its sample so far."""
    before, mean, start = np.zeros_like(missed), np.zeros_like(missed), 0
    for length in lengths:
        rows = missed[start : start + length]
        before[start + 1 : start + length] = rows[:-1]
        mean[start + 1 : start + length] = np.cumsum(rows, 0)[:-1] / np.arange(1, length)[:, None]
        start += length
    return {"the token before": before, "the sample so far": mean}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    torch.set_num_threads(1)
    *_, fitted, judged = packets_of(Recording(parser.parse_args().file, {}))
    dims = fitted.wanted.shape[1]
    for packet in (fitted, judged):
        packet.wanted, packet.named = packet.wanted[:, :dims], packet.named[:, :dims]

    def show(name: str, predicted: Floats) -> None:
        missed, units = judged.wanted - predicted, judged.units
        parts = [bits(missed[rows], units[rows]) for rows in (judged.pointed, ~judged.pointed)]
        print(f"{name:44} {bits(missed, units):6.1f}, pointed {parts[0]:6.1f}, not {parts[1]:6.1f}")

    best = multiples(fitted.wanted[fitted.pointed], fitted.named[fitted.pointed])
    for first, last in ((0, 8), (8, 32), (32, 64), (64, 128), (128, dims)):
        print(f"best multiple, directions {first} to {last}: {best[first:last].mean():.2f}")
    print(f"tokens without a similar one: {1 - judged.pointed.mean():.3f}")
    show("as it is", judged.named)
    show("a multiple for each direction", best * judged.named)
    show("for each band, in eighths", banded(fitted, dims) * judged.named)
    show("for each band, fitted to what is judged", banded(judged, dims) * judged.named)
    past = earlier(fitted.wanted - best * fitted.named, fitted.lengths)
    now = earlier(judged.wanted - best * judged.named, judged.lengths)
    for name, missed in past.items():
        part = multiples(fitted.wanted - best * fitted.named, missed)
        show(f"and of what was missed of {name}", best * judged.named + part * now[name])
    window = judged.before[:, :dims]
    distances = (window[:, :64] ** 2).sum(1) / 2 - judged.wanted[:, :64] @ window[:, :64].T
    near = np.argsort(distances, 1)
    for count in (2, 4, 8):
        mean = window[near[:, :count]].mean(1)
        show(f"mean of the {count} nearest, its best multiples", multiples(judged.wanted, mean) * mean)


if __name__ == "__main__":
    main()
