"""What codecs cost and what they spoil on natural text, along one recorded training.

    python experiments/codec_natural.py FILE --record [--set model.cut=2]
    python experiments/codec_natural.py FILE [--up CODEC ...] [--down CODEC ...] [--adapter CODEC ...]

The setting of natural.toml, one of its three clients, not coded: activations and gradients at the cut, adapters and
LoRA gradients of each step go into FILE, some minutes of CPU time. Codecs then code that sequence in order; bytes are
of whole packets, in per cent of fp16, epoch by epoch. Of what they restore, at the recorded adapters:

- activations: their relative error; of the body, the change of the loss, the KL divergence per labelled token, and the
  relative errors of the gradient at the cut and of the LoRA gradients of body and front;
- gradients: their relative error, and that of the front's LoRA gradient, median of an epoch's steps and of their sum.

`--adapter` codes what an epoch changes of the front's adapter, from what has arrived of it before: bytes in per cent of
fp16, and how much of the change's energy is missed.

`--train` is a coded training of that client; with the `--set` of the notebook's chapter it takes a minute of CPU time.
A codec may begin with the word of a transform that stands before it, `word: codec`; see TRANSFORMS.
"""

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from codec_theory import CLIENT, Loop, relative
from torch import Tensor

from splitcom.codecs import Along, Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.config import Config
from splitcom.data import Batch
from splitcom.models import joined_state
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.settings.tree import parse_assignment
from splitcom.training.adapters import AdapterCodec, uncompressed_adapter_size
from splitcom.training.loss import learnt_at, learnt_tokens, losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import held_out_batches, progress_of, round_batches

PROJECT = Path(__file__).parents[1]
ASSETS = PROJECT.parent / "shared/assets"
JUDGED = (3,)  # steps, from 0: the last of the first epoch


def natural(changes: dict[str, object]) -> Config:
    """The setting of natural.toml at the default rate, with data from the assets."""
    config = Config.load(PROJECT / "experiments/natural.toml")
    found = {
        key: str(ASSETS / str(path).partition("shared/assets/")[2])
        for key, path in {"data.source": config.data.source, "data.held_out": config.data.held_out}.items()
    }
    return config.override({**found, "training.lr": 1e-3, "model.device": "cpu", **changes})


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def record(path: Path, changes: dict[str, object]) -> None:
    """One client's uncompressed training."""
    config = natural(changes)
    samples = load_texts(config).partition.parts[0]
    loop = Loop(config, load_parts(config), ("fp16", "fp16"))
    steps = []
    for epoch in range(1, config.training.rounds + 1):
        batches = round_batches(samples, config, CLIENT, epoch)
        for index, batch in enumerate(batches):
            mask = batch.attention_mask
            adapters = [flat(parameters) for parameters in loop.parameters]
            hidden = loop.front(batch.input_ids, mask)
            loss, at_cut, body = loop.through_body(hidden, batch)
            front = loop.through_front(hidden, at_cut)
            loop.update((front, body), progress_of(config, epoch, index, len(batches)))
            steps.append(
                {
                    "epoch": epoch,
                    "loss": loss,
                    "adapters": adapters,
                    "values": Ragged.from_padded(hidden.detach(), mask).values,
                    "gradients": Ragged.from_padded(at_cut, mask).values,
                    "front": front,
                    "body": body,
                }
            )
            print(f"epoch {epoch}, step {index}: loss {loss:.4f}", flush=True)
    torch.save({"changes": changes, "steps": steps}, path)


