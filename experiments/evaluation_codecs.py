"""What a codec of held-out samples costs, and what it does to the loss: one line for each codec.

    python experiments/evaluation_codecs.py experiments/bundled.toml --samples 40 --set evaluation.batch_size=8

One party trains front and body for some rounds; after each, the held-out samples go through the codec as in a run, with
references of their own. Printed: packets in the first and in the later evaluations in % of fp16, and by how many % the
loss differs from the exact one, at most and in the last round; then both of a pass after the last round, which
sends the rest in a quarter and in an eighth of the step.
"""

import argparse
from copy import deepcopy

import torch

from splitcom import Config
from splitcom.codecs import MemoryReferences, Ragged, parse
from splitcom.control import Decision
from splitcom.data import Batch
from splitcom.methods.run import configured
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.channel import Channel
from splitcom.training.loss import learnt_tokens, losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import held_out_batches, progress_of, round_batches

CODECS = (
    "fp16",
    "int8 > zstd",
    "delta > int8 > zstd",
    "delta > int4 > zstd",
    *(f"predict > klt > uniform({step}) > range" for step in (0.125, 0.25, 0.5, 0.75)),
    *(f"predict > klt > uniform({step}, dead_zone=0.3, prompt=2) > range" for step in (0.125, 0.25, 0.5)),
)


class _End:
    """The two ends of a flow."""

    def __init__(self, text: str) -> None:
        codec = parse(text)
        stores = [MemoryReferences("fp16") if codec.needs_references else None for _ in range(2)]
        self.ends = [Channel("evaluation_up", "a", codec, store, 0) for store in stores]

    def send(self, hidden: torch.Tensor, batch: Batch, position: tuple[int, int]) -> torch.Tensor:
        ragged = Ragged.from_padded(hidden, batch.attention_mask, learnt_tokens(batch.labels))
        packet = self.ends[0].encode(ragged, batch.sample_ids, position)
        return self.ends[1].decode(packet, ragged.values.numel() * 4).batch.to_padded(batch.attention_mask)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=40, help="to train on")
    parser.add_argument("--codec", action="append", help="instead of those listed here")
    given = parser.parse_args()
    changes = dict(map(parse_assignment, given.set)) | {"training.rounds": given.rounds}
    config = configured(Config.load(given.config, changes))
    texts, parts = load_texts(config), load_parts(config)
    front, body = parts.front, parts.body
    assert body is not None and not config.model.tail_blocks
    batches = held_out_batches(texts.held_out.samples, config)
    optimizer = Optimizer(
        (p for part in parts.all for p in part.parameters() if p.requires_grad), config.training
    )
    flows = {text: _End(text) for text in given.codec or CODECS}
    sizes: dict[str, list[float]] = {text: [] for text in flows}
    errors: dict[str, list[float]] = {text: [] for text in flows}
    for index in range(given.rounds + 1):
        if index:
            plan = round_batches(texts.train.samples[: given.samples], config, "a", index)
            for step, batch in enumerate(plan):
                front.train()
                body.train()
                out = front(batch.input_ids, batch.attention_mask)
                scored = losses_through(body, out, batch.attention_mask, batch.labels)
                torch.autograd.backward(scored.losses.mean())
                optimizer.step(progress_of(config, index, step, len(plan)))
        front.eval()
        body.eval()
        with torch.no_grad():
            hidden = [front(batch.input_ids, batch.attention_mask) for batch in batches]
            exact = _loss(body, hidden, batches)
            for text, flow in flows.items():
                arrived = [
                    flow.send(h, b, (index, i)) for i, (h, b) in enumerate(zip(hidden, batches, strict=True))
                ]
                passed = flow.ends[0].take_traffic()
                sizes[text].append(100 * passed.packet_bytes / passed.uncompressed_bytes)
                errors[text].append(100 * (_loss(body, arrived, batches) / exact - 1))
            if index == given.rounds:
                rests = {text: _rests(flow, body, hidden, batches, exact) for text, flow in flows.items()}
        print(f"round {index}: exact loss {exact:.4f}", flush=True)
    print(
        "| codec | first, % of fp16 | later, % | loss differs at most, % | in the last round, % "
        "| rest, a quarter | an eighth |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for text in flows:
        later = sum(sizes[text][1:]) / max(given.rounds, 1)
        print(
            f"| `{text}` | {sizes[text][0]:.2f} | {later:.2f} | {max(errors[text], key=abs):+.3f} "
            f"| {errors[text][-1]:+.3f} | {rests[text]} |"
        )


def _rests(
    flow: _End, body: torch.nn.Module, hidden: list[torch.Tensor], batches: list[Batch], exact: float
) -> str:
    """What a last pass in finer steps takes, beside what has arrived, and by how much its loss differs."""
    knob, found = flow.ends[0].codec.knob, []
    for finer in (4, 8):
        if knob is None or knob.name != "step":
            found.append("–")
            continue
        rest = deepcopy(flow)
        rest.ends[0].decision = Decision(step=knob.value / finer)
        arrived = [rest.send(h, b, (99, i)) for i, (h, b) in enumerate(zip(hidden, batches, strict=True))]
        passed = rest.ends[0].take_traffic()
        size = 100 * passed.packet_bytes / passed.uncompressed_bytes
        found.append(f"{size:.2f}, {100 * (_loss(body, arrived, batches) / exact - 1):+.4f}")
    return " | ".join(found)


def _loss(body: torch.nn.Module, hidden: list[torch.Tensor], batches: list[Batch]) -> float:
    found = [
        losses_through(body, h, b.attention_mask, b.labels).losses
        for h, b in zip(hidden, batches, strict=True)
    ]
    return float(torch.cat(found).double().mean())


if __name__ == "__main__":
    main()
