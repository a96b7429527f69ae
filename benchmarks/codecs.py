"""What codecs cost: megabytes per second, and time and memory beside a training step of GPT-2 small.

    python benchmarks/codecs.py [--codecs int4 "delta > int4"] [--rounds 9] [--pairs 5] [--threads 1] [--out FILE]

Batches are what a step of GPT-2 small sends: 8 samples of 512 tokens, hidden 768.

First table: megabytes of fp32 per second, against a memory copy in the same run. The batch is visited a second time,
when half of the samples have moved by 10 % of their norm and half by 30 %, so that "temporal(0.98)" skips half.
Copies, encodings and decodings take turns; the figures are medians over the rounds.

Second and third table: the presets' codecs, first visit and revisits, beside forward and backward of the model cut
after block 2, random weights, LoRA of rank 8 in all blocks, logits for the second half of each sample only. Each pair
is one step and, right after it, every visit of both packets encoded and decoded; CPU time, medians over the pairs.
Packets are synthetic, with what the codec lives by in recorded ones of E2E: directions of falling strength, tokens
that repeat in runs, a drift of which half is a map of low rank; gradients of very unequal size, like those of the visit
before.

Last table: tokens per second through the codecs of "balanced" by width (`--widths`), beside a memory copy of the batch
and one fp32 product of it with a square matrix. CPU time, medians over the pairs; all of a pair is measured in turn.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from splitcom.codecs import Along, Codec, Context, MemoryReferences, Ragged, parse, uncompressed_size
from splitcom.codecs.lattice.basis import Basis
from splitcom.models import add_lora, cut
from splitcom.settings.presets import PRESETS
from splitcom.training.loss import losses_through

CODECS = [
    "none",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "int2",
    "int4(rounding=stochastic)",
    "topk(0.1)",
    "randtopk(0.1)",
    "svd(8)",
    "fp16 > zstd",
    "int4 > zstd",
    "delta > int4",
    "temporal(0.98)",
    "temporal(0.98, per=token)",
    "temporal(0.1, metric=relative_l2)",
    "temporal(0.98) > delta > int4 > zstd",
    "temporal(0.98) > delta > int2 > zstd",
]
MEASURED = ("balanced", "quality")
FLOWS = {"activation_up": "activations", "gradient_down": "gradients"}
VISITS = ("first of all", "first, later", "second", "third")
BATCH, TOKENS, HIDDEN = 8, 512, 768
IDS = list(range(1000, 1000 + BATCH))


def visits() -> tuple[Ragged, Ragged]:
    """The same samples twice."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((BATCH,), TOKENS)
    # channels of unequal size, as in a real model
    size = torch.exp(torch.randn(HIDDEN, generator=generator))
    first = torch.randn(BATCH * TOKENS, HIDDEN, generator=generator) * size
    share = torch.tensor([0.1, 0.3]).repeat(BATCH // 2).repeat_interleave(TOKENS)
    drift = torch.randn(BATCH * TOKENS, HIDDEN, generator=generator) * size
    return Ragged(first, lengths), Ragged(first + drift * share[:, None], lengths)


def second_visit(codec: Codec, first: Ragged, second: Ragged) -> dict[str, float]:
    """Seconds to encode and decode, bytes and error of the second visit."""
    sender, receiver = MemoryReferences(), MemoryReferences()
    if codec.needs_references:
        codec.decode(codec.encode(first, IDS, Context(sender)).packet, receiver)
    return exchange(codec, second, sender, receiver, clock=time.perf_counter)


def exchange(
    codec: Codec,
    batch: Ragged,
    sender: MemoryReferences,
    receiver: MemoryReferences,
    clock: Callable[[], float],
    ids: list[int] = IDS,
) -> dict[str, float]:
    """Encode and decode a visit: seconds by `clock`, bytes and error."""
    start = clock()
    # what gradients answer is here the batch itself
    along = Along.kept(batch, ids, codec.wants_along)
    encoded = codec.encode(batch, ids, Context(sender, along=along))
    middle = clock()
    decoded = codec.decode(encoded.packet, receiver, along=Along.kept(batch, ids, codec.wants_along))
    end = clock()
    assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
    error = (decoded.batch.values - batch.values).norm() / batch.values.norm()
    return {
        "encode_s": middle - start,
        "decode_s": end - middle,
        "packet_bytes": len(encoded.packet),
        "relative_error": float(error),
    }


def run(texts: list[str], rounds: int) -> dict[str, object]:
    """Measure all codecs, taking turns."""
    first, second = visits()
    codecs = [parse(text) for text in texts]
    target = torch.empty_like(second.values)
    copy_s, measured = [], {codec: [] for codec in codecs}
    for _ in range(rounds):
        for codec in codecs:
            start = time.perf_counter()
            target.copy_(second.values)
            copy_s.append(time.perf_counter() - start)
            measured[codec].append(second_visit(codec, first, second))
    megabytes = second.values.nbytes / 1e6
    plain_bytes = uncompressed_size(IDS, second.lengths.tolist(), HIDDEN)
    rows = []
    for codec, samples in measured.items():
        median = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
        rows.append(
            {
                "codec": str(codec),
                "encode_mb_per_s": megabytes / median["encode_s"],
                "decode_mb_per_s": megabytes / median["decode_s"],
                "packet_bytes": median["packet_bytes"],
                "share_of_fp16": median["packet_bytes"] / plain_bytes,
                "relative_error": median["relative_error"],
            }
        )
    return {
        "shape": [BATCH, TOKENS, HIDDEN],
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "copy_mb_per_s": megabytes / statistics.median(copy_s),
        "codecs": rows,
    }


def activations(hidden: int = HIDDEN) -> list[torch.Tensor]:
    """Three visits of samples that are runs of 16 tokens out of 200 such phrases, as prompts made by rule are."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    spread = torch.arange(1, hidden + 1) ** -1.0  # along each direction
    directions = torch.linalg.qr(normal(hidden, hidden)).Q
    phrases = normal(200, 16, hidden) * spread
    chosen = torch.randint(200, (2 * BATCH * TOKENS // 16,), generator=generator)
    tokens = phrases[chosen].reshape(-1, hidden)
    tokens += 0.35 * normal(*tokens.shape) * spread
    visits = [tokens]
    for moved in (0.45, 0.4):  # parts of the norm
        drift = tokens @ normal(hidden, 4) @ normal(4, hidden) * spread
        rest = normal(*tokens.shape) * spread
        mixed = drift / drift.norm() + rest / rest.norm()
        visits.append(visits[-1] + moved * tokens.norm() * mixed / mixed.norm())
    return [visit @ directions for visit in visits]


def gradients(hidden: int = HIDDEN) -> list[torch.Tensor]:
    """Three visits of tokens of very unequal size, 0.82 and 0.96 correlated with the visit before."""
    generator = torch.Generator().manual_seed(1)
    shape = (2 * BATCH * TOKENS, hidden)
    spread = torch.arange(1, hidden + 1) ** -0.6
    size = torch.exp(torch.randn(shape[0], 1, generator=generator))
    directions = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator)).Q
    visits = [torch.randn(shape, generator=generator) * spread * size]
    for correlation in (0.82, 0.96):
        new = torch.randn(shape, generator=generator) * spread * size
        visits.append(correlation * visits[-1] + (1 - correlation**2) ** 0.5 * new)
    return [visit @ directions for visit in visits]


def packets(visits: list[torch.Tensor]) -> list[tuple[list[int], Ragged]]:
    """Ids and values of each of VISITS: half of the samples, the other half, then the first half again and again."""
    lengths, num_tokens = torch.full((BATCH,), TOKENS), BATCH * TOKENS
    others = [sample_id + BATCH for sample_id in IDS]
    halves = [(IDS, visits[0][:num_tokens]), (others, visits[0][num_tokens:])]
    halves += [(IDS, visit[:num_tokens]) for visit in visits[1:]]
    return [(ids, Ragged(values, lengths)) for ids, values in halves]


def training_step() -> Callable[[], None]:
    """Forward and backward of both parts, for one batch of random tokens."""
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    split = cut(GPT2LMHeadModel(config), 2)
    for part in split.parts:
        add_lora(part, rank=8)
        part.train()
    ids = torch.randint(config.vocab_size, (BATCH, TOKENS))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, : TOKENS // 2] = -100  # prompts

    def step() -> None:
        hidden = split.front(ids, mask)
        received = hidden.detach().requires_grad_()
        losses_through(split.body, received, mask, labels).losses.mean().backward()
        hidden.backward(received.grad)
        for part in split.parts:
            part.zero_grad()

    return step


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds a call takes."""
    started = time.process_time()
    call()
    return time.process_time() - started


def run_beside_steps(pairs: int) -> dict[str, object]:
    """Time and size of each visit of both packets, and the memory that remains, beside training steps."""
    step, flows = (
        training_step(),
        {"activation_up": packets(activations()), "gradient_down": packets(gradients())},
    )
    step()  # warms up
    plain_bytes = uncompressed_size(IDS, [TOKENS] * BATCH, HIDDEN)
    step_s, memory = [], {}
    samples: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(pairs):
        step_s.append(cpu_seconds(step))
        for preset, (flow, visits) in itertools.product(MEASURED, flows.items()):
            codec, name = parse(PRESETS[preset][flow]["codec"]), f"{preset}, {FLOWS[flow]}"
            sender, receiver = MemoryReferences(), MemoryReferences()
            for visit, (ids, batch) in zip(VISITS, visits, strict=True):
                figures = exchange(codec, batch, sender, receiver, clock=time.process_time, ids=ids)
                samples.setdefault((name, visit), []).append(figures)
            memory[name] = memory_of(sender)
    median_s = statistics.median(step_s)
    visits = []
    for (flow, visit), figures in samples.items():
        median = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        share = statistics.median(
            (one["encode_s"] + one["decode_s"]) / second for one, second in zip(figures, step_s, strict=True)
        )
        visits.append(
            {
                "flow": flow,
                "visit": visit,
                **median,
                "share_of_step": share,
                "share_of_fp16": median["packet_bytes"] / plain_bytes,
            }
        )
    return {"step_cpu_s": median_s, "pairs": pairs, "visits": visits, "memory": memory}


def run_widths(widths: list[int], pairs: int) -> list[dict[str, object]]:
    """CPU seconds of each visit, of a copy of the batch, and of one fp32 product with a square matrix."""
    results: list[dict[str, object]] = []
    for width in widths:
        flows = {
            "activation_up": packets(activations(width)),
            "gradient_down": packets(gradients(width)),
        }
        batch = flows["activation_up"][0][1].values
        target, square = torch.empty_like(batch), torch.randn(width, width)
        plain: dict[str, list[float]] = {"copy_s": [], "product_s": []}
        # the first call of compiled loops loads them
        codec = parse(PRESETS["balanced"]["activation_up"]["codec"])
        exchange(
            codec, flows["activation_up"][0][1], MemoryReferences(), MemoryReferences(), time.process_time
        )
        samples: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(pairs):
            plain["copy_s"].append(cpu_seconds(lambda target=target, batch=batch: target.copy_(batch)))
            plain["product_s"].append(cpu_seconds(lambda square=square, batch=batch: batch @ square))
            for flow, visits in flows.items():
                codec = parse(PRESETS["balanced"][flow]["codec"])
                sender, receiver = MemoryReferences(), MemoryReferences()
                for visit, (ids, values) in zip(VISITS, visits, strict=True):
                    figures = exchange(codec, values, sender, receiver, clock=time.process_time, ids=ids)
                    samples.setdefault((flow, visit), []).append(figures)
        rows = [
            {"flow": FLOWS[flow], "visit": visit}
            | {key: statistics.median(one[key] for one in figures) for key in figures[0]}
            for (flow, visit), figures in samples.items()
        ]
        medians = {name: statistics.median(seconds) for name, seconds in plain.items()}
        results.append({"width": width, "pairs": pairs, **medians, "visits": rows})
    return results


def print_widths(results: list[dict]) -> None:
    num_tokens = BATCH * TOKENS
    columns = ("encode tok/s", "decode tok/s", "both tok/s", "of product", "bytes", "error")
    for result in results:
        print(
            f"\nwidth {result['width']}, balanced; copy {num_tokens / result['copy_s']:.0f} tokens/s, "
            f"product {num_tokens / result['product_s']:.0f} tokens/s"
        )
        print("flow: visit".ljust(30) + "".join(name.rjust(14) for name in columns))
        for row in result["visits"]:
            both = row["encode_s"] + row["decode_s"]
            print(
                f"{row['flow']}: {row['visit']}".ljust(30)
                + f"{num_tokens / row['encode_s']:14.0f}{num_tokens / row['decode_s']:14.0f}"
                f"{num_tokens / both:14.0f}{both / result['product_s']:14.2f}"
                f"{row['packet_bytes']:14.0f}{row['relative_error']:14.4f}"
            )
        for visit in VISITS:
            rows = [row for row in result["visits"] if row["visit"] == visit]
            both = sum(row["encode_s"] + row["decode_s"] for row in rows)
            print(
                f"both flows: {visit}".ljust(30)
                + f"{num_tokens / both:42.0f}{both / result['product_s']:14.2f}"
            )


def memory_of(store: MemoryReferences) -> dict[str, float]:
    """Bytes that one side of a flow keeps, and their part of fp16 references as wide as the batch."""
    assert store.flow is not None
    num_tokens = 2 * BATCH * TOKENS
    state = sum(array.nbytes for array in store.flow.arrays.values())
    basis = store.flow.derived["basis"]
    assert isinstance(basis, Basis)
    state += basis.directions.nbytes
    return {
        "reference_bytes_per_token": store.kept_bytes / num_tokens,
        "state_bytes": state,
        "total_bytes": store.kept_bytes + state,
        "share_of_fp16": (store.kept_bytes + state) / (num_tokens * HIDDEN * 2),
        "share_of_fp16_per_token": store.kept_bytes / (num_tokens * HIDDEN * 2),
    }


def print_beside_steps(result: dict) -> None:
    print(f"\na step of GPT-2 small: {result['step_cpu_s']:.1f} s of CPU time, {result['pairs']} pairs")
    columns = ("encode s", "decode s", "of a step", "of fp16", "error")
    print("flow: visit".ljust(40) + "".join(name.rjust(12) for name in columns))
    for row in result["visits"]:
        print(
            f"{row['flow']}: {row['visit']}".ljust(40)
            + f"{row['encode_s']:12.3f}{row['decode_s']:12.3f}{row['share_of_step']:12.2%}"
            f"{row['share_of_fp16']:12.2%}{row['relative_error']:12.2g}"
        )
    for preset, visit in itertools.product(MEASURED, VISITS):
        both = sum(
            row["share_of_step"]
            for row in result["visits"]
            if row["flow"].startswith(preset) and row["visit"] == visit
        )
        print(f"{preset}, both: {visit}".ljust(40) + f"{both:36.2%}")
    columns = ("reference B/token", "state KiB", "total KiB", "of fp16", "without state")
    print("\nmemory of one side".ljust(25) + "".join(name.rjust(18) for name in columns))
    for flow, row in result["memory"].items():
        print(
            flow.ljust(24) + f"{row['reference_bytes_per_token']:18.0f}{row['state_bytes'] / 1024:18.0f}"
            f"{row['total_bytes'] / 1024:18.0f}{row['share_of_fp16']:18.3f}{row['share_of_fp16_per_token']:18.3f}"
        )


def print_table(result: dict) -> None:
    copy = result["copy_mb_per_s"]
    print(f"{result['shape']} fp32, {result['threads']} thread(s); memory copy {copy:.0f} MB/s")
    columns = ("encode MB/s", "of copy", "decode MB/s", "of copy", "of fp16", "error")
    print("codec".ljust(44) + "".join(name.rjust(13) for name in columns))
    for row in result["codecs"]:
        encode, decode = row["encode_mb_per_s"], row["decode_mb_per_s"]
        print(
            f"{row['codec']:44}{encode:13.0f}{encode / copy:13.1%}{decode:13.0f}{decode / copy:13.1%}"
            f"{row['share_of_fp16']:13.2%}{row['relative_error']:13.2g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--codecs",
        nargs="*",
        default=CODECS,
        metavar="CODEC",
        help="of the first table; none for no such table",
    )
    parser.add_argument("--rounds", type=int, default=9, help="of the first table")
    parser.add_argument("--pairs", type=int, default=5, help="of the other tables; 0 for none")
    parser.add_argument(
        "--widths",
        type=int,
        nargs="*",
        default=[768, 2048, 4096],
        help="of the last table; none for no such table",
    )
    parser.add_argument("--width-pairs", type=int, default=3, help="of the last table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {}
    if arguments.codecs:
        result |= run(arguments.codecs, arguments.rounds)
        print_table(result)
    if arguments.pairs:
        result["beside_steps"] = run_beside_steps(arguments.pairs)
        print_beside_steps(result["beside_steps"])
    if arguments.widths:
        result["widths"] = run_widths(arguments.widths, arguments.width_pairs)
        print_widths(result["widths"])
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
