"""What codecs of adapters cost, and what they do to training: one line for each, without codecs at the cut.

    python experiments/adapter_codecs.py experiments/bundled.toml --seeds 0,1,2

All clients and the body train in one loop, in which nothing but adapters is coded, upwards from the shared adapter as
clients have it, downwards from its last version: what `splitcom train` does, in less time. Printed: bytes in % of those
of fp16; the error of what arrives over the change that was sent, upwards and downwards, of the first round and of the
last; the held-out loss, and by how many % it differs from that of the first codec.
"""

import argparse
from collections.abc import Mapping

import torch

from splitcom import Config
from splitcom.methods.run import configured
from splitcom.models import joined_state, load_joined_state, replicate
from splitcom.parties.parts import Parts, load_parts
from splitcom.parties.texts import Texts, load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.adapters import AdapterCodec, uncompressed_adapter_size
from splitcom.training.loss import losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import held_out_batches, progress_of, round_batches

CODECS = (
    "fp16",
    "none",  # how far two runs come apart that hardly differ
    "delta > topk(0.1) > int8 > zstd",
    "delta > grid(1)",
    "delta > grid(1.5)",
    "delta > grid(2)",
    "delta > grid(2.8)",
)
State = Mapping[str, torch.Tensor]


class _Way:
    """One direction: its codec, its bytes, and the errors of its packets."""

    def __init__(self, text: str) -> None:
        self.codec = AdapterCodec(text)
        self.bytes = self.whole_bytes = 0
        self.errors: list[float] = []

    def send(self, adapter: State, base: State) -> dict[str, torch.Tensor]:
        packet, arrived = self.codec.encode(adapter, base)
        self.bytes += len(packet)
        self.whole_bytes += uncompressed_adapter_size(adapter)
        missed, change = (
            sum(float((one[name] - other[name]).square().sum()) for name in base)
            for one, other in ((arrived, adapter), (adapter, base))
        )
        self.errors.append((missed / change) ** 0.5)
        return arrived

    @property
    def summary(self) -> str:
        return f"{100 * self.bytes / self.whole_bytes:.2f} | {self.errors[0]:.2f}, {self.errors[-1]:.2f}"


def train(config: Config, texts: Texts, parts: Parts, text: str) -> tuple[float, _Way, _Way]:
    """The held-out loss after all rounds, and what went up and down."""
    assert parts.body is not None and not config.model.tail_blocks
    body, fronts = parts.body, [replicate(parts.front) for _ in texts.partition.parts]
    optimizers = [
        Optimizer((p for p in part.parameters() if p.requires_grad), config.training)
        for part in (body, *fronts)
    ]
    up, down = _Way(text), _Way(text)
    shared: State = joined_state([parts.front])
    for index in range(1, config.training.rounds + 1):
        plans = [
            round_batches(samples, config, name, index)
            for name, samples in zip(config.client_names, texts.partition.parts, strict=True)
        ]
        body.train()
        for front in fronts:
            load_joined_state([front], shared)
            front.train()
        for step in range(max(map(len, plans))):
            _step(fronts, body, [plan[step] if step < len(plan) else None for plan in plans])
            for plan, optimizer in zip((max(plans, key=len), *plans), optimizers, strict=True):
                if step < len(plan):
                    optimizer.step(progress_of(config, index, step, len(plan)))
        arrived = [up.send(joined_state([front]), shared) for front in fronts]
        mean = {name: torch.stack([one[name] for one in arrived]).mean(0) for name in shared}
        shared = down.send(mean, shared)
    load_joined_state([fronts[0]], shared)
    return _held_out_loss(fronts[0], body, config, texts), up, down


def _step(fronts: list, body: torch.nn.Module, batches: list) -> None:
    """Gradients of one step: fronts' of the mean over their own labels, the body's over all."""
    counts = []
    for front, batch in zip(fronts, batches, strict=True):
        if batch is None:
            continue
        hidden = front(batch.input_ids, batch.attention_mask)
        losses = losses_through(body, hidden, batch.attention_mask, batch.labels).losses
        losses.sum().backward()
        counts.append(len(losses))
        for parameter in front.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(losses)
    for parameter in body.parameters():
        if parameter.grad is not None:
            parameter.grad /= sum(counts)


@torch.no_grad()
def _held_out_loss(front: torch.nn.Module, body: torch.nn.Module, config: Config, texts: Texts) -> float:
    front.eval()
    body.eval()
    losses = [
        losses_through(body, front(b.input_ids, b.attention_mask), b.attention_mask, b.labels).losses
        for b in held_out_batches(texts.held_out.samples, config)
    ]
    return float(torch.cat(losses).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--codec", action="append", help="instead of those listed here")
    given = parser.parse_args()
    print("| seed | codec | up, % | error | down, % | error | loss | against the first, % |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for seed in map(int, given.seeds.split(",")):
        config = configured(
            Config.load(given.config, dict(map(parse_assignment, given.set)) | {"seed": seed})
        )
        texts, first = load_texts(config), None
        for text in given.codec or CODECS:
            loss, up, down = train(config, texts, load_parts(config), text)
            first = first or loss
            print(
                f"| {seed} | `{text}` | {up.summary} | {down.summary} | {loss:.4f} | {100 * (loss / first - 1):+.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