class Recording:
    """A recorded training, and its parts to run again."""

    def __init__(self, path: Path, changes: dict[str, object]) -> None:
        kept = torch.load(path)
        self.config = natural({**kept["changes"], **changes})
        self.loop = Loop(self.config, load_parts(self.config), ("fp16", "fp16"))
        self.steps = kept["steps"]
        self.exact: dict[int, Tensor] = {}
        texts = load_texts(self.config)
        self.samples = samples = texts.partition.parts[0]
        self.held_out = held_out_batches(texts.held_out.samples, self.config)
        rounds = range(1, self.config.training.rounds + 1)
        self.batches: list[Batch] = [
            batch for epoch in rounds for batch in round_batches(samples, self.config, CLIENT, epoch)
        ]

    def ragged(self, index: int, values: Tensor) -> Ragged:
        """Values of a step's tokens, with what the codec may know of them."""
        batch = self.batches[index]
        learnt = learnt_tokens(batch.labels)
        assert learnt is not None
        mask = batch.attention_mask.bool()
        return Ragged(values, batch.attention_mask.sum(1), learnt[mask])

    def at(self, index: int) -> Batch:
        """Put the adapters of a step into the parts, and give its batch."""
        for parameters, kept in zip(self.loop.parameters, self.steps[index]["adapters"], strict=True):
            sizes = [parameter.numel() for parameter in parameters]
            with torch.no_grad():
                for parameter, part in zip(parameters, kept.split(sizes), strict=True):
                    parameter.copy_(part.view_as(parameter))
        return self.batches[index]

    def through_front(self, index: int, at_cut: Tensor) -> Tensor:
        """The front's LoRA gradient of one at the cut, `[tokens, hidden]`."""
        batch = self.at(index)
        hidden = self.loop.front(batch.input_ids, batch.attention_mask)
        padded = self.ragged(index, at_cut).to_padded(batch.attention_mask)
        return self.loop.through_front(hidden, padded)

    def logits(self, index: int, hidden: Tensor) -> Tensor:
        """fp32 `[labelled, vocabulary]` of activations at the cut."""
        batch = self.batches[index]
        return self.loop.body(hidden, batch.attention_mask, at=learnt_at(batch.labels)).float()

    def labels(self, index: int) -> Tensor:
        batch = self.batches[index]
        at = learnt_at(batch.labels)
        assert at is not None
        return batch.labels[at[0], at[1] + 1]

    def likelihoods(self, index: int) -> Tensor:
        """Logarithms, of the exact activations; computed once."""
        if index not in self.exact:
            padded = self.ragged(index, self.steps[index]["values"]).to_padded(self.at(index).attention_mask)
            with torch.no_grad():
                self.exact[index] = self.logits(index, padded).log_softmax(-1)
        return self.exact[index]

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean over the labelled tokens of held-out samples, as the parts are."""
        losses = []
        for batch in self.held_out:
            hidden = self.loop.front(batch.input_ids, batch.attention_mask)
            losses.append(losses_through(self.loop.body, hidden, batch.attention_mask, batch.labels).losses)
        return float(torch.cat(losses).mean())

    def coded(self, text: str, name: str) -> tuple[list[Tensor], dict[int, float]]:
        """What a codec makes of all steps, and per cent of fp16 by epoch."""
        word, _, rest = text.rpartition(": ")
        transform = TRANSFORMS[word](self)
        codec, store, restored = parse(rest), MemoryReferences(), []
        sent: dict[int, list[int]] = {}
        for index, step in enumerate(self.steps):
            batch = self.batches[index]
            there, back, side = transform(index, step[name])
            ragged = self.ragged(index, there)
            passed = Ragged(step["values"], ragged.lengths)
            along = Along.kept(passed, batch.sample_ids, codec.wants_along)
            encoded = codec.encode(ragged, batch.sample_ids, Context(store, along=along))
            restored.append(back(encoded.reconstruction.values))
            plain = uncompressed_size(batch.sample_ids, ragged.lengths.tolist(), ragged.hidden)
            sums = sent.setdefault(step["epoch"], [0, 0])
            sums[0] += len(encoded.packet) + side
            sums[1] += plain
        return restored, {epoch: 100 * size / plain for epoch, (size, plain) in sent.items()}

    def judged(self, epoch: int) -> list[int]:
        return [index for index, step in enumerate(self.steps) if step["epoch"] == epoch]


def identity(recording: Recording):
    return lambda index, values: (values, lambda restored: restored, 0)


def by_norm(recording: Recording):
    """Every token as long as the others; 6 bits of each say how long it was."""

    def transform(index, values):
        steps = torch.exp2((4 * values.norm(dim=1, keepdim=True).log2()).round() / 4)
        return values / steps, lambda restored: restored * steps, len(values) * 6 // 8

    return transform


def by_gradient(power: float, with_norm: bool = False):
    """Directions as long as the loss is sensitive to them, by the first epoch's gradients (known for nothing)."""

    def of(recording: Recording):
        first = [recording.steps[index] for index in recording.judged(1)]
        gradients = torch.cat(
            [step["gradients"] / step["gradients"].square().mean().sqrt() for step in first]
        )
        if with_norm:  # of a token that is made as long as the others
            gradients = gradients * torch.cat([step["values"] for step in first]).norm(dim=1, keepdim=True)
            norms = gradients.norm(dim=1)
            gradients = gradients[norms < 4 * norms.quantile(0.75)]
        moments = gradients.double().T @ gradients.double() / len(gradients)
        energies, directions = torch.linalg.eigh(moments)
        energies = (energies / energies.mean()).clamp(min=1e-3)
        there = (directions * energies ** (power / 2) @ directions.T).float()
        back = (directions * energies ** (-power / 2) @ directions.T).float()
        normed = by_norm(recording) if with_norm else identity(recording)

        def transform(index, values):
            scaled, unscaled, side = normed(index, values)
            return scaled @ there, lambda restored: unscaled(restored @ back), side

        return transform

    return of


