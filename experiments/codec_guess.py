"""What first visits save if both ends guess activations from labels, by what stands for the text that these lack.

    python experiments/codec_natural.py FILE --record --set data.samples=120 --set data.held_out_samples=40 \
        --set data.max_tokens=256 --set training.batch_size=10
    python experiments/codec_guess.py FILE

The activations of the recording's first epoch go through the codec of `quality`, packet by packet; sizes are in bits a
token, all of a packet counted. "the text itself" is no codec: the server has no prompts. What the figures say is in
docs/research/codec.md, "Natural text".
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from codec_natural import Recording, token_error

import splitcom.training.labelled as labelled
from splitcom.codecs import Context, MemoryReferences, parse
from splitcom.data import IGNORED
from splitcom.models import base_front
from splitcom.settings.presets import PRESETS

Fill = Callable[[np.ndarray], np.ndarray]
FILLED: dict[str, Fill | None] = {
    "nothing is guessed": None,
    "labels; one id for the rest": lambda labels: np.where(labels == IGNORED, 0, labels),
    "labels; the rest filled with them": labelled._filled,
}


def bits(recording: Recording, fill: Fill | None, texts: bool = False) -> tuple[list[float], float]:
    """Of each packet of the first epoch, and the error of the last."""
    codec, store = parse(PRESETS["quality"]["activation_up"]["codec"]), MemoryReferences()
    front, found, error = labelled.LabelFront(base_front(recording.loop.front)), [], 0.0
    if fill is not None:
        labelled._filled = fill
    for index in recording.judged(1):
        batch = recording.batches[index]
        rows = {
            sample: (batch.input_ids if texts else batch.labels)[row, : int(batch.lengths[row])].numpy()
            for row, sample in enumerate(batch.sample_ids)
        }
        guess = None if fill is None else front.guess(rows)
        ragged = recording.ragged(index, recording.steps[index]["values"])
        encoded = codec.encode(ragged, batch.sample_ids, Context(store, guess=guess))
        found.append(8 * len(encoded.packet) / len(ragged.values))
        error = token_error(encoded.reconstruction.values, ragged.values)
    return found, error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    torch.set_num_threads(1)
    recording = Recording(parser.parse_args().file, {})
    recording.at(0)
    steps = recording.judged(1)
    learnt = torch.cat(
        [recording.batches[i].labels[recording.batches[i].attention_mask.bool()] for i in steps]
    )
    print(f"{len(learnt)} tokens, of which {float((learnt != IGNORED).float().mean()):.0%} have a label")
    for name, fill in FILLED.items():
        show(name, *bits(recording, fill))
    show("the text itself", *bits(recording, labelled._filled, texts=True))


def show(name: str, sizes: list[float], error: float) -> None:
    print(
        f"{name:36} {', '.join(f'{size:5.0f}' for size in sizes)} bits a token, error {error:.3f}", flush=True
    )


if __name__ == "__main__":
    main()
