"""What first visits save if both ends begin with what other text has taught them, which would cost no bytes.

    python experiments/codec_begun.py [--set model.cut=2]

One client's rows go through the front and the codec of `quality` once. The flow begins with nothing; with the
directions of other rows' hidden states; or with all that a flow has after these: directions, statistics, and tokens
that pointers can name. The other rows are of another kind (`runs/docstrings.jsonl`, which docstrings.py writes), or
other rows of the same data, which no client can have. Bits are per token, of whole packets.
"""

import argparse
from pathlib import Path

import torch
from codec_natural import PROJECT, natural, token_error
from codec_theory import CLIENT

from splitcom.codecs import Codec, Context, MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.loss import learnt_tokens
from splitcom.training.plan import round_batches

SIZES = (24, 96)  # rows of the client
OTHERS = 384


def hidden_states(config: Config, front: torch.nn.Module) -> list[tuple[list[int], Ragged]]:
    """Of all rows in batches, with their ids."""
    found = []
    for batch in round_batches(load_texts(config).partition.parts[0], config, CLIENT, 1):
        mask, learnt = batch.attention_mask, learnt_tokens(batch.labels)
        with torch.no_grad():
            ragged = Ragged.from_padded(front(batch.input_ids, mask), mask)
        found.append((batch.sample_ids, Ragged(ragged.values, ragged.lengths, learnt[mask.bool()])))
    return found


def coded(codec: Codec, store: MemoryReferences, batches, offset: int = 0) -> tuple[float, float]:
    """Bits a token, and the error of what is restored."""
    size, missed, exact = 0, [], []
    for ids, ragged in batches:
        encoded = codec.encode(ragged, [offset + sample_id for sample_id in ids], Context(store))
        size += len(encoded.packet)
        missed.append(encoded.reconstruction.values)
        exact.append(ragged.values)
    restored, values = torch.cat(missed), torch.cat(exact)
    return 8 * size / len(values), token_error(restored, values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], type=parse_assignment, metavar="KEY=VALUE")
    changes = dict(parser.parse_args().set)
    torch.set_num_threads(1)
    one = {"federation.clients": 1, "data.held_out_samples": 6, "model.device": "cpu", **changes}
    config = natural({**one, "data.samples": OTHERS + max(SIZES)})
    front, batch_size = load_parts(config).front, config.training.batch_size
    states = hidden_states(config, front)
    own = states[OTHERS // batch_size :]
    others = {"other rows of the data": states[: OTHERS // batch_size]}
    documentation = Config.load(PROJECT / "experiments/natural_docs.toml", {**one, "data.samples": OTHERS})
    if Path(documentation.data.source).exists():
        others["documentation"] = hidden_states(documentation, front)
    codec = parse(config.flows.activation_up.codec)
    begun = {"nothing": MemoryReferences}
    for name, batches in others.items():
        coded(codec, learnt := MemoryReferences(), batches)

        def directions(learnt=learnt) -> MemoryReferences:
            store = MemoryReferences()
            store.flow = codec.begun(codec, learnt.flow)
            return store

        def everything(batches=batches) -> MemoryReferences:
            coded(codec, store := MemoryReferences(), batches)
            return store

        begun |= {f"directions of {name}": directions, f"all of {name}": everything}
    for size in SIZES:
        for name, begin in begun.items():
            bits, error = coded(codec, begin(), own[: size // batch_size], offset=1 << 20)
            print(f"{size:3} rows, begun with {name}: {bits:.0f} bits a token, error {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
