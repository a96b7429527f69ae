"""What bounds the codec of predictions: rate and distortion, the text's own entropy, the error of the gradients.

    python experiments/codec_theory.py [--epochs 5] [--activations CODEC] [--gradients CODEC]

The setting of codec_e2e_gpt2_6m.toml, one client of 150 samples; its models and data are looked for in the folder that
SPLITCOM_ASSETS names, else in ../shared/assets. What the figures say is in docs/research/codec.md, "What bounds apply".
"""

import argparse
import lzma
import math
import os
import statistics
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
import zstandard
from torch import Tensor

from splitcom.codecs import Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.config import Config
from splitcom.data import Batch
from splitcom.models import load_model, load_tokenizer
from splitcom.parties.parts import Parts, load_parts
from splitcom.parties.texts import load_texts
from splitcom.training.loss import learnt_tokens, losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import progress_of, round_batches

PROJECT = Path(__file__).parents[1]
CLIENT = "client-0"
ACTIVATIONS = "predict > klt(64) > uniform(1, dead_zone=0.3) > range"
GRADIENTS = "predict(window=0, rank=0) > klt(64, threshold=0.3, centre=sum) > uniform(4) > range"
FIRST_VISITS = {
    "intra-only, step 1.5": "klt(64) > uniform(1.5) > range",
    "intra-only, step 1": "klt(64) > uniform(1) > range",
    "pointers, step 1.5": "predict > klt(64) > uniform(1.5) > range",
    "pointers, step 1, dead zone": ACTIVATIONS,
}


def setting() -> Config:
    """The experiment's configuration, with models and data from the assets."""
    config = Config.load(PROJECT / "experiments/codec_e2e_gpt2_6m.toml")
    assets = Path(os.environ.get("SPLITCOM_ASSETS", PROJECT / "../shared/assets"))
    sources = {
        "model.source": config.model.source,
        "data.source": config.data.source,
        "data.held_out": config.data.held_out,
    }
    found = {key: str(assets / str(path).partition("shared/assets/")[2]) for key, path in sources.items()}
    return config.override({**found, "model.device": "cpu"})


def relative(error: Tensor, of: Tensor) -> float:
    """Norm of an error over that of what it is an error of."""
    return float(error.norm() / of.norm())


def gaussian_rate(variances: Tensor, distortion: float) -> tuple[float, int]:
    """Bits per element of independent Gaussians at a mean square error per element, by reverse water-filling.

    Also how many of them get bits at all. Cover and Thomas, Elements of Information Theory, theorem 10.3.3.
    """
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        low, high = (level, high) if variances.clamp(max=level).mean() < distortion else (low, level)
    return float((variances / high).clamp(min=1).log2().mean() / 2), int((variances > high).sum())


def order_0_bits(codes: Tensor) -> float:
    """Bits per element of columns `[tokens, directions]`, each with its own frequencies, known for nothing."""
    total = 0.0
    for column in codes.T:
        share = column.unique(return_counts=True)[1].double() / len(column)
        total -= float((share * share.log2()).sum())
    return total / codes.shape[1]


