"""Memory of a step of the body, in one pass and in several: three clients of eight samples, a random Llama.

    python benchmarks/engine_memory.py [--tokens 128] [--layers 8] [--hidden 512]

Prints, for each `engine.max_tokens_per_pass`, the peak of a step above the memory before it, of either form. Each is
measured in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines import LocalEngine
from splitcom.engines.engine import Arrival
from splitcom.models import add_lora, load_body

CLIENTS, SAMPLES = 3, 8


def arrival(seed: int, num_tokens: int, hidden: int, labelled: bool) -> Arrival:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(num_tokens // 2, num_tokens + 1, (SAMPLES,), generator=generator)
    values = torch.randn(int(lengths.sum()), hidden, generator=generator)
    decoded = Decoded(Ragged(values, lengths), list(range(SAMPLES)), torch.zeros(SAMPLES, dtype=torch.bool))
    rows = [torch.randint(0, 1000, (length,)).numpy() for length in lengths.tolist()]
    return Arrival(decoded, rows if labelled else [])


def peak_of_step(source: str, tail_blocks: int, num_tokens: int, hidden: int, limit: int | None) -> float:
    """MB above what there was before the step."""
    torch.set_num_threads(1)
    body = load_body(source, 1, tail_blocks)
    add_lora(body, 8, seed=0)
    engine = LocalEngine(body, Config().override({"engine.max_tokens_per_pass": limit}))
    arrivals = {f"client-{i}": arrival(i, num_tokens, hidden, not tail_blocks) for i in range(CLIENTS)}
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if tail_blocks:
        passage = engine.forward(arrivals, (1, 0))
        gradients = {name: (passage.out_of(name), 100) for name in arrivals}
        engine.backward(passage, gradients, 0.1)
    else:
        engine.step(arrivals, (1, 0), 0.1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = LlamaConfig(
            vocab_size=8000, hidden_size=options.hidden, intermediate_size=4 * options.hidden,
            num_hidden_layers=options.layers, num_attention_heads=8, num_key_value_heads=8,
        )  # fmt: skip
        LlamaForCausalLM(shape).save_pretrained(folder)
        processes = multiprocessing.get_context("spawn")
        for form, tail_blocks in (("standard", 0), ("U-shape", 1)):
            for limit in (None, 8 * options.tokens, 2 * options.tokens):
                with processes.Pool(1) as pool:
                    peak = pool.apply(
                        peak_of_step, (folder, tail_blocks, options.tokens, options.hidden, limit)
                    )
                print(
                    json.dumps({"form": form, "max_tokens_per_pass": limit, "peak_mb": round(peak)}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
