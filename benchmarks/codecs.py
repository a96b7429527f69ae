"""Megabytes of fp32 per second that each codec encodes and decodes, against a memory copy in the same run.

    python benchmarks/codecs.py [--codecs int4 "delta > int4"] [--rounds 9] [--threads 1] [--out FILE]

The batch is what a step of GPT-2 small sends: 8 samples of 512 tokens, hidden 768. It is visited a second
time, when half of the samples have moved by 10 % of their norm and half by 30 %, so that "temporal(0.98)"
skips half. Copies, encodings and decodings take turns; the figures are medians over the rounds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from splitcom.codecs import Codec, MemoryReferences, Ragged, parse, uncompressed_size

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
        codec.decode(codec.encode(first, IDS, sender).packet, receiver)
    start = time.perf_counter()
    encoded = codec.encode(second, IDS, sender)
    middle = time.perf_counter()
    decoded = codec.decode(encoded.packet, receiver)
    end = time.perf_counter()
    assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
    error = (decoded.batch.values - second.values).norm() / second.values.norm()
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codecs", nargs="+", default=CODECS, metavar="CODEC")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = run(arguments.codecs, arguments.rounds)
    print_table(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