TRANSFORMS = {"": identity, "norm": by_norm}
for tenths in (2, 3, 5, 7, 10):
    TRANSFORMS[f"gradient{tenths}"] = by_gradient(tenths / 10)
    TRANSFORMS[f"both{tenths}"] = by_gradient(tenths / 10, with_norm=True)


def errors(coded: list[Tensor], exact: list[Tensor]) -> str:
    """The median of the steps, and that of their sum."""
    steps = statistics.median(relative(a - b, b) for a, b in zip(coded, exact, strict=True))
    return f"{steps:.3f} {relative(sum(coded) - sum(exact), sum(exact)):.3f}"


def show_activations(recording: Recording, text: str) -> None:
    restored, shares = recording.coded(text, "values")
    print(
        f"up    {text}\n      % of fp16 " + ", ".join(f"{share:.2f}" for share in shares.values()), flush=True
    )
    for index in JUDGED:
        step, batch = recording.steps[index], recording.at(index)
        padded = recording.ragged(index, restored[index]).to_padded(batch.attention_mask)
        exact = recording.likelihoods(index)
        hidden = padded.detach().requires_grad_()
        found = recording.logits(index, hidden).log_softmax(-1)
        labels = recording.labels(index)
        loss = F.nll_loss(found, labels)
        at_cut, *of_body = torch.autograd.grad(loss, [hidden, *recording.loop.parameters[1]])
        body, at_cut = flat(of_body), at_cut[batch.attention_mask.bool()]
        front = recording.through_front(index, at_cut)
        divergence = float((exact.exp() * (exact - found.detach())).sum(1).mean())
        print(
            f"      step {index:2}: error {token_error(restored[index], step['values']):.3f}, loss "
            f"{100 * (float(loss.detach()) / step['loss'] - 1):+.2f} %, KL {divergence:.5f}, gradient at the cut "
            f"{relative(at_cut - step['gradients'], step['gradients']):.3f}, LoRA body "
            f"{relative(body - step['body'], step['body']):.3f}, front "
            f"{relative(front - step['front'], step['front']):.3f}",
            flush=True,
        )


def token_error(restored: Tensor, exact: Tensor) -> float:
    """Over what usual tokens vary around their mean."""
    norms = exact.norm(dim=1)
    usual = norms <= 4 * norms.median()
    return relative((restored - exact)[usual], exact[usual] - exact[usual].mean(0))


def show_gradients(recording: Recording, text: str) -> None:
    restored, shares = recording.coded(text, "gradients")
    print(
        f"down  {text}\n      % of fp16 " + ", ".join(f"{share:.2f}" for share in shares.values()), flush=True
    )
    for epoch in range(1, 4):
        indices = recording.judged(epoch)
        steps = [recording.steps[i] for i in indices]
        front = [recording.through_front(i, restored[i]) for i in indices]
        missed = relative(
            torch.cat([restored[i] for i in indices]) - torch.cat([s["gradients"] for s in steps]),
            torch.cat([s["gradients"] for s in steps]),
        )
        print(
            f"      epoch {epoch}: error {missed:.3f}, front {errors(front, [s['front'] for s in steps])}",
            flush=True,
        )


def show_adapters(recording: Recording, text: str) -> None:
    """What one direction sends of the front's adapter after each epoch; the last epoch is a step short."""
    front, codec = recording.loop.front, AdapterCodec(text)
    firsts = [recording.judged(epoch)[0] for epoch in range(1, recording.config.training.rounds + 1)]
    recording.at(0)
    held = {name: tensor.clone() for name, tensor in joined_state([front]).items()}
    for epoch, index in enumerate([*firsts[1:], len(recording.steps) - 1], 1):
        recording.at(index)
        now = joined_state([front])
        packet, arrived = codec.encode(now, held)
        missed, change = (
            sum(float((one[name] - other[name]).square().sum()) for name in held)
            for one, other in ((arrived, now), (now, held))
        )
        share = 100 * len(packet) / uncompressed_adapter_size(now)
        print(
            f"adapter {text}, epoch {epoch}: {share:.2f} % of fp16, misses {missed / change:.3f}", flush=True
        )
        held = arrived


