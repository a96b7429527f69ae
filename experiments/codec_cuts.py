"""What coded first visits do to the loss of a model that is not trained, wherever it is cut.

    python experiments/codec_cuts.py [--source runs/smollm2-135m] [--cuts 2,4,13,29] [--codec CODEC ...]

The setting of codec_theory.py with the model of smollm2.py: activations of 40 samples of one client, coded in order.
Norms are of tokens, over their median; errors of tokens up to 4 times the median, over what these vary around their
mean; bytes are of whole packets, directions included; references without the flow's state. What the figures say is in
docs/research/codec.md.
"""

import argparse

import torch
from codec_theory import CLIENT, relative, setting

from splitcom.codecs import Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.presets import PRESETS
from splitcom.training.loss import learnt_tokens, losses_through
from splitcom.training.plan import round_batches

NUM_SAMPLES = 40
CODECS = (
    PRESETS["balanced"]["activation_up"]["codec"],
    PRESETS["quality"]["activation_up"]["codec"],
    "predict > klt(64) > uniform(0.75, dead_zone=0.3, prompt=2) > range",
    "predict > klt(128) > uniform(0.25, dead_zone=0.3, prompt=2) > range",
)


@torch.no_grad()
def show(source: str, cut: int, codecs: list[str]) -> None:
    """The lines of one cut."""
    config = setting().override(
        {
            "model.source": source,
            "model.cut": cut,
            "data.samples": 3 * NUM_SAMPLES,
            "data.held_out_samples": 1,
        }
    )
    parts = load_parts(config)
    assert parts.body is not None
    batches = round_batches(load_texts(config).partition.parts[0], config, CLIENT, 1)
    sent, losses = [], []
    for batch in batches:
        hidden = parts.front(batch.input_ids, batch.attention_mask)
        losses.append(losses_through(parts.body, hidden, batch.attention_mask, batch.labels).losses)
        sent.append(Ragged.from_padded(hidden, batch.attention_mask, learnt_tokens(batch.labels)))
    exact, loss = torch.cat([ragged.values for ragged in sent]), float(torch.cat(losses).mean())
    norms = exact.norm(dim=1)
    usual = norms <= 4 * norms.median()
    print(f"cut {cut}: largest norm {float(norms.max() / norms.median()):.1f}, loss {loss:.4f}")
    for text in codecs:
        codec, store, size, plain, restored, losses = parse(text), MemoryReferences(), 0, 0, [], []
        for batch, ragged in zip(batches, sent, strict=True):
            encoded = codec.encode(ragged, batch.sample_ids, Context(store))
            size += len(encoded.packet)
            plain += uncompressed_size(batch.sample_ids, ragged.lengths.tolist(), ragged.hidden)
            restored.append(encoded.reconstruction.values)
            hidden = encoded.reconstruction.to_padded(batch.attention_mask)
            losses.append(losses_through(parts.body, hidden, batch.attention_mask, batch.labels).losses)
        missed = torch.cat(restored) - exact
        assert store.flow is not None
        print(
            f"  {text:68}{len(store.flow.arrays['rows']):5} directions, {100 * size / plain:5.2f} % of fp16, error "
            f"{relative(missed[usual], exact[usual] - exact[usual].mean(0)):.3f}, "
            f"loss {100 * (float(torch.cat(losses).mean()) / loss - 1):+.2f} %, references "
            f"{store.kept_bytes / (2 * exact.numel()):.3f} of fp16",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="runs/smollm2-135m")
    parser.add_argument("--cuts", default="2,4,13,29")
    parser.add_argument("--codec", action="append", default=[], help="in place of those of the presets")
    arguments = parser.parse_args()
    for cut in arguments.cuts.split(","):
        show(arguments.source, int(cut), arguments.codec or list(CODECS))


if __name__ == "__main__":
    main()