def print_rates(visits: list[tuple[Batch, Ragged]]) -> dict[str, float]:
    """Rate and distortion of first visits; gives the bits per token of each codec."""
    values = torch.cat([ragged.values for _, ragged in visits]).double()
    centred = values - values.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(values))
    variances = variances.clamp(min=0)
    print(f"(a) first visits, {len(values)} tokens of width {values.shape[1]}; bits per element")
    columns = {
        "error": 8,
        "of spread": 11,
        "bits": 8,
        "2nd half": 10,
        "Gaussian": 10,
        "scalar": 8,
        "identified": 12,
    }
    print(f"{'':30}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    spent = {}
    for name, text in FIRST_VISITS.items():
        codec, references = parse(text), MemoryReferences()
        packets = [codec.encode(ragged, batch.sample_ids, Context(references)) for batch, ragged in visits]
        decoded = torch.cat([packet.reconstruction.values for packet in packets]).double()
        half = len(packets) // 2
        sizes = [8 * len(packet.packet) for packet in packets]
        bits = sum(sizes) / values.numel()
        later = sum(sizes[half:]) / sum(ragged.values.numel() for _, ragged in visits[half:])
        ids = torch.cat([batch.input_ids[batch.attention_mask.bool()] for batch, _ in visits])
        error = decoded - values
        distortion = float(error.square().mean())
        bound, active = gaussian_rate(variances, distortion)
        print(
            f"{name:30}{relative(error, values):8.3f}{relative(error, centred):11.3f}{bits:8.3f}{later:10.3f}"
            f"{bound:10.3f}{scalar_rate(centred @ directions, distortion):8.3f}{identified(values, decoded, ids):12.2%}"
            f"   {active} directions above the water"
        )
        spent[name] = bits * values.shape[1]
    for dims in (32, 64, 96, 128):  # eigenvalues ascend
        lost = variances[:-dims].sum() * len(values)
        print(f"error of {dims} directions without rounding: {float(lost.sqrt() / values.norm()):.3f}")
    return spent


def scalar_rate(coordinates: Tensor, distortion: float) -> float:
    """Bits per element of coordinates `[tokens, directions]`, rounded to the step that gives this mean square error.

    Each direction is coded with its own frequencies, known for nothing.
    """
    low, high = 0.0, 20 * distortion**0.5
    for _ in range(20):
        step = (low + high) / 2
        codes = (coordinates / step).round()
        too_far = float((codes * step - coordinates).square().mean()) > distortion
        low, high = (low, step) if too_far else (step, high)
    return order_0_bits(codes)


def identified(values: Tensor, decoded: Tensor, ids: Tensor) -> float:
    """Part of the tokens whose decoded activation is nearer to the exact one than to that of any other token id."""
    values, decoded = values.float(), decoded.float()
    own = (decoded - values).square().sum(1)
    hits = 0
    for start in range(0, len(decoded), 1000):
        rows = slice(start, start + 1000)
        distances = torch.cdist(decoded[rows], values).square()
        distances[ids[rows, None] == ids] = math.inf
        hits += int((own[rows] < distances.min(1).values).sum())
    return hits / len(decoded)


def print_text(config: Config, batches: list[Batch], spent: dict[str, float]) -> None:
    """Bits per token of the text, by general compressors and by the model, beside those of its activations."""
    rows = [
        ids[mask.bool()]
        for batch in batches
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    num_tokens = sum(map(len, rows))
    tokenizer = load_tokenizer(config.model.source)
    forms = {
        "as text": "\n".join(tokenizer.decode(ids) for ids in rows).encode(),
        "as 16-bit ids": torch.cat(rows).to(torch.int16).numpy().tobytes(),
    }
    compressors = {
        "zlib": lambda data: zlib.compress(data, 9),
        "zstd": lambda data: zstandard.compress(data, 19),
        "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    print(f"\n(b) bits per token, {num_tokens} tokens")
    for form, data in forms.items():
        sizes = {name: 8 * len(compress(data)) / num_tokens for name, compress in compressors.items()}
        print(f"{form:30}" + "  ".join(f"{name} {bits:.2f}" for name, bits in sizes.items()))
    model = load_model(config.model.source)
    nats = 0.0
    with torch.no_grad():
        for ids in rows:
            nats += float(F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="sum"))
    print(f"{'by the base model':30}{nats / num_tokens / math.log(2):.2f}")
    for name, bits in spent.items():
        print(f"{'activations, ' + name:44}{bits:.1f}")


Gradient = tuple[Tensor, Tensor]
"""Of the LoRA of front and body, flat."""


class Loop:
    """Coded training of one client, with the exact gradients beside it."""

    def __init__(self, config: Config, parts: Parts, codecs: tuple[str, str]) -> None:
        assert parts.body is not None
        self.front, self.body = parts.front, parts.body
        self.parameters = [
            [p for p in part.parameters() if p.requires_grad] for part in (self.front, self.body)
        ]
        self.optimizers = [Optimizer(parameters, config.training) for parameters in self.parameters]
        self.codecs = [parse(text) for text in codecs]
        self.references = (MemoryReferences(), MemoryReferences())
        self.visited: dict[int, Tensor] = {}

    def step(self, batch: Batch, progress: float) -> tuple[dict[str, float], Gradient, Gradient]:
        """Errors of this step's packets, and the coded and the exact gradient."""
        mask = batch.attention_mask
        hidden = self.front(batch.input_ids, mask)
        received, figures = self._send_activations(
            Ragged.from_padded(hidden.detach(), mask, learnt_tokens(batch.labels)), batch.sample_ids
        )
        _, exact_cut, exact_body = self.through_body(hidden, batch)
        exact_front = self.through_front(hidden, exact_cut)
        _, at_cut, body = self.through_body(received.to_padded(mask), batch)
        answer, errors = self._send_gradients(Ragged.from_padded(at_cut, mask), batch.sample_ids)
        of_activations = self.through_front(hidden, at_cut)
        front = self.through_front(hidden, answer.to_padded(mask))
        for name, coded, exact in (
            ("LoRA front, activations alone coded", of_activations, exact_front),
            ("LoRA front", front, exact_front),
            ("LoRA body", body, exact_body),
            ("LoRA both", torch.cat([front, body]), torch.cat([exact_front, exact_body])),
        ):
            errors[name] = relative(coded - exact, exact)
        self.update((front, body), progress)
        return figures | errors, (front, body), (exact_front, exact_body)

    def _send_activations(self, exact: Ragged, ids: list[int]) -> tuple[Ragged, dict[str, float]]:
        sent, share = self.send(0, exact, ids)
        missed = sent.values - exact.values
        figures = {
            "activation_up, % of fp16": share,
            "activation": relative(missed, exact.values),
            "activation, of spread": relative(missed, exact.values - exact.values.mean(0)),
        }
        if all(sample in self.visited for sample in ids):
            old = torch.cat([self.visited[sample] for sample in ids])
            figures["activation, of change"] = relative(missed, exact.values - old)
        self.visited |= dict(zip(ids, sent.values.split(sent.lengths.tolist()), strict=True))
        return sent, figures

    def _send_gradients(self, exact: Ragged, ids: list[int]) -> tuple[Ragged, dict[str, float]]:
        sent, share = self.send(1, exact, ids)
        missed = sent.values - exact.values
        return sent, {
            "gradient_down, % of fp16": share,
            "gradient": relative(missed, exact.values),
            "gradient, of sum": relative(missed.sum(0), exact.values.sum(0)),
        }

    def send(self, flow: int, exact: Ragged, ids: list[int]) -> tuple[Ragged, float]:
        """What arrives, and the size of its packet, in per cent of fp16."""
        encoded = self.codecs[flow].encode(exact, ids, Context(self.references[flow]))
        plain_bytes = uncompressed_size(ids, exact.lengths.tolist(), exact.hidden)
        return encoded.reconstruction, 100 * len(encoded.packet) / plain_bytes

    def through_body(self, hidden: Tensor, batch: Batch) -> tuple[float, Tensor, Tensor]:
        """The loss of hidden states, and the gradients at the cut and of the body's LoRA."""
        received = hidden.detach().requires_grad_()
        loss = losses_through(self.body, received, batch.attention_mask, batch.labels).losses.mean()
        at_cut, *gradients = torch.autograd.grad(loss, [received, *self.parameters[1]])
        return float(loss), at_cut, _flat(gradients)

    def through_front(self, hidden: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the front's LoRA, of one at the cut."""
        return _flat(torch.autograd.grad(hidden, self.parameters[0], gradient, retain_graph=True))

    def update(self, gradient: Gradient, progress: float) -> None:
        for flat, parameters, optimizer in zip(gradient, self.parameters, self.optimizers, strict=True):
            sizes = [parameter.numel() for parameter in parameters]
            for parameter, part in zip(parameters, flat.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter).clone()
            optimizer.step(progress)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def print_errors(config: Config, parts: Parts, codecs: tuple[str, str], epochs: list[list[Batch]]) -> None:
    """Relative errors of packets and of LoRA gradients while training: median and largest of each epoch's steps."""
    loop, columns = Loop(config, parts, codecs), []
    for epoch, batches in enumerate(epochs, start=1):
        steps = [
            loop.step(batch, progress_of(config, epoch, index, len(batches)))
            for index, batch in enumerate(batches)
        ]
        column = {}
        for name in steps[-1][0]:
            values = [figures[name] for figures, _, _ in steps if name in figures]
            column[name] = f"{statistics.median(values):.3f} {max(values):.3f}"
        for index, part in enumerate(("front", "body")):
            coded = torch.stack([gradient[index] for _, gradient, _ in steps])
            exact = torch.stack([gradient[index] for _, _, gradient in steps])
            missed = coded - exact
            column[f"LoRA {part}, of epoch's sum"] = f"{relative(missed.sum(0), exact.sum(0)):.3f}"
            alike = relative(missed.sum(0), missed), relative(exact.sum(0), exact)  # 1 if independent
            column[f"  how alike: errors, exact ({part})"] = "{:.1f} {:.1f}".format(*alike)
        columns.append(column)
    print("\n(c) relative errors in coded training")
    print(f"{'epoch':40}" + "".join(f"{epoch:>13}" for epoch in range(1, len(columns) + 1)))
    for name in columns[-1]:
        print(f"{name:40}" + "".join(f"{column.get(name, ''):>13}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of coded training")
    parser.add_argument("--activations", default=ACTIVATIONS, metavar="CODEC", help="in training")
    parser.add_argument("--gradients", default=GRADIENTS, metavar="CODEC", help="in training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = setting()
    samples = load_texts(config).partition.parts[0]
    epochs = [round_batches(samples, config, CLIENT, index) for index in range(1, arguments.epochs + 1)]
    parts = load_parts(config)  # new LoRA changes nothing yet: the base model's activations
    with torch.no_grad():
        visits = [
            (
                batch,
                Ragged.from_padded(parts.front(batch.input_ids, batch.attention_mask), batch.attention_mask),
            )
            for batch in epochs[0]
        ]
    print_text(config, epochs[0], print_rates(visits))
    print_errors(config, parts, (arguments.activations, arguments.gradients), epochs)


if __name__ == "__main__":
    main()