def train(recording: Recording, words: list[str]) -> None:
    """One client's training with codecs, `up=… down=… steps=1,0.5,0.5 frozen=2` (epochs before); its held-out loss."""
    given = dict(word.partition("=")[::2] for word in words)
    config = recording.config
    recording.at(0)  # new adapters
    loop = recording.loop
    loop.optimizers = [Optimizer(parameters, config.training) for parameters in loop.parameters]
    texts = {name: given.get(name, "fp16") for name in ("up", "down")}
    senders = {name: Sender(recording, text) for name, text in texts.items()}
    rounds = config.training.rounds
    factors = [float(word) for word in given.get("steps", ",".join("1" * rounds)).split(",")]
    last_trained = int(given.get("frozen", rounds))
    index, line = 0, []
    for epoch in range(1, rounds + 1):
        for sender in senders.values():
            sender.sent = sender.plain = 0
        batches = round_batches(recording.samples, config, CLIENT, epoch)
        for number, batch in enumerate(batches):
            mask, is_frozen = batch.attention_mask, epoch > last_trained
            hidden = loop.front(batch.input_ids, mask)
            exact = recording.ragged(index, hidden.detach()[mask.bool()])
            sent = senders["up"].send(index, exact, factors[epoch - 1])
            _, at_cut, body = loop.through_body(sent.to_padded(mask), batch)
            front = torch.zeros(0)
            if not is_frozen:
                answer = senders["down"].send(index, recording.ragged(index, at_cut[mask.bool()]), 1.0, sent)
                front = loop.through_front(hidden, answer.to_padded(mask))
            progress = progress_of(config, epoch, number, len(batches))
            for flat_gradient, parameters, optimizer in zip(
                (front, body), loop.parameters, loop.optimizers, strict=True
            ):
                if not len(flat_gradient):
                    continue
                sizes = [parameter.numel() for parameter in parameters]
                for parameter, part in zip(parameters, flat_gradient.split(sizes), strict=True):
                    parameter.grad = part.view_as(parameter).clone()
                optimizer.step(progress)
            index += 1
        line.append(
            " ".join(f"{100 * sender.sent / max(sender.plain, 1):.2f}" for sender in senders.values())
        )
        for sender in senders.values():
            sender.total += sender.sent
            sender.all_plain += sender.plain
    plain = 2 * senders["up"].all_plain
    print(
        f"{' '.join(words)}\n      loss {recording.held_out_loss():.4f}, up and down, % of fp16: "
        f"{' | '.join(line)}; all {100 * sum(s.total for s in senders.values()) / plain:.2f}",
        flush=True,
    )


class Sender:
    """A codec, the transform before it and what it has sent."""

    def __init__(self, recording: Recording, text: str) -> None:
        word, _, rest = text.rpartition(": ")
        self.recording, self.transform = recording, TRANSFORMS[word](recording)
        self.codec, self.store = parse(rest), MemoryReferences()
        self.sent = self.plain = self.total = self.all_plain = 0

    def send(self, index: int, exact: Ragged, factor: float, passed: Ragged | None = None) -> Ragged:
        there, back, side = self.transform(index, exact.values)
        ids = self.recording.batches[index].sample_ids
        step = self.codec.knob.value * factor if self.codec.knob is not None and factor != 1 else None
        ragged = self.recording.ragged(index, there)
        along = None if passed is None else Along.kept(passed, ids, self.codec.wants_along)
        encoded = self.codec.encode(ragged, ids, Context(self.store, step=step, along=along))
        self.sent += len(encoded.packet) + side
        self.plain += uncompressed_size(ids, ragged.lengths.tolist(), ragged.hidden)
        return self.recording.ragged(index, back(encoded.reconstruction.values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--up", action="append", default=[], metavar="CODEC", help="of activations")
    parser.add_argument("--down", action="append", default=[], metavar="CODEC", help="of gradients")
    parser.add_argument("--adapter", action="append", default=[], metavar="CODEC", help="of adapters")
    parser.add_argument(
        "--train", action="append", default=[], metavar="WORDS", help="up=CODEC ; steps=2,1,1 ; ..."
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.record:
        record(arguments.file, dict(map(parse_assignment, arguments.set)))
        return
    recording = Recording(arguments.file, dict(map(parse_assignment, arguments.set)))
    for words in arguments.train:
        train(recording, words.split(" ; "))
    for text in arguments.up:
        show_activations(recording, text)
    for text in arguments.adapter:
        show_adapters(recording, text)
    for text in arguments.down:
        show_gradients(recording, text)


if __name__ == "__main__":
    main()
